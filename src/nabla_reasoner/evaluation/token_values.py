"""What a reward model says at every token of a response.

A reward and all its forms are weighted sums of one number per token, the token's value: a classifier's score at the
token, or a token's log-probability under each language model of a likelihood reward. The rewards of prefixes of a
response, r(y_≤l|x), are the scores themselves, or the running sums of the log-probabilities.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..engine import batching, numerics
from ..engine.cached_forward import Reading, read
from ..engine.sequences import likelihood_models, token_as_read
from ..models.language_models import LanguageModel, RewardModel


def scorers(reward: RewardModel) -> list[tuple[LanguageModel, float]]:
    """Return the models whose token values make up the reward, each with its sign."""
    if reward.strong is None:
        return [(reward, 1.0)]
    return [(model, sign) for model, sign, _ in likelihood_models(reward, None)]


def scores(reward: RewardModel, reading: Reading, firsts: Sequence[int]) -> list[Float[Tensor, " _"]]:
    """Return a classifier's score at each token of each text, from token `first` or the first one read."""
    lefts = [max(first, start) for first, start in zip(firsts, reading.starts, strict=True)]
    rows = [
        reading.hidden[i, left - start : length]
        for i, (left, start, length) in enumerate(zip(lefts, reading.starts, reading.lengths, strict=True))
    ]
    values = numerics.at_least_float32(reward.head_scores(torch.cat(rows)))
    return list(values.split([len(row) for row in rows]))


@torch.no_grad()
def values(model: LanguageModel, reading: Reading, firsts: Sequence[int]) -> list[Float[Tensor, " _"]]:
    """Return the value of each token of each text, from token `first` or the first one determined by this pass."""
    if isinstance(model, RewardModel):
        return scores(model, reading, firsts)
    spans = reading.spans(firsts)
    log_probabilities, _ = numerics.likelihood(model, *reading.predictors(spans))
    return list(log_probabilities.split([right - left for left, right in spans]))


def prefix_rewards(
    reward: RewardModel, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> list[Float[np.ndarray, " _"]]:
    """Return r(y_≤l|x) at every token l of each response; a policy's end token is read as the reward model's own."""
    texts = [
        [*prompt, *(token_as_read(token, reward) for token in response)]
        for prompt, response in zip(prompts, responses, strict=True)
    ]

    def run(indices: list[int]) -> list[Float[np.ndarray, " _"]]:
        batch, firsts = [texts[i] for i in indices], [len(prompts[i]) for i in indices]
        totals = [np.zeros(len(responses[i])) for i in indices]
        for model, sign in scorers(reward):
            reading = read(model, batch, [0] * len(batch))
            for total, row in zip(totals, values(model, reading, firsts), strict=True):
                total += sign * row.double().cpu().numpy()
        return totals if reward.strong is None else [np.cumsum(total) for total in totals]

    return batching.run(run, [len(text) for text in texts], reward.batch_limits)
