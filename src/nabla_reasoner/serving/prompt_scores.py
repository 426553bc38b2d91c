"""Requests and answers of a server that scores given texts: log-probabilities of their tokens, nothing is sampled.

vLLM gives them as log-probabilities of the prompt. It takes no prompt without a token after it: one is asked for, and
ignored.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..engine.sampling import Sampling
from .completions import BadAnswerError, Completion, CompletionRequest, read_choice, request_body

TOKENS_AFTER = 1  # sampled after a text that is scored, and ignored


class ScoreRequest(NamedTuple):
    """A text whose tokens are to be scored.

    Attributes:
        text: token ids, chat prompt included.
        first: index of the first token that is scored, >= 1.
    """

    text: Sequence[int]
    first: int


def score_body(model: str, request: ScoreRequest) -> dict[str, Any]:
    """Return the JSON object of a request; the settings of the ignored token are explicit too."""
    sampled = CompletionRequest(request.text, Sampling(0.0), 0, TOKENS_AFTER, [])
    return {**request_body(model, sampled), "prompt_logprobs": 1}


def read_scores(payload: bytes, request: ScoreRequest, vocab_size: int) -> Completion:
    """Return the scored tokens of a text, each with its log-probability and the most likely token in its place.

    Args:
        vocab_size: of the scoring model; ids must be below it.

    Raises:
        BadAnswerError: text that is no whole JSON object; no or several choices; log-probabilities that are missing,
            not finite, above 0, or of other tokens than the text's.
    """
    entries = read_choice(payload, request.text).get("prompt_logprobs")
    if not isinstance(entries, list) or len(entries) != len(request.text):
        count = len(entries) if isinstance(entries, list) else "no"
        raise BadAnswerError(f"{count} log-probabilities of a text of {len(request.text)} tokens")
    tokens, log_probs, most_likely = list(request.text[request.first :]), [], []
    for place, (token, entry) in enumerate(zip(tokens, entries[request.first :], strict=True), start=request.first):
        try:
            values = {int(key): float(scored["logprob"]) for key, scored in entry.items()}
            log_prob = values[token]
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadAnswerError(f"no log-probability of token {place}, or in another form than vLLM's") from error
        best = max(values, key=values.__getitem__)
        if not 0 <= best < vocab_size:
            raise BadAnswerError(f"token id {best} outside the model's vocabulary of {vocab_size:,}")
        if not all(math.isfinite(value) and value <= 0 for value in values.values()):
            raise BadAnswerError(f"no log-probabilities at token {place}: {sorted(values.values())}")
        log_probs.append(log_prob)
        most_likely.append(best)
    return Completion(tokens, log_probs, most_likely)
