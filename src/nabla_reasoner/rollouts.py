"""Batched, seeded sampling from a policy through a key-value cache.

Every sequence carries its own stream of uniform numbers, keyed by what it is for and not by where it stands in a batch,
and a token is drawn by inverting the cumulative distribution at one of them. Samples therefore do not depend on batch
size, order or number of workers (up to float noise in the logits).
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from .models import Policy

MAX_BATCH = 512  # sequences decoded at once: larger batches only move more cache per step


class Sampling(NamedTuple):
    """How a token is drawn; every engine is given all of it.

    Attributes:
        temperature: >= 0; 0 takes the most likely token.
        top_p: in (0, 1]; nucleus mass kept.
        top_k: >= 0; number of tokens kept, 0 keeps all.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0

    def check(self) -> "Sampling":
        """Raise ValueError on a value out of range; returns itself."""
        if self.temperature < 0:
            raise ValueError(f"temperature must be >= 0; got {self.temperature}. Use 0 for greedy decoding.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1]; got {self.top_p}. Use 1 to keep every token.")
        if self.top_k < 0:
            raise ValueError(f"top_k must be >= 0; got {self.top_k}. Use 0 to keep every token.")
        return self


class Rollout(NamedTuple):
    """A sampled continuation.

    Attributes:
        token_ids: drawn tokens, the end-of-response token included when it was drawn.
        finished: whether it ended by itself and not at the length limit.
    """

    token_ids: list[int]
    finished: bool


def uniforms(seed: int, problem_id: str, repeat: int, stage: str, count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) of the stream keyed by (seed, problem, repeat, stage); a longer request for the
    same key starts with the same numbers."""
    digest = hashlib.sha256(f"{seed}|{repeat}|{stage}|{problem_id}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"))).random(count)


def filtered_probabilities(logits: Float[Tensor, "batch vocab"], sampling: Sampling) -> Float[Tensor, "batch vocab"]:
    """The distribution tokens are drawn from: softmax(z/τ) cut to top_k, then to the nucleus, and renormalised.

    The most likely token always stays. At temperature 0 all mass is on the most likely token.
    """
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    probabilities = torch.softmax(logits / sampling.temperature, -1)
    if 0 < sampling.top_k < logits.shape[-1]:
        floor = probabilities.topk(sampling.top_k, -1).values[:, -1:]
        probabilities = probabilities.masked_fill(probabilities < floor, 0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        kept = ordered.masked_fill(ordered.cumsum(-1) - ordered >= sampling.top_p, 0)
        probabilities = torch.zeros_like(probabilities).scatter_(-1, order, kept)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


def draw(
    logits: Float[Tensor, "batch vocab"], uniform: Float[Tensor, " batch"], sampling: Sampling
) -> Int[Tensor, " batch"]:
    """One token per row, by inverting the cumulative distribution at `uniform` (in [0, 1))."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    cumulative = filtered_probabilities(logits.double(), sampling).cumsum(-1)
    # the last column stands in for 1: rounding must not leave a uniform number above the whole mass
    threshold = uniform[:, None].double() * cumulative[:, -1:]
    return (cumulative <= threshold).sum(-1).clamp(max=logits.shape[-1] - 1)


@torch.no_grad()
def sample(
    policy: Policy,
    prefixes: Sequence[Sequence[int]],
    noise: Sequence[np.ndarray],
    sampling: Sampling,
    max_new_tokens: Sequence[int],
) -> list[Rollout]:
    """Continue every prefix until an end-of-response token or its own length limit.

    Args:
        prefixes: prompt (and committed response) token ids, each non-empty.
        noise: per prefix, at least `max_new_tokens` uniform numbers (see `uniforms`).
        sampling: temperature and cuts, the same for all.
        max_new_tokens: per prefix, >= 0; with 0 the continuation is empty and unfinished.
    """
    results: list[Rollout | None] = [None] * len(prefixes)
    order = sorted(range(len(prefixes)), key=lambda i: (len(prefixes[i]), i))
    for start in range(0, len(order), MAX_BATCH):
        chosen = order[start : start + MAX_BATCH]
        rollouts = _sample_batch(
            policy,
            [prefixes[i] for i in chosen],
            [noise[i] for i in chosen],
            sampling,
            [max_new_tokens[i] for i in chosen],
        )
        for index, rollout in zip(chosen, rollouts, strict=True):
            results[index] = rollout
    return results


def _sample_batch(
    policy: Policy,
    prefixes: list[Sequence[int]],
    noise: list[np.ndarray],
    sampling: Sampling,
    limits: list[int],
) -> list[Rollout]:
    tokens: list[list[int]] = [[] for _ in prefixes]
    active = torch.tensor([i for i, limit in enumerate(limits) if limit > 0], dtype=torch.long)
    if not len(active):
        return [Rollout([], False) for _ in prefixes]
    steps = max(limits)
    table = torch.zeros(len(prefixes), steps, dtype=torch.float64)
    for row, (numbers, limit) in enumerate(zip(noise, limits, strict=True)):
        table[row, :limit] = torch.from_numpy(numbers[:limit])
    table, limit = table.to(policy.device), torch.tensor(limits)
    ends = torch.tensor(policy.eos_ids, device=policy.device)
    logits, cache, mask = _prefill(policy, [prefixes[i] for i in active.tolist()])
    for step in range(steps):
        drawn = draw(logits, table[active, step], sampling)
        for row, token in zip(active.tolist(), drawn.tolist(), strict=True):
            tokens[row].append(token)
        going = (~torch.isin(drawn, ends).cpu()) & (limit[active] > step + 1)
        if not going.any():
            break
        if not going.all():
            kept = going.nonzero()[:, 0].to(policy.device)
            cache.batch_select_indices(kept)
            active, drawn = active[going], drawn[kept]
            mask = mask[kept] if mask is not None else None
        logits, mask = _decode_step(policy, drawn, cache, mask)
    return [Rollout(ids, bool(ids) and ids[-1] in policy.eos_ids) for ids in tokens]


def _prefill(policy: Policy, prefixes: list[Sequence[int]]) -> tuple[Tensor, DynamicCache, Tensor | None]:
    """Logits after each prefix, with the cache that holds it; equal prefixes are read once and then repeated.

    Returns the attention mask too (1 = a real token), or None when all prefixes have the same length.
    """
    distinct = list(dict.fromkeys(tuple(prefix) for prefix in prefixes))
    place = {prefix: row for row, prefix in enumerate(distinct)}
    rows = torch.tensor([place[tuple(prefix)] for prefix in prefixes], device=policy.device)
    width = max(len(prefix) for prefix in distinct)
    ids = torch.zeros(len(distinct), width, dtype=torch.long)
    mask = torch.zeros(len(distinct), width, dtype=torch.long)
    for row, prefix in enumerate(distinct):  # padded on the left, so that decoding goes on in one column
        ids[row, width - len(prefix) :] = torch.tensor(prefix)
        mask[row, width - len(prefix) :] = 1
    ids, mask = ids.to(policy.device), mask.to(policy.device)
    padded = bool((mask == 0).any())
    cache = DynamicCache(config=policy.model.config)
    hidden = policy.model.base_model(
        input_ids=ids,
        attention_mask=mask if padded else None,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0) if padded else None,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1]
    cache.batch_select_indices(rows)
    return policy.logits(hidden)[rows], cache, mask[rows] if padded else None


def _decode_step(
    policy: Policy, token: Int[Tensor, " batch"], cache: DynamicCache, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    positions = None
    if mask is not None:
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], -1)
        positions = mask.sum(-1, keepdim=True) - 1
    hidden = policy.model.base_model(
        input_ids=token[:, None], attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    ).last_hidden_state[:, -1]
    return policy.logits(hidden), mask
