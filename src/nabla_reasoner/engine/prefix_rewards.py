"""Rewards r(y_≤l|x) of prefixes of a response that differ in their last token."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .. import cost
from ..models.language_models import RewardModel
from . import batching
from .cached_forward import read
from .numerics import NonFiniteError, at_least_float32, first_non_finite
from .sequences import ModelCaches, likelihood_models, token_as_read
from .stored_prefixes import Slots, fill, predict


class PrefixRequest(NamedTuple):
    """A prefix of a response and the tokens that may follow it.

    Attributes:
        slot: cache slot.
        prompt: chat prompt by the reward model's template.
        prefix: response tokens y_<l.
        tokens: candidates for y_l, at least one.
        hidden: for a likelihood reward, hidden states of its models that predict y_l, if they are known.
    """

    slot: int
    prompt: list[int]
    prefix: list[int]
    tokens: list[int]
    hidden: Sequence[Float[Tensor, " _"]] = ()


@torch.no_grad()
def candidate_prefix_rewards(
    reward: RewardModel, requests: Sequence[PrefixRequest], caches: ModelCaches
) -> tuple[list[list[float]], list[cost.Cost]]:
    """Return r(y_≤l|x) of each candidate of each request, and the cost of each request.

    A score head reads every candidate, one token each after the cached prefix, and no closing tokens. A likelihood
    reward reads none: one hidden state gives the log-probability of all.

    Args:
        caches: what was read before; prefixes read now are stored there too, candidates are not.
    """

    def batch_rewards(indices: list[int]) -> list[tuple[list[float], cost.Reads]]:
        batch = [requests[i] for i in indices]
        return (
            _score_candidates(reward, batch, caches)
            if reward.has_score_head
            else _log_likelihoods(reward, batch, caches)
        )

    lengths = [(len(r.prompt) + len(r.prefix) + 1) * len(r.tokens) for r in requests]
    slots = [request.slot for request in requests]
    results = batching.run(batch_rewards, lengths, reward.batch_limits, caches.all, slots)
    return [values for values, _ in results], [
        cost.scoring(reward.size, reads) if reads else cost.Cost(flops=cost.forward_flops(reward.size, reads))
        for _, reads in results
    ]


def _score_candidates(
    reward: RewardModel, batch: Sequence[PrefixRequest], caches: ModelCaches
) -> list[tuple[list[float], cost.Reads]]:
    """Return the score at each candidate of each request, and what was read."""
    texts = [request.prompt + request.prefix for request in batch]
    store = Slots(caches.scorer, [request.slot for request in batch])
    filled = fill(reward, texts, [len(text) for text in texts], store, allowed=0)
    rows = [(i, token) for i, request in enumerate(batch) for token in request.tokens]
    extended = [texts[i] + [token_as_read(token, reward)] for i, token in rows]
    limits = [len(texts[i]) for i, _ in rows]
    reading = read(reward, extended, limits, store.cache, [store.slots[i] for i, _ in rows])
    scores = at_least_float32(reward.head_scores(reading.last()))
    if (row := first_non_finite(scores)) is not None:
        raise NonFiniteError(f"the score of {reward.name} at the last of {len(extended[row])} tokens")
    values: list[list[float]] = [[] for _ in batch]
    for (i, _), score, reads in zip(rows, scores.tolist(), reading.reads, strict=True):
        values[i].append(score)
        filled[i] += reads.with_outputs(1)
    return list(zip(values, filled, strict=True))


def _log_likelihoods(
    reward: RewardModel, batch: Sequence[PrefixRequest], caches: ModelCaches
) -> list[tuple[list[float], cost.Reads]]:
    """Return the log-likelihood of each request's prefix with each candidate, and what was read."""
    texts = [request.prompt + request.prefix + [token_as_read(request.tokens[0], reward)] for request in batch]
    values = [[0.0] * len(request.tokens) for request in batch]
    reads = [cost.Reads()] * len(batch)
    for number, (model, sign, cache) in enumerate(likelihood_models(reward, caches)):
        predicted = predict(
            model,
            texts,
            [len(request.prompt) for request in batch],
            [len(text) - 1 for text in texts],
            Slots(cache, [request.slot for request in batch]),
            [request.hidden[number][None] if request.hidden else None for request in batch],
        )
        log_probabilities = torch.log_softmax(at_least_float32(model.logits(torch.cat(predicted.hidden))), -1)
        places = [(i, k) for i, request in enumerate(batch) for k in range(len(request.tokens))]
        token_ids = [token_as_read(batch[i].tokens[k], reward) for i, k in places]
        candidate_log_probs = log_probabilities[[i for i, _ in places], token_ids]
        if (place := first_non_finite(candidate_log_probs)) is not None:
            index = len(texts[places[place][0]]) - 1
            raise NonFiniteError(f"the log-probability by {model.name} of token {index} of its text")
        for (i, k), value in zip(places, candidate_log_probs.tolist(), strict=True):
            values[i][k] += sign * (predicted.before[i] + value)
        if number == 0:
            reads = [part.with_outputs(part.outputs + 1) for part in predicted.reads]  # y_l is predicted once more
    return list(zip(values, reads, strict=True))
