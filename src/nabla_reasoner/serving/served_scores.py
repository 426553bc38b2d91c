"""Whole responses scored by a server that runs a likelihood reward's own model.

The model here reads every `MEASURED_EVERY`-th text too, and all texts of a check before the run. These tell how far the
two engines differ. Gradients, and rewards of single tokens, are always those of the model here.
"""

from collections.abc import Sequence
from typing import Any

from ..models.language_models import RewardModel
from . import teacher_forcing
from .client import Client, ServerError
from .completions import Completion
from .identity import BOUNDS, TEST_TOKENS
from .mismatch import ComparedServer, compare, joined
from .prompt_scores import ScoreRequest
from .served import MEASURED_EVERY
from .teacher_forcing import ForcedPredictions


class ServedScores(ComparedServer):
    """A server's log-likelihoods of responses."""

    def __call__(self, reward: RewardModel, texts: Sequence[list[int]], firsts: Sequence[int]) -> list[float]:
        """Return the log-likelihood of each text's tokens from index `first` on, in nats.

        Raises:
            ServerError: a request that failed for good.
            NonFiniteError: logits of the model here that are NaN or infinite.
        """
        requests = [ScoreRequest(text, first) for text, first in zip(texts, firsts, strict=True)]
        scored = self.client.score(requests, reward.strong.vocab_size)
        measured = slice(None, None, MEASURED_EVERY)
        self.add_differences(scored[measured], _own(reward, requests[measured]), BOUNDS[reward.strong.model.dtype])
        return [sum(completion.log_probs) for completion in scored]


def check_scores(client: Client, reward: RewardModel, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Compare a server's log-probabilities of test responses with those of the reward's own model.

    The responses are the last tokens of the prompts: what matters is that both engines read the same.

    Args:
        prompts: token ids of a few chat prompts by the reward's template.

    Returns:
        What was measured, for the record.

    Raises:
        ValueError: the engines disagree at a token, or the server does not answer; the message has both scores.
    """
    bound = BOUNDS[reward.strong.model.dtype]
    requests = [ScoreRequest([*prompt, *prompt[-TEST_TOKENS:]], len(prompt)) for prompt in prompts]
    try:
        scored = client.score(requests, reward.strong.vocab_size)
    except ServerError as error:
        raise ValueError(f"a test response must be scored by the server of reward_server; {error}.") from error
    forced = _own(reward, requests)
    for completion, plain in zip(scored, forced, strict=True):
        _check_score(client, reward, completion, plain.log_probs.tolist(), bound)
    differences = joined(compare(completion, plain) for completion, plain in zip(scored, forced, strict=True))
    return {"bound": bound, **differences.summary()}


def _check_score(client: Client, reward: RewardModel, scored: Completion, plain: list[float], bound: float) -> None:
    """Raise ValueError if a token's log-probability differs by more than the bound, in nats."""
    place = max(range(len(plain)), key=lambda i: abs(scored.log_probs[i] - plain[i]))
    theirs, ours = scored.log_probs[place], plain[place]
    if abs(theirs - ours) > bound:
        raise ValueError(
            f"wrong model behind {client.url}: a test response has log-likelihood {sum(scored.log_probs):.4f} there "
            f"and {sum(plain):.4f} under {reward.name}; its token {place} has {theirs:.4f} and {ours:.4f}, which must "
            f"agree up to {bound}. Serve {reward.name} in {reward.strong.model.dtype} without quantisation."
        )


def _own(reward: RewardModel, requests: Sequence[ScoreRequest]) -> list[ForcedPredictions]:
    """Return the predictions of the scored tokens by the model here."""
    return teacher_forcing.predict(
        reward.strong,
        [request.text[: request.first] for request in requests],
        [request.text[request.first :] for request in requests],
    )
