"""Batched, seeded sampling of continuations from a policy.

Each sequence has its own stream of uniform numbers, keyed by its purpose and not by its row in a batch. A number
selects a token by inverting the cumulative distribution. Samples therefore do not depend on batch size, order or number
of workers, up to rounding of the logits.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..cost import Reads, decoded, one_pass
from ..models.language_models import Policy
from . import batching
from .cached_forward import read
from .continuous_batching import ContinuousBatch, EndedSequence, Stop, TokenPredictions, WaitingSequence
from .kv_cache import PrefixCache, TokenCache, shared_slots
from .sampling import Sampling


class Rollout(NamedTuple):
    """A sampled continuation.

    Attributes:
        token_ids: sampled tokens, a sampled end-of-response or stop token included.
        finished: whether it ended with an end-of-response token, and not at the length limit or a stop token.
        prefilled: prompt and prefix tokens read for it; what sequences share is counted once.
        decoded: what sampling its tokens read.
        predictions: the policy's prediction of each token, if requested.
        reread: what the policy read once more for them, if a server sampled.
    """

    token_ids: list[int]
    finished: bool
    prefilled: Reads = Reads()
    decoded: Reads = Reads()
    predictions: TokenPredictions | None = None
    reread: Reads = Reads()


@torch.no_grad()
def sample(
    policy: Policy,
    prefixes: Sequence[Sequence[int]],
    noise: Sequence[np.ndarray],
    sampling: Sampling,
    max_new_tokens: Sequence[int],
    *,
    store: TokenCache | None = None,
    slots: Sequence[int] = (),
    output_slots: Sequence[int | None] | None = None,
    stops: Sequence[Collection[int]] | None = None,
    predictions: bool = False,
    stop: Stop | None = None,
) -> list[Rollout]:
    """Continue every prefix until an end-of-response token, one of its stop tokens, or its length limit.

    Args:
        prefixes: token ids of prompt and committed response, each non-empty.
        noise: per prefix, at least `max_new_tokens` uniform numbers (see `keyed_uniforms`).
        max_new_tokens: per prefix, >= 0; with 0 the continuation is empty and unfinished.
        store: what was read before; all that is read now is stored there too.
        slots: the store's slot of each prefix; prefixes in one slot must be equal.
        output_slots: slots of a `BranchCache` for the continuations, all different and none in `slots`; None stores
            nothing. By default each is stored in its prefix's slot, and slots must be all different.
        stops: per prefix, token ids that end the continuation without finishing the response.
        predictions: return the policy's predictions too.
        stop: with `predictions`, ends continuations by the predictions of their last tokens.

    Raises:
        NonFiniteError: logits that are NaN or infinite.
    """
    results = [Rollout([], False) for _ in prefixes]
    waiting = [i for i, limit in enumerate(max_new_tokens) if limit > 0]
    if store is None:
        slots = shared_slots(prefixes)  # equal prefixes share one
    cache = PrefixCache(len(set(slots))) if store is None else store
    texts = {slots[i]: list(prefixes[i]) for i in waiting}
    hidden, prefilled = prefill(policy, cache, texts)
    output_slots = _fork(store, slots, output_slots, waiting)
    queue = [
        WaitingSequence(
            index=i,
            slot=slots[i],
            output_slot=output_slots[i],
            prefix=texts[slots[i]],
            hidden=hidden[slots[i]],
            noise=noise[i],
            limit=max_new_tokens[i],
            stops=stops[i] if stops is not None else (),
        )
        for i in sorted(waiting, key=lambda i: (len(prefixes[i]), i))
    ]
    for i, ended in _decode(policy, sampling, cache, queue, predictions, stop):
        results[i] = Rollout(
            ended.token_ids,
            ended.finished,
            prefilled=prefilled.pop(slots[i], Reads()),
            decoded=decoded(len(prefixes[i]), len(ended.token_ids)),
            predictions=ended.predictions,
        )
    return results


def _decode(
    policy: Policy,
    sampling: Sampling,
    cache: TokenCache,
    queue: Sequence[WaitingSequence],
    predictions: bool,
    stop: Stop | None,
) -> Iterator[tuple[int, EndedSequence]]:
    """Yield the sequences that ended, by index; where memory is too small, the rest is decoded in fewer rows."""
    while queue:
        rows = min(policy.batch_limits.rows, len(queue))
        decoder = ContinuousBatch(policy, sampling, cache, queue[::-1], predictions, stop)
        if batching.attempt(lambda run=decoder.run, rows=rows: run(rows), rows) is None:
            policy.batch_limits.rows = rows // 2
        yield from decoder.finished().items()
        queue = [sequence for sequence in queue if sequence.index not in decoder.ended]


def _fork(
    store: TokenCache | None,
    slots: Sequence[int],
    output_slots: Sequence[int | None] | None,
    waiting: Sequence[int],
) -> Sequence[int | None]:
    """Return each continuation's slot, and copy its prefix there if that is another slot; see `sample`."""
    if output_slots is None:
        output_slots = [None] * len(slots) if store is None else slots
    for i in waiting:
        if output_slots[i] not in (None, slots[i]):
            store.fork(slots[i], output_slots[i])
    return output_slots


def prefill(
    policy: Policy, cache: TokenCache, texts: dict[int, list[int]]
) -> tuple[dict[int, Float[Tensor, " hidden"]], dict[int, Reads]]:
    """Read the uncached tail of each slot's text; return, by slot, its last hidden state and what was read."""
    slots = list(texts)
    starts = [min(cache.shared(slot, texts[slot]), len(texts[slot]) - 1) for slot in slots]
    reads = [one_pass(start, len(texts[slot])) for slot, start in zip(slots, starts, strict=True)]

    def fill(indices: list[int]) -> list[Tensor]:
        batch_slots = [slots[i] for i in indices]
        batch = [texts[slot] for slot in batch_slots]
        reading = read(policy, batch, [len(text) - 1 for text in batch], cache, batch_slots)
        cache.put(batch_slots, batch, reading.starts, reading.cache)
        return [reading.hidden[row, reads[i].tokens - 1] for row, i in enumerate(indices)]

    hidden = batching.run(fill, [part.tokens for part in reads], policy.batch_limits)
    return dict(zip(slots, hidden, strict=True)), dict(zip(slots, reads, strict=True))
