"""Requests and answers of a server with OpenAI's completion interface (vLLM): token ids in, token ids out.

Nothing is left to the server: every setting of the distribution is in the request, and every id that comes back is
checked against what was asked. The texts that the server writes are never read.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..engine.sampling import Sampling
from ..json_text import parse_json

TOKEN = "token_id:"  # how vLLM writes a token if `return_tokens_as_token_ids` is set


class BadAnswerError(Exception):
    """An answer that does not hold what was asked for; asking again may help."""


class CompletionRequest(NamedTuple):
    """A continuation to be sampled.

    Attributes:
        prompt: token ids before it, chat prompt included.
        sampling: distribution of each token.
        seed: of the server's generator for this request, in [0, 2**53): JSON holds it exactly.
        max_tokens: length limit, >= 1.
        stops: token ids that end it; the one that was sampled is part of it.
        log_probs: whether log-probabilities are wanted.
    """

    prompt: Sequence[int]
    sampling: Sampling
    seed: int
    max_tokens: int
    stops: Sequence[int]
    log_probs: bool = False


class Completion(NamedTuple):
    """A sampled continuation.

    Attributes:
        token_ids: at least one token; a stop token can only be the last.
        log_probs: log-probability of each token in nats, before temperature and cuts; empty unless requested.
        most_likely: id of the most likely token at each position; empty unless requested.
    """

    token_ids: list[int]
    log_probs: list[float]
    most_likely: list[int]


def request_body(model: str, request: CompletionRequest) -> dict[str, Any]:
    """Return the JSON object of a request; what is left out here would follow the model's own generation settings."""
    return {
        "model": model,
        "prompt": list(request.prompt),
        "n": 1,
        "stream": False,
        "max_tokens": request.max_tokens,
        "min_tokens": 0,
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "top_k": request.sampling.top_k or -1,  # -1 keeps every token in all versions of vLLM
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": request.seed,
        "ignore_eos": True,  # of the server's own settings; the policy's end tokens are among the stops
        "stop_token_ids": list(request.stops),
        "logprobs": 1 if request.log_probs else None,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def read_completion(payload: bytes, request: CompletionRequest, vocab_size: int) -> Completion:
    """Return the continuation in an answer.

    Args:
        vocab_size: of the policy; ids must be below it.

    Raises:
        BadAnswerError: text that is no whole JSON object; no or several choices; ids that are missing, out of range,
            or end otherwise than asked; log-probabilities that do not belong to the ids.
    """
    choice = read_choice(payload, request.prompt)
    ids = choice.get("token_ids")
    _check_ids(ids, choice.get("finish_reason"), request, vocab_size)
    if not request.log_probs:
        return Completion(ids, [], [])
    return Completion(ids, *_read_log_probs(choice.get("logprobs"), ids, vocab_size))


def read_choice(payload: bytes, prompt: Sequence[int]) -> dict[str, Any]:
    """Return the one choice of an answer.

    Args:
        prompt: token ids that were sent.

    Raises:
        BadAnswerError: text that is no whole JSON object; no or several choices; another prompt than was sent.
    """
    try:
        answer = parse_json(payload)
    except ValueError as error:
        raise BadAnswerError(f"{len(payload)} bytes that are no whole JSON text") from error
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        count = len(choices) if isinstance(choices, list) else "no list of"
        raise BadAnswerError(f"{count} choices where one was asked for")
    (choice,) = choices
    if choice.get("prompt_token_ids") not in (None, list(prompt)):
        raise BadAnswerError("a prompt that is not the one that was sent")
    return choice


def _check_ids(ids: Any, reason: Any, request: CompletionRequest, vocab_size: int) -> None:
    """Raise BadAnswerError unless ids are a continuation as asked for."""
    if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
        raise BadAnswerError("no token_ids (vLLM 0.10.2 or newer sends them)")
    if (wrong := next((token for token in ids if not 0 <= token < vocab_size), None)) is not None:
        raise BadAnswerError(f"token id {wrong} outside the policy's vocabulary of {vocab_size:,}")
    stopped = [token in request.stops for token in ids]
    if any(stopped[:-1]) or len(ids) > request.max_tokens:
        raise BadAnswerError(f"{len(ids)} tokens that go on after a stop token or max_tokens={request.max_tokens}")
    if not (stopped[-1] or len(ids) == request.max_tokens) or reason not in ("stop", "length"):
        raise BadAnswerError(f"{len(ids)} tokens that end at neither a stop token nor max_tokens (reason {reason!r})")


def _read_log_probs(part: Any, ids: list[int], vocab_size: int) -> tuple[list[float], list[int]]:
    """Return log-probabilities of the ids, and the most likely id at each position; raises as `read_completion`."""
    try:
        tokens, values, tops = part["tokens"], part["token_logprobs"], part["top_logprobs"]
        sampled = [_token_id(token) for token in tokens]
        best = [_token_id(max(top, key=top.__getitem__)) for top in tops]
        log_probs = [float(value) for value in values]
    except (AttributeError, TypeError, KeyError, ValueError, OverflowError) as error:
        raise BadAnswerError("no log-probabilities, or in another form than vLLM's") from error
    if sampled != ids or not len(ids) == len(log_probs) == len(best):
        raise BadAnswerError("log-probabilities of other tokens than the ids")
    if (wrong := next((value for value in log_probs if not -math.inf < value <= 0), None)) is not None:
        raise BadAnswerError(f"a log-probability of {wrong}")
    if (wrong := next((token for token in best if not 0 <= token < vocab_size), None)) is not None:
        raise BadAnswerError(f"most likely token {wrong} outside the policy's vocabulary of {vocab_size:,}")
    return log_probs, best


def _token_id(token: str) -> int:
    prefix, number = token[: len(TOKEN)], token[len(TOKEN) :]
    if prefix != TOKEN:
        raise ValueError(token)
    return int(number)
