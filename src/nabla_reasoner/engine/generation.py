"""Batched, seeded sampling from a policy through a key-value cache.

Every sequence carries its own stream of uniform numbers, keyed by what it is for and not by where it stands in a batch,
and a token is drawn by inverting the cumulative distribution at one of them. Samples therefore do not depend on batch
size, order or number of workers (up to float noise in the logits).

Decoding is one continuous batch: a row whose sequence has ended is given to the next one that waits.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.language_models import Policy
from . import batching, numerics
from .cached_forward import read
from .decoding_cache import DecodingCache
from .kv_cache import PrefixCache, TokenCache
from .numerics import at_least_float32
from .sampling import Sampling, draw


class TokenPredictions(NamedTuple):
    """The policy's own prediction at each token of a response, before temperature and cuts.

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
        token_ids: drawn tokens, all that were decoded for it; the end-of-response or stop token included when it was
            drawn.
        finished: whether it ended with an end-of-response token, and not at the length limit or a stop token.
        prefilled: prompt and prefix tokens that were read for it; what several sequences share is counted once.
        states: what the policy predicted for each token, where asked for.
    """

    token_ids: list[int]
    finished: bool
    prefilled: int = 0
    states: TokenPredictions | None = None


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
    homes: Sequence[int | None] | None = None,
    stops: Sequence[Collection[int]] | None = None,
    states: bool = False,
) -> list[Rollout]:
    """Continue every prefix until an end-of-response token, a stop token of its own, or its own length limit.

    Args:
        prefixes: prompt (and committed response) token ids, each non-empty.
        noise: per prefix, at least `max_new_tokens` uniform numbers (see `uniforms`).
        sampling: temperature and cuts, the same for all.
        max_new_tokens: per prefix, >= 0; with 0 the continuation is empty and unfinished.
        store: what was read before, and where all that is read now is kept.
        slots: a slot of the store for each prefix; prefixes in one slot must be equal.
        homes: the slots of a `BranchCache` in which continuations are kept, all different and none of them a prefix's;
            None keeps nothing. By default each stays where its prefix is, and slots must then be all different.
        stops: per prefix, token ids that end the continuation without finishing the response.
        states: return the policy's predictions too.
    """
    results = [Rollout([], False) for _ in prefixes]
    waiting = [i for i, limit in enumerate(max_new_tokens) if limit > 0]
    place, source = list(slots), store
    if source is None:  # equal prefixes share a slot
        distinct = {prefix: slot for slot, prefix in enumerate(dict.fromkeys(tuple(prefix) for prefix in prefixes))}
        place = [distinct[tuple(prefix)] for prefix in prefixes]
        source = PrefixCache(len(distinct))
    texts = {place[i]: list(prefixes[i]) for i in waiting}
    read_now = _prefill(policy, source, texts)
    if homes is not None:
        for i in waiting:
            if homes[i] is not None:
                store.fork(place[i], homes[i])
    elif store is not None:
        homes = place
    else:
        homes = [None] * len(prefixes)
    waiting.sort(key=lambda i: (len(prefixes[i]), i))
    while waiting:
        rows = min(batching.BatchLimit.rows, len(waiting))
        queue = [
            _Row(
                i,
                place[i],
                homes[i],
                texts[place[i]],
                read_now[place[i]][0],
                noise[i],
                max_new_tokens[i],
                stops[i] if stops is not None else (),
            )
            for i in waiting
        ]
        decoder = _Decoder(policy, sampling, source, queue, states=states)
        if not batching.attempt(lambda run=decoder.run, rows=rows: run(rows), rows):
            batching.BatchLimit.rows = rows // 2
        for i, rollout in decoder.finished().items():
            hidden, prefilled = read_now[place[i]]
            read_now[place[i]] = (hidden, 0)
            results[i] = rollout._replace(prefilled=prefilled)
        waiting = [i for i in waiting if i not in decoder.ended]
    return results


def _prefill(policy: Policy, cache: TokenCache, texts: dict[int, list[int]]) -> dict[int, tuple[Tensor, int]]:
    """Read what slots do not hold of their texts; by slot, the last hidden state and the number of tokens read."""
    slots = list(texts)
    lengths = [len(texts[slot]) - min(cache.shared(slot, texts[slot]), len(texts[slot]) - 1) for slot in slots]

    def fill(chosen: list[int]) -> list[Tensor]:
        own = [texts[slots[i]] for i in chosen]
        reading = read(policy, own, [len(text) - 1 for text in own], cache, [slots[i] for i in chosen])
        cache.put([slots[i] for i in chosen], own, reading.starts, reading.cache)
        return [reading.hidden[row, lengths[i] - 1] for row, i in enumerate(chosen)]

    hidden = batching.run(fill, lengths)
    return {slot: (state, length) for slot, state, length in zip(slots, hidden, lengths, strict=True)}


class _Row(NamedTuple):
    """A sequence to be decoded: its number, its prefix's slot, the slot it is kept in, prefix, the prefix's last hidden
    state, uniform numbers, limit, stop tokens."""

    index: int
    slot: int
    home: int | None
    prefix: list[int]
    hidden: Float[Tensor, " hidden"]
    noise: np.ndarray
    limit: int
    stops: Collection[int]


class _Decoder:
    """Rows that decode together until the queue is empty."""

    def __init__(self, policy: Policy, sampling: Sampling, source: TokenCache, queue: list[_Row], *, states: bool):
        self.policy, self.sampling, self.source, self.states = policy, sampling, source, states
        self.waiting = queue[::-1]
        self.rows: list[_Row | None] = []
        self.tokens: dict[int, list[int]] = {}
        self.ended: set[int] = set()
        self.seen: list[TokenPredictions] = []
        self.trail: dict[int, list[int]] = {}  # where in `seen`, all steps after one another, a sequence's states lie

    def run(self, size: int) -> bool:
        """Decode everything, at most `size` sequences at once; returns True."""
        self.rows, self.cache = [None] * size, DecodingCache(self.source, size)
        first = self.waiting[-1].hidden
        hidden, count = first.new_zeros(size, len(first)), 0
        while True:
            free = [place for place, row in enumerate(self.rows) if self.idle(row)]
            if 4 * len(free) >= len(self.rows):
                hidden = self.admit(free, hidden) if self.waiting else self.shrink(free, hidden)
            if not self.rows:
                return True
            logits = self.policy.logits(hidden)
            if self.states:
                own = at_least_float32(logits)
                self.seen.append(TokenPredictions(hidden, numerics.confidence(own), numerics.entropy(own)))
            drawn = self.draw(logits)
            self.note(drawn.tolist(), count)
            count += len(self.rows)
            if not all(self.idle(row) for row in self.rows):
                hidden = self.step(drawn)

    def idle(self, row: _Row | None) -> bool:
        """Whether a row has no sequence, or one that has ended."""
        return row is None or row.index in self.ended

    def admit(self, free: list[int], hidden: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows hidden"]:
        """Give free rows to sequences that wait."""
        self.release(free)
        taken = [self.waiting.pop() for _ in free[: len(self.waiting)]]
        places = free[: len(taken)]
        self.cache.admit(places, self.source, [row.slot for row in taken])
        for place, row in zip(places, taken, strict=True):
            self.rows[place], self.tokens[row.index], self.trail[row.index] = row, [], []
        return hidden.index_copy(
            0, torch.tensor(places, device=hidden.device), torch.stack([row.hidden for row in taken])
        )

    def shrink(self, free: list[int], hidden: Float[Tensor, "rows hidden"]) -> Float[Tensor, "left hidden"]:
        """Drop free rows: what is left decodes faster."""
        self.release(free)
        kept = [place for place in range(len(self.rows)) if place not in set(free)]
        self.rows = [self.rows[place] for place in kept]
        self.cache.select(kept)
        return hidden[kept]

    def release(self, free: list[int]) -> None:
        """Keep what ended rows hold in their slots of the store."""
        places = [place for place in free if self.rows[place] is not None and self.rows[place].home is not None]
        if places:
            rows = [self.rows[place] for place in places]
            held = [[*row.prefix, *self.tokens[row.index][:-1]] for row in rows]
            self.cache.hand_over(places, self.source, [row.home for row in rows], held)

    def draw(self, logits: Float[Tensor, "rows vocab"]) -> Int[Tensor, " rows"]:
        uniform = [0.0 if self.idle(row) else row.noise[len(self.tokens[row.index])] for row in self.rows]
        return draw(logits, torch.tensor(uniform, dtype=torch.float64, device=logits.device), self.sampling)

    def note(self, drawn: list[int], count: int) -> None:
        """Write down the tokens just drawn; `count` rows were computed in all steps before."""
        for place, (row, token) in enumerate(zip(self.rows, drawn, strict=True)):
            if self.idle(row):
                continue
            own = self.tokens[row.index]
            own.append(token)
            self.trail[row.index].append(count + place)
            if token in self.policy.eos_ids or token in row.stops or len(own) == row.limit:
                self.ended.add(row.index)

    def step(self, drawn: Int[Tensor, " rows"]) -> Float[Tensor, "rows hidden"]:
        position, mask = self.cache.open_column()
        return self.policy.hidden_states(
            self.policy.embedding[drawn[:, None]],
            past_key_values=self.cache,
            attention_mask=mask,
            position_ids=position,
        )[:, -1]

    def finished(self) -> dict[int, Rollout]:
        """Rollouts of the sequences that ended, by number."""
        seen = TokenPredictions(*map(torch.cat, zip(*self.seen, strict=True))) if self.seen else None
        return {
            i: Rollout(
                self.tokens[i],
                self.tokens[i][-1] in self.policy.eos_ids,
                states=seen and TokenPredictions(*(part[self.trail[i]] for part in seen)),
            )
            for i in self.ended
        }
