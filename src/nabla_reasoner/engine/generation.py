"""Batched, seeded sampling of continuations from a policy.

Each sequence has its own stream of uniform numbers, keyed by its purpose and not by its row in a batch. A number
selects a token by inverting the cumulative distribution. Samples therefore do not depend on batch size, order or number
of workers, up to rounding of the logits. Batching is continuous: the row of an ended sequence is reused.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..cost import Reads, decoded, one_pass
from ..models.language_models import Policy
from . import batching, numerics
from .cached_forward import read
from .decoding_cache import DecodingCache, read_tokens
from .kv_cache import PrefixCache, TokenCache, shared_slots
from .numerics import NonFiniteError, at_least_float32
from .sampling import Sampling, draw


class TokenPredictions(NamedTuple):
    """The policy's predictions of a response's tokens, before temperature, top-k and top-p.

    Attributes:
        hidden: hidden states that yield the logits z.
        confidence: largest next-token probability.
        entropy: entropy of the next-token distribution, in nats.
    """

    hidden: Float[Tensor, "length hidden"]
    confidence: Float[Tensor, " length"]
    entropy: Float[Tensor, " length"]


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

    Raises:
        NonFiniteError: logits that are NaN or infinite.
    """
    results = [Rollout([], False) for _ in prefixes]
    waiting = [i for i, limit in enumerate(max_new_tokens) if limit > 0]
    cache = store
    if store is None:  # equal prefixes share a slot
        slots = shared_slots(prefixes)
        cache = PrefixCache(len(set(slots)))
    texts = {slots[i]: list(prefixes[i]) for i in waiting}
    hidden, prefilled = prefill(policy, cache, texts)
    output_slots = _fork(store, slots, output_slots, waiting)
    queue = [
        _Sequence(
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
    while queue:
        rows = min(policy.batch_limits.rows, len(queue))
        decoder = _Decoder(policy, sampling, cache, queue[::-1], predictions)
        if batching.attempt(lambda run=decoder.run, rows=rows: run(rows), rows) is None:
            policy.batch_limits.rows = rows // 2
        for i, rollout in decoder.finished().items():
            results[i] = rollout._replace(
                prefilled=prefilled.pop(slots[i], Reads()),
                decoded=decoded(len(prefixes[i]), len(rollout.token_ids)),
            )
        queue = [sequence for sequence in queue if sequence.index not in decoder.ended]
    return results


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


class _Sequence(NamedTuple):
    """A sequence to be decoded.

    Attributes:
        index: its number in the call of `sample`.
        slot: cache slot of its prefix.
        output_slot: cache slot in which to store its tokens, or None.
        hidden: last hidden state of the prefix.
        noise: a uniform number for each token.
        limit: largest number of tokens.
        stops: tokens that end it, besides the policy's end-of-response tokens.
    """

    index: int
    slot: int
    output_slot: int | None
    prefix: list[int]
    hidden: Float[Tensor, " hidden"]
    noise: np.ndarray
    limit: int
    stops: Collection[int]


@dataclasses.dataclass
class _Decoder:
    """Continuous batching of sequences.

    Attributes:
        source: cache of the prefixes, which also stores the continuations.
        waiting: sequences to be decoded; the last one is the next.
        rows: the sequence in each row of the batch, or None.
        tokens: sampled tokens by sequence index.
        ended: indices of the sequences that have ended.
        predictions: predictions of all rows, a step each.
        prediction_rows: by sequence index, where its predictions are if those of all steps are concatenated.
    """

    policy: Policy
    sampling: Sampling
    source: TokenCache
    waiting: list[_Sequence]
    with_predictions: bool
    rows: list[_Sequence | None] = dataclasses.field(default_factory=list)
    tokens: dict[int, list[int]] = dataclasses.field(default_factory=dict)
    ended: set[int] = dataclasses.field(default_factory=set)
    predictions: list[TokenPredictions] = dataclasses.field(default_factory=list)
    prediction_rows: dict[int, list[int]] = dataclasses.field(default_factory=dict)

    def run(self, size: int) -> bool:
        """Decode all waiting sequences with at most `size` rows; return True."""
        self.rows = [None] * size
        self.cache = DecodingCache(self.source, size)
        first = self.waiting[-1].hidden
        hidden, count = first.new_zeros(size, len(first)), 0
        while True:
            free = [row for row, sequence in enumerate(self.rows) if self.is_free(sequence)]
            if 4 * len(free) >= len(self.rows):
                hidden = self.admit(free, hidden) if self.waiting else self.shrink(free, hidden)
            if not self.rows:
                return True
            logits = self.policy.logits(hidden)
            if self.with_predictions:
                wide = at_least_float32(logits)
                self.predictions.append(TokenPredictions(hidden, numerics.confidence(wide), numerics.entropy(wide)))
            tokens = self.draw(logits)
            self.append(tokens.where(numerics.finite_rows(logits), -1).tolist(), count)
            count += len(self.rows)
            if not all(self.is_free(sequence) for sequence in self.rows):
                hidden = self.step(tokens)

    def is_free(self, sequence: _Sequence | None) -> bool:
        """Return whether a row has no sequence, or one that has ended."""
        return sequence is None or sequence.index in self.ended

    def admit(self, free: list[int], hidden: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows hidden"]:
        """Fill free rows with waiting sequences."""
        self.store_ended(free)
        admitted = [self.waiting.pop() for _ in free[: len(self.waiting)]]
        rows = free[: len(admitted)]
        self.cache.admit(rows, self.source, [sequence.slot for sequence in admitted])
        for row, sequence in zip(rows, admitted, strict=True):
            self.rows[row] = sequence
            self.tokens[sequence.index] = []
            self.prediction_rows[sequence.index] = []
        index = torch.tensor(rows, device=hidden.device)
        return hidden.index_copy(0, index, torch.stack([sequence.hidden for sequence in admitted]))

    def shrink(self, free: list[int], hidden: Float[Tensor, "rows hidden"]) -> Float[Tensor, "left hidden"]:
        """Remove free rows; a smaller batch decodes faster."""
        self.store_ended(free)
        active = [row for row in range(len(self.rows)) if row not in set(free)]
        self.rows = [self.rows[row] for row in active]
        self.cache.select(active)
        return hidden[active]

    def store_ended(self, free: list[int]) -> None:
        """Copy the cached tokens of ended sequences to their slots."""
        rows = [row for row in free if self.rows[row] is not None and self.rows[row].output_slot is not None]
        if rows:
            ended = [self.rows[row] for row in rows]
            ids = [[*sequence.prefix, *self.tokens[sequence.index][:-1]] for sequence in ended]
            self.cache.copy_to(self.source, [sequence.output_slot for sequence in ended], rows, ids)

    def draw(self, logits: Float[Tensor, "rows vocab"]) -> Int[Tensor, " rows"]:
        uniform = [0.0 if self.is_free(s) else s.noise[len(self.tokens[s.index])] for s in self.rows]
        return draw(logits, torch.tensor(uniform, dtype=torch.float64, device=logits.device), self.sampling)

    def append(self, new_tokens: list[int], count: int) -> None:
        """Append the new tokens to their sequences; `count` rows were computed in all earlier steps.

        Raises:
            NonFiniteError: a token is -1, which stands for logits that are not finite.
        """
        for row, (sequence, token) in enumerate(zip(self.rows, new_tokens, strict=True)):
            if self.is_free(sequence):
                continue
            tokens = self.tokens[sequence.index]
            if token < 0:
                place = f"token {len(tokens)} after {len(sequence.prefix)} tokens"
                raise NonFiniteError(f"logits of {self.policy.name} for {place}")
            tokens.append(token)
            self.prediction_rows[sequence.index].append(count + row)
            if token in self.policy.eos_ids or token in sequence.stops or len(tokens) == sequence.limit:
                self.ended.add(sequence.index)

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows hidden"]:
        """Read the new tokens; return their hidden states."""
        return read_tokens(self.policy, self.cache, tokens)

    def finished(self) -> dict[int, Rollout]:
        """Return the rollouts of the ended sequences by index."""
        steps = TokenPredictions(*map(torch.cat, zip(*self.predictions, strict=True))) if self.predictions else None
        return {
            i: Rollout(
                self.tokens[i],
                self.tokens[i][-1] in self.policy.eos_ids,
                predictions=steps and TokenPredictions(*(part[self.prediction_rows[i]] for part in steps)),
            )
            for i in self.ended
        }
