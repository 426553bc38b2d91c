"""Cutting work into batches that fit memory: by padded tokens, halved when memory runs out."""

import gc
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor


class BatchLimit:
    """The largest batches that are tried; lowered for the rest of the run when memory ran out.

    Attributes:
        tokens: tokens (padding included) in one pass.
        rows: sequences decoded at once; more would only move more cache per step.
    """

    tokens = 16_384
    rows = 512


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "batch seq"]:
    """Token ids as one tensor, padded with 0 on the right."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.as_tensor(row)
    return ids.to(device)


def by_tokens(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of sequences in batches of like length, each of at most Limit.tokens padded tokens."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= BatchLimit.tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def run(function: Callable[[list[int]], Sequence[Any]], lengths: Sequence[int]) -> list[Any]:
    """`function` over all sequences in batches; one result per sequence, in their order.

    A batch for which memory does not suffice is halved, and so are those after it; a single sequence that does not
    fit raises.

    Args:
        function: takes indices of sequences, returns one result for each.
        lengths: tokens of each sequence.
    """
    results: list[Any] = [None] * len(lengths)
    queue = by_tokens(lengths)
    while queue:
        chosen = queue.pop(0)
        values = attempt(lambda chosen=chosen: function(chosen), len(chosen))
        if values is None:
            half = len(chosen) // 2
            queue[:0] = [chosen[:half], chosen[half:]]
            BatchLimit.tokens = max(half, 1) * max(lengths[i] for i in chosen)
            continue
        for index, value in zip(chosen, values, strict=True):
            results[index] = value
    return results


def attempt(function: Callable[[], Any], size: int) -> Any:
    """What `function` returns, or None when memory ran out and a smaller batch can be tried (`size` > 1)."""
    try:
        return function()
    except RuntimeError as error:  # torch.OutOfMemoryError on a GPU; the CPU's allocator raises plain RuntimeError
        if size == 1 or not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    warnings.warn("out of memory: the batch is halved from here on; nothing is lost.", stacklevel=2)
    return None
