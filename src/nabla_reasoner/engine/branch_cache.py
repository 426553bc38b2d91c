"""Key-value cache of branching sequences, which stores shared prefixes once."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache

from .kv_cache import TokenCache, distinct_indices


class BranchCache(TokenCache):
    """A cache with any number of slots, as the branches of a search tree need.

    One pool holds all tokens, a row each, and a slot lists the rows of its tokens. A fork copies only that list, and
    the pool grows with the number of new tokens, not with slots times the longest sequence.

    Attributes:
        rows: pool rows of each slot's tokens.
        log_probabilities: log-probability of each row's token given its prefix, in nats; arbitrary if not stored.
        free: unused rows.
    """

    def __init__(self):
        self.ids: dict[int, list[int]] = defaultdict(list)
        self.rows: dict[int, list[int]] = defaultdict(list)
        self.layers: list[list[Tensor]] = []  # [capacity, heads, head size]
        self.log_probabilities: Float[Tensor, " capacity"] = torch.zeros(0, dtype=torch.float64)
        self.free: list[int] = []

    def fork(self, source: int, target: int, length: int | None = None) -> None:
        """Make slot `target` a copy of slot `source`, or of its first `length` tokens."""
        self.ids[target] = self.ids[source][:length]
        self.rows[target] = self.rows[source][:length]

    def cut(self, slot: int, length: int) -> None:
        self.free += self.rows[slot][length:]
        del self.ids[slot][length:], self.rows[slot][length:]

    def drop(self, slot: int, length: int) -> None:
        """Forget a slot, whose first `length` tokens another slot holds too."""
        self.cut(slot, length)
        del self.ids[slot], self.rows[slot]

    def leading(self, slots: Sequence[int], width: int) -> Iterator[tuple[Tensor, Tensor]]:
        index = torch.zeros(len(slots), width, dtype=torch.long)
        for i, slot in enumerate(slots):
            rows = self.rows[slot][:width]
            index[i, : len(rows)] = torch.tensor(rows, dtype=torch.long)
        index = index.to(self.layers[0][0].device)
        return ((keys[index].transpose(1, 2), values[index].transpose(1, 2)) for keys, values in self.layers)

    def put(self, slots: Sequence[int], ids: Sequence[Sequence[int]], starts: Sequence[int], new: Cache) -> None:
        width = max(len(text) - start for text, start in zip(ids, starts, strict=True))
        skip = new.layers[0].keys.shape[2] - width
        # tokens that are cached already keep their rows and their log-probabilities
        begins = [self.shared(slot, text) for slot, text in zip(slots, ids, strict=True)]
        count = sum(len(text) - begin for text, begin in zip(ids, begins, strict=True))
        self._reserve(count, new)
        unused = reversed(self.free[len(self.free) - count :])
        sources, targets, rows = [], [], []
        for i, (slot, text, start, begin) in enumerate(zip(slots, ids, starts, begins, strict=True)):
            taken = list(itertools.islice(unused, len(text) - begin))
            rows.append(self.rows[slot][:begin] + taken)
            sources += [(i, skip + column - start) for column in range(begin, len(text))]
            targets += taken
        if targets:
            device = new.layers[0].keys.device
            sequence, column = torch.tensor(sources, device=device).T
            target = torch.tensor(targets, device=device)
            with distinct_indices():
                for (keys, values), layer in zip(self.layers, new.layers, strict=True):
                    keys[target] = layer.keys[sequence, :, column].detach()
                    values[target] = layer.values[sequence, :, column].detach()
        # last, so that the cache is unchanged if memory runs out above
        del self.free[len(self.free) - count :]
        for slot, text, held in zip(slots, ids, rows, strict=True):
            self.ids[slot], self.rows[slot] = list(text), held

    def put_log_probs(self, slots: Sequence[int], starts: Sequence[int], values: Sequence[Float[Tensor, " _"]]) -> None:
        for slot, start, new in zip(slots, starts, values, strict=True):
            rows = torch.tensor(self.rows[slot][start : start + len(new)], dtype=torch.long)
            self.log_probabilities[rows] = new.to(self.log_probabilities)

    def log_likelihood(self, slot: int, start: int, end: int) -> float:
        return self.log_probabilities[self.rows[slot][start:end]].sum().item()

    def _reserve(self, count: int, like: Cache) -> None:
        """Extend the pool to at least `count` unused rows, with the number of heads and the head size of `like`."""
        if count <= len(self.free):
            return
        capacity = len(self.log_probabilities)
        extra = max(count - len(self.free), capacity // 2)
        if not self.layers:
            pairs = [(layer.keys, layer.values) for layer in like.layers]
            self.layers = [[t.new_zeros(0, t.shape[1], t.shape[3]) for t in pair] for pair in pairs]
        layers = [[torch.cat([t, t.new_zeros(extra, *t.shape[1:])]) for t in pair] for pair in self.layers]
        # nothing is changed before all memory has been obtained
        self.layers = layers
        self.log_probabilities = torch.nn.functional.pad(self.log_probabilities, (0, extra))
        self.free += range(capacity + extra - 1, capacity - 1, -1)  # `put` takes from the end
