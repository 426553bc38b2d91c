"""Batches that fit memory: limited by padded tokens, halved when memory runs out."""

import gc
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..models.language_models import BatchLimits
from .kv_cache import TokenCache

Result = TypeVar("Result")


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "batch seq"]:
    """Return token ids as one tensor, padded with 0 on the right."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.as_tensor(row)
    return ids.to(device)


def by_tokens(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group sequences of similar length into batches of at most `max_tokens` padded tokens; return their indices."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def run(
    function: Callable[[list[int]], Sequence[Result]],
    lengths: Sequence[int],
    limits: BatchLimits,
    caches: Sequence[TokenCache] = (),
    slots: Sequence[int] = (),
) -> list[Result]:
    """Apply `function` to all sequences in batches; return one result per sequence, in their order.

    If a batch does not fit memory, it is halved and `limits` are lowered for later batches. If a single sequence does
    not fit, the error is raised.

    Args:
        function: takes indices of sequences and returns one result for each.
        lengths: number of tokens of each sequence.
        caches: those in which `function` stores what it reads before its last pass. What a batch that did not fit has
            stored is removed, so that its halves read, and count, it again.
        slots: slot of each sequence in `caches`.
    """
    results: list[Result | None] = [None] * len(lengths)
    queue = by_tokens(lengths, limits.tokens)
    while queue:
        indices = queue.pop(0)
        held = [(cache, slots[i], cache.ids[slots[i]]) for cache in caches for i in indices]
        values = attempt(lambda indices=indices: function(indices), len(indices))
        if values is None:
            for cache, slot, ids in held:
                cache.cut(slot, cache.shared(slot, ids))
            half = len(indices) // 2
            queue[:0] = [indices[:half], indices[half:]]
            limits.tokens = max(half, 1) * max(lengths[i] for i in indices)
            continue
        for index, value in zip(indices, values, strict=True):
            results[index] = value
    return results


def attempt(function: Callable[[], Result], size: int) -> Result | None:
    """Return the result of `function`, or None if memory ran out for a batch of `size` > 1 sequences."""
    try:
        return function()
    except RuntimeError as error:  # torch.OutOfMemoryError on a GPU; the CPU's allocator raises plain RuntimeError
        if size == 1 or not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    warnings.warn("out of memory: batches are halved from here on; no result is lost.", stacklevel=2)
    return None
