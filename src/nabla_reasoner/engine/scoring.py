"""r(y|x) of whole responses: forward passes of the reward model, many at once."""

from collections.abc import Sequence

import torch

from .. import cost
from ..models.language_models import RewardModel
from . import batching
from .cached_forward import read
from .numerics import at_least_float32, likelihood
from .sequences import ModelCaches, TokenSequence, likelihood_models, with_end_token


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
    """r(y|x) of responses, forward passes only, with what each cost.

    Args:
        prompts: chat prompts by the reward model's template; without `caches`, equal ones are read once.
        responses: response ids, non-empty; one without an end-of-turn token is closed by one.
        caches: what was read before, and where all that is read now is kept.
        slots: a slot per response.
        close: False scores a response without an end-of-turn token as it stands, as the beginning of a longer one: its
            log-likelihood so far, or a classifier's score at its last token.
    """
    batch = [TokenSequence([], list(p), [], list(r)) for p, r in zip(prompts, responses, strict=True)]
    if close:
        batch = [with_end_token(sequence, reward) for sequence in batch]
    lengths = [len(_text(sequence, reward)) for sequence in batch]
    shared, keep, opening = caches, caches is not None, [0] * len(batch)
    distinct = {prompt: slot for slot, prompt in enumerate(dict.fromkeys(tuple(s.reward_prompt) for s in batch))}
    if caches is None and len(distinct) < len(batch):
        shared, slots = ModelCaches(len(distinct)), [distinct[tuple(s.reward_prompt)] for s in batch]
        first = {slot: i for i, slot in reversed(list(enumerate(slots)))}  # pays for the prompt
        for prompt, slot in distinct.items():
            opening[first[slot]] = len(prompt)
        read_prompts(reward, [list(prompt) for prompt in distinct], shared)

    def score(chosen: list[int]) -> list[tuple[float, int]]:
        own = [slots[i] for i in chosen] if shared is not None else []
        return _reward_values(reward, [batch[i] for i in chosen], shared, own, keep)

    scored = batching.run(score, lengths)
    spent = [cost.scoring(reward.parameters, n + more) for (_, n), more in zip(scored, opening, strict=True)]
    return [value for value, _ in scored], spent


def _text(sequence: TokenSequence, reward: RewardModel) -> list[int]:
    """What the reward model reads; the template's closing tokens stand behind an end-of-turn token only."""
    closed = sequence.rollout[-1] in reward.eos_ids
    return sequence.reward_prompt + sequence.rollout + (reward.suffix_ids if closed else [])


def read_prompts(reward: RewardModel, prompts: list[list[int]], caches: ModelCaches) -> None:
    """Read every prompt once, the i-th into slot i."""
    models = [(model, cache) for model, _, cache in likelihood_models(reward, caches)] or [(reward, caches.scorer)]

    def fill(chosen: list[int]) -> list[None]:
        own = [prompts[i] for i in chosen]
        for model, cache in models:
            reading = read(model, own, [len(prompt) - 1 for prompt in own], cache, chosen)
            cache.put(chosen, own, reading.starts, reading.cache)
        return [None] * len(chosen)

    batching.run(fill, [len(prompt) for prompt in prompts])


def _reward_values(
    reward: RewardModel, batch: list[TokenSequence], caches: ModelCaches | None, slots: list[int], keep: bool
) -> list[tuple[float, int]]:
    """Reward of each response, and the number of tokens that were read for it."""
    texts = [_text(sequence, reward) for sequence in batch]
    if reward.kind == "classifier":
        cache = caches and caches.scorer
        reading = read(reward, texts, [len(text) - 1 for text in texts], cache, slots)
        if keep:
            cache.put(slots, texts, reading.starts, reading.cache)
        values = at_least_float32(reward.head_scores(reading.last())).tolist()
        return list(zip(values, reading.lengths, strict=True))
    firsts, totals, read_now = [len(s.reward_prompt) for s in batch], [0.0] * len(batch), []
    for model, sign, cache in likelihood_models(reward, caches):
        reading = read(model, texts, [len(text) - 2 for text in texts], cache, slots, overlap=1)
        spans = reading.spans(firsts)
        values, _ = likelihood(model, *reading.predictors(spans))
        parts = values.split([right - left for left, right in spans])
        for i, (part, first, (left, _)) in enumerate(zip(parts, firsts, spans, strict=True)):
            before = cache.known(slots[i], first, left) if cache is not None else 0.0
            totals[i] += sign * (before + part.sum().item())
        if keep:
            cache.put(slots, texts, reading.starts, reading.cache)
            cache.note(slots, [left for left, _ in spans], parts)
        read_now = reading.lengths
    return list(zip(totals, read_now, strict=True))
