"""Rewards r(y|x) of whole responses: batched forward passes of the reward model."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .. import cost
from ..models.language_models import RewardModel
from . import batching
from .cached_forward import read
from .kv_cache import shared_slots
from .numerics import NonFiniteError, at_least_float32, first_non_finite, likelihood
from .sequences import ModelCaches, end_response, likelihood_models
from .shared_prefixes import plan


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
    pools: Sequence[int] | None = None,
    close: bool = True,
) -> tuple[list[float], list[cost.Cost]]:
    """Return r(y|x) of each response, and the cost of each.

    Without `caches`, the responses of a pool are read at the least cost: equal ones once, and a prefix that several
    share once. The first of them in order pays; an equal one costs nothing. Another engine (`reward.text_scores`) reads
    every text as a whole; caches are left as they are then.

    Args:
        prompts: chat prompts by the reward model's template.
        responses: response ids, non-empty.
        caches: what was read before; all that is read now is stored there too.
        slots: cache slot of each response.
        pools: without `caches`, the pool of each response, one for each prompt by default. Pools share nothing, so that
            a problem's cost does not depend on the others of its batch.
        close: append the end token to a response that has none. Otherwise it is scored as the prefix of a longer
            one: by its log-likelihood so far, or by a classifier's score at its last token.

    Raises:
        NonFiniteError: a score or log-probability that is NaN or infinite.
    """
    requests = [_request(reward, p, r, close=close) for p, r in zip(prompts, responses, strict=True)]
    if caches is not None and reward.text_scores is None:
        scored = _score(reward, requests, caches, slots)
        return [value for value, _ in scored], [cost.scoring(reward.size, reads) for _, reads in scored]
    if caches is not None:
        pools = slots
    elif pools is None:
        pools = shared_slots([request.prompt for request in requests])
    keys = [(pool, tuple(request.text)) for pool, request in zip(pools, requests, strict=True)]
    firsts = {key: index for index, key in reversed(list(enumerate(keys)))}
    distinct = {index: requests[index] for index in sorted(firsts.values())}
    scored = _score_pools(reward, distinct, pools) if reward.text_scores is None else _score_elsewhere(reward, distinct)
    return [scored[firsts[key]][0] for key in keys], [
        cost.scoring(reward.size, scored[index][1]) if index in scored else cost.Cost() for index in range(len(keys))
    ]


def _score_elsewhere(reward: RewardModel, requests: dict[int, _Request]) -> dict[int, tuple[float, cost.Reads]]:
    """Let the reward's other engine score texts; arguments and result as of `_score_pools`."""
    texts, firsts = [r.text for r in requests.values()], [len(r.prompt) for r in requests.values()]
    values = reward.text_scores(reward, texts, firsts)
    reads = [cost.one_pass(0, len(text), len(text) - first) for text, first in zip(texts, firsts, strict=True)]
    return dict(zip(requests, zip(values, reads, strict=True), strict=True))


def _score(
    reward: RewardModel,
    requests: list[_Request],
    caches: ModelCaches | None,
    slots: Sequence[int],
    stored: Sequence[int] | None = None,
) -> list[tuple[float, cost.Reads]]:
    """Return the reward of each response, and what was read for it.

    Args:
        stored: number of leading tokens of each text that branching caches keep; None keeps everything.
    """

    def score(indices: list[int]) -> list[tuple[float, cost.Reads]]:
        batch_slots = [slots[i] for i in indices] if caches is not None else []
        scored = _score_batch(reward, [requests[i] for i in indices], caches, batch_slots, store=caches is not None)
        for i in indices if stored is not None else ():
            for cache in (caches.scorer, caches.reference):
                cache.cut(slots[i], stored[i])
        return scored

    return batching.run(score, [len(request.text) for request in requests], reward.batch_limits)


def _score_pools(
    reward: RewardModel, requests: dict[int, _Request], pools: Sequence[int]
) -> dict[int, tuple[float, cost.Reads]]:
    """Score distinct texts, reading each prefix once that several of a pool share; arguments as in `rewards`."""
    members: dict[int, list[int]] = {}
    for index in requests:
        members.setdefault(pools[index], []).append(index)
    if len(members) == len(requests):
        return dict(zip(requests, _score(reward, list(requests.values()), None, ()), strict=True))
    plans = {}
    for pool in members.values():
        for index, planned in zip(pool, plan([requests[i].text for i in pool]), strict=True):
            plans[index] = planned._replace(source=None if planned.source is None else pool[planned.source])
    caches, results = ModelCaches.branching(), {}
    for wave in range(max(planned.wave for planned in plans.values()) + 1):
        indices = [index for index in requests if plans[index].wave == wave]
        for index in indices if wave else ():
            for cache in (caches.scorer, caches.reference):
                cache.fork(plans[index].source, index, plans[index].shared)
        stored = [max(plans[index].stored, plans[index].shared) for index in indices]  # shared rows stay the source's
        scored = _score(reward, [requests[index] for index in indices], caches, indices, stored)
        results.update(zip(indices, scored, strict=True))
    return results


def _request(reward: RewardModel, prompt: Sequence[int], response: Sequence[int], *, close: bool) -> _Request:
    if close or response[-1] in reward.replaced_ends:
        response = end_response(list(response), reward)
    suffix = reward.suffix_ids if response[-1] in reward.eos_ids else []  # follows an end-of-turn token only
    return _Request(list(prompt), [*prompt, *response, *suffix])


def read_prompts(reward: RewardModel, prompts: list[list[int]], caches: ModelCaches) -> list[cost.Cost]:
    """Read every prompt once, the i-th into slot i, unless another engine scores; return the cost of each."""
    if reward.text_scores is not None:
        return [cost.Cost() for _ in prompts]
    models = [(model, cache) for model, _, cache in likelihood_models(reward, caches)] or [(reward, caches.scorer)]

    def fill(slots: list[int]) -> list[None]:
        batch = [prompts[slot] for slot in slots]
        for model, cache in models:
            reading = read(model, batch, [len(prompt) - 1 for prompt in batch], cache, slots)
            cache.put(slots, batch, reading.starts, reading.cache)
        return [None] * len(slots)

    batching.run(fill, [len(prompt) for prompt in prompts], reward.batch_limits)
    return [cost.scoring(reward.size, cost.one_pass(0, len(prompt))) for prompt in prompts]


def _score_batch(
    reward: RewardModel, batch: list[_Request], caches: ModelCaches | None, slots: list[int], *, store: bool
) -> list[tuple[float, cost.Reads]]:
    """Return the reward of each response, and what was read for it."""
    texts = [request.text for request in batch]
    if reward.has_score_head:
        cache = caches and caches.scorer
        reading = read(reward, texts, [len(text) - 1 for text in texts], cache, slots)
        if store:
            cache.put(slots, texts, reading.starts, reading.cache)
        scores = at_least_float32(reward.head_scores(reading.last()))
        if (row := first_non_finite(scores)) is not None:
            raise NonFiniteError(f"the score of {reward.name} at the last of {len(texts[row])} tokens")
        return list(zip(scores.tolist(), (part.with_outputs(1) for part in reading.reads), strict=True))
    firsts = [len(request.prompt) for request in batch]
    totals, reads = [0.0] * len(batch), []
    for model, sign, cache in likelihood_models(reward, caches):
        reading = read(model, texts, [len(text) - 2 for text in texts], cache, slots, overlap=1)
        spans = reading.spans(firsts)
        values, _ = likelihood(model, *reading.predictors(spans))
        parts = values.split([right - left for left, right in spans])
        for i, (part, first, (left, _)) in enumerate(zip(parts, firsts, spans, strict=True)):
            if (row := first_non_finite(part)) is not None:
                place = f"token {left - first + row} of the response"
                raise NonFiniteError(f"the log-probability by {model.name} of {place}")
            before = cache.log_likelihood(slots[i], first, left) if cache is not None else 0.0
            totals[i] += sign * (before + part.sum().item())
        if store:
            cache.put(slots, texts, reading.starts, reading.cache)
            cache.put_log_probs(slots, [left for left, _ in spans], parts)
        reads = [part.with_outputs(right - left) for part, (left, right) in zip(reading.reads, spans, strict=True)]
    return list(zip(totals, reads, strict=True))
