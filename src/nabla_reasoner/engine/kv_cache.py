"""Key-value caches by slot: their interface, and a cache with a fixed number of slots."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache, DynamicCache


class TokenCache(ABC):
    """Keys and values of sequences that one model has read, by slot.

    Attributes:
        ids: cached tokens of each slot.
        layers: keys and values by layer; the second axis is the heads, the last the head size.
    """

    ids: list[list[int]] | dict[int, list[int]]
    layers: list[list[Tensor]]

    def shared(self, slot: int, ids: Sequence[int]) -> int:
        """Return how many leading tokens of `ids` the slot holds."""
        cached = self.ids[slot]
        length = min(len(cached), len(ids))
        if cached[:length] == list(ids[:length]):
            return length
        return next(i for i in range(length) if cached[i] != ids[i])

    def past(self, slots: Sequence[int], starts: Sequence[int]) -> DynamicCache:
        """Return a copy of the first `starts` tokens of some slots, right-padded, to which a model may append."""
        result, width = DynamicCache(), max(starts)
        if width:
            for index, (keys, values) in enumerate(self.leading(slots, width)):
                result.update(keys, values, index)
        return result

    @abstractmethod
    def leading(self, slots: Sequence[int], width: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, by layer, keys and values of the first `width` tokens of some slots; arbitrary values as padding."""

    @abstractmethod
    def put(self, slots: Sequence[int], ids: Sequence[Sequence[int]], starts: Sequence[int], new: Cache) -> None:
        """Store what a pass over ids[start:] appended to the result of `past`; slots must hold ids[:start]."""

    @abstractmethod
    def cut(self, slot: int, length: int) -> None:
        """Shorten a slot to `length` tokens; no other slot may hold the removed ones."""

    @abstractmethod
    def put_log_probs(self, slots: Sequence[int], starts: Sequence[int], values: Sequence[Float[Tensor, " _"]]) -> None:
        """Store log-probabilities of each slot's tokens from index `start` on."""

    @abstractmethod
    def log_likelihood(self, slot: int, start: int, end: int) -> float:
        """Return the sum of the stored log-probabilities of a slot's tokens `start` to `end` (exclusive), in nats."""


@contextmanager
def distinct_indices() -> Iterator[None]:
    """Turn PyTorch's deterministic mode off for assignments by index; no two of the indices may be equal.

    The result of such an assignment does not depend on its order. Cells run in deterministic mode. In it, a GPU copies
    the whole tensor twice per assignment, unless the first axis is indexed. Decoding would copy its cache at each step.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def shared_slots(texts: Sequence[Sequence[int]]) -> list[int]:
    """Return a slot for each text: equal texts share one, and slots count from 0 in order of first occurrence."""
    slots = {text: slot for slot, text in enumerate(dict.fromkeys(map(tuple, texts)))}
    return [slots[tuple(text)] for text in texts]


class PrefixCache(TokenCache):
    """A cache with a fixed number of slots of equal capacity.

    Attributes:
        log_probabilities: log-probability of each cached token given its prefix, in nats; arbitrary if not stored.
    """

    def __init__(self, slots: int):
        self.ids: list[list[int]] = [[] for _ in range(slots)]
        self.layers: list[list[Tensor]] = []  # [slots, heads, capacity, head size]
        self.log_probabilities: Float[Tensor, "slots capacity"] = torch.zeros(slots, 0, dtype=torch.float64)

    def leading(self, slots: Sequence[int], width: int) -> Iterator[tuple[Tensor, Tensor]]:
        rows = torch.tensor(slots, device=self.layers[0][0].device)
        return ((keys[rows, :, :width], values[rows, :, :width]) for keys, values in self.layers)

    def put(self, slots: Sequence[int], ids: Sequence[Sequence[int]], starts: Sequence[int], new: Cache) -> None:
        width = max(len(text) - start for text, start in zip(ids, starts, strict=True))
        skip = new.layers[0].keys.shape[2] - width
        self._reserve([[layer.keys, layer.values] for layer in new.layers], max(starts) + width)
        device = new.layers[0].keys.device
        rows = torch.tensor(slots, device=device)[:, None]
        columns = torch.tensor(starts, device=device)[:, None] + torch.arange(width, device=device)
        with distinct_indices():
            for (keys, values), layer in zip(self.layers, new.layers, strict=True):
                keys[rows, :, columns] = layer.keys[:, :, skip:].detach().transpose(1, 2)
                values[rows, :, columns] = layer.values[:, :, skip:].detach().transpose(1, 2)
        for slot, text in zip(slots, ids, strict=True):
            self.ids[slot] = list(text)

    def cut(self, slot: int, length: int) -> None:
        del self.ids[slot][length:]

    def put_log_probs(self, slots: Sequence[int], starts: Sequence[int], values: Sequence[Float[Tensor, " _"]]) -> None:
        width = max(start + len(row) for start, row in zip(starts, values, strict=True))
        missing = width - self.log_probabilities.shape[1]
        if missing > 0:
            self.log_probabilities = torch.nn.functional.pad(self.log_probabilities, (0, missing + missing // 2))
        for slot, start, row in zip(slots, starts, values, strict=True):
            self.log_probabilities[slot, start : start + len(row)] = row

    def log_likelihood(self, slot: int, start: int, end: int) -> float:
        return self.log_probabilities[slot, start:end].sum().item()

    def copy(self, other: "PrefixCache", slots: Sequence[int]) -> None:
        """Copy slots of another cache into the same slots here."""
        for slot in slots:
            self.ids[slot] = list(other.ids[slot])
        width = max(len(other.ids[slot]) for slot in slots)
        if not width:
            return
        self._reserve(other.layers, width)
        rows = torch.tensor(slots, device=self.layers[0][0].device)
        with distinct_indices():
            for pair, other_pair in zip(self.layers, other.layers, strict=True):
                for target, source in zip(pair, other_pair, strict=True):
                    target[rows, :, :width] = source[rows, :, :width]
        if other.log_probabilities.shape[1]:
            self.put_log_probs(slots, [0] * len(slots), list(other.log_probabilities[list(slots)]))

    def _reserve(self, like: Sequence[Sequence[Tensor]], capacity: int) -> None:
        """Extend every slot to at least `capacity` tokens, with the number of heads and the head size of `like`."""
        old_capacity = self.layers[0][0].shape[2] if self.layers else 0
        if capacity <= old_capacity:
            return
        capacity = max(capacity, old_capacity + old_capacity // 2)
        layers = [[t.new_zeros(len(self.ids), t.shape[1], capacity, t.shape[3]) for t in pair] for pair in like]
        for pair, old_pair in zip(layers, self.layers, strict=False):  # before the first `put` there are no old layers
            for new, old in zip(pair, old_pair, strict=True):
                new[:, :, :old_capacity] = old
        self.layers = layers
