"""Rewards r(y|x) of whole responses: batched forward passes of the reward model."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .. import cost
from ..models.language_models import RewardModel
from . import batching
from .cached_forward import read
from .kv_cache import shared_slots
from .numerics import at_least_float32, likelihood
from .sequences import ModelCaches, end_response, likelihood_models


class _Request(NamedTuple):
    """A response to be scored: its prompt, and all that the reward model reads, prompt included."""

    prompt: list[int]
    text: list[int]


@torch.no_grad()
def rewards(
    reward: RewardModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    caches: ModelCaches | None = None,
    slots: Sequence[int] = (),
    close: bool = True,
) -> tuple[list[float], list[cost.Cost]]:
    """Return r(y|x) of each response, and the cost of each.

    Args:
        prompts: chat prompts by the reward model's template; without `caches`, equal ones are read once.
        responses: response ids, non-empty.
        caches: what was read before; all that is read now is stored there too.
        slots: cache slot of each response.
        close: append the end token to a response that has none. Otherwise it is scored as the beginning of a longer
            one: by its log-likelihood so far, or by a classifier's score at its last token.
    """
    requests = [_request(reward, p, r, close=close) for p, r in zip(prompts, responses, strict=True)]
    store = caches is not None
    prompt_tokens = [0] * len(requests)
    if caches is None:
        slots = shared_slots([request.prompt for request in requests])
        firsts = [slots.index(slot) for slot in sorted(set(slots))]
        if len(firsts) < len(requests):
            caches = ModelCaches(len(firsts))
            read_prompts(reward, [requests[i].prompt for i in firsts], caches)
            for i in firsts:  # the first response to a prompt pays for it
                prompt_tokens[i] = len(requests[i].prompt)

    def score(indices: list[int]) -> list[tuple[float, int]]:
        batch_slots = [slots[i] for i in indices] if caches is not None else []
        return _score_batch(reward, [requests[i] for i in indices], caches, batch_slots, store=store)

    scored = batching.run(score, [len(request.text) for request in requests], reward.batch_limits)
    costs = [
        cost.scoring(reward.parameters, tokens + extra)
        for (_, tokens), extra in zip(scored, prompt_tokens, strict=True)
    ]
    return [value for value, _ in scored], costs


def _request(reward: RewardModel, prompt: Sequence[int], response: Sequence[int], *, close: bool) -> _Request:
    response = end_response(list(response), reward) if close else response
    suffix = reward.suffix_ids if response[-1] in reward.eos_ids else []  # follows an end-of-turn token only
    return _Request(list(prompt), [*prompt, *response, *suffix])


def read_prompts(reward: RewardModel, prompts: list[list[int]], caches: ModelCaches) -> None:
    """Read every prompt once, the i-th into slot i."""
    models = [(model, cache) for model, _, cache in likelihood_models(reward, caches)] or [(reward, caches.scorer)]

    def fill(slots: list[int]) -> list[None]:
        batch = [prompts[slot] for slot in slots]
        for model, cache in models:
            reading = read(model, batch, [len(prompt) - 1 for prompt in batch], cache, slots)
            cache.put(slots, batch, reading.starts, reading.cache)
        return [None] * len(slots)

    batching.run(fill, [len(prompt) for prompt in prompts], reward.batch_limits)


def _score_batch(
    reward: RewardModel, batch: list[_Request], caches: ModelCaches | None, slots: list[int], *, store: bool
) -> list[tuple[float, int]]:
    """Return the reward of each response, and the number of tokens read for it."""
    texts = [request.text for request in batch]
    if reward.has_score_head:
        cache = caches and caches.scorer
        reading = read(reward, texts, [len(text) - 1 for text in texts], cache, slots)
        if store:
            cache.put(slots, texts, reading.starts, reading.cache)
        values = at_least_float32(reward.head_scores(reading.last())).tolist()
        return list(zip(values, reading.lengths, strict=True))
    firsts = [len(request.prompt) for request in batch]
    totals, lengths = [0.0] * len(batch), []
    for model, sign, cache in likelihood_models(reward, caches):
        reading = read(model, texts, [len(text) - 2 for text in texts], cache, slots, overlap=1)
        spans = reading.spans(firsts)
        values, _ = likelihood(model, *reading.predictors(spans))
        parts = values.split([right - left for left, right in spans])
        for i, (part, first, (left, _)) in enumerate(zip(parts, firsts, spans, strict=True)):
            before = cache.log_likelihood(slots[i], first, left) if cache is not None else 0.0
            totals[i] += sign * (before + part.sum().item())
        if store:
            cache.put(slots, texts, reading.starts, reading.cache)
            cache.put_log_probs(slots, [left for left, _ in spans], parts)
        lengths = reading.lengths
    return list(zip(totals, lengths, strict=True))
