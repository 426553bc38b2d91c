"""Key-value caches: all tokens of a batch, and prefixes kept between calls."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache, DynamicCache


class TokenCache(ABC):
    """Sequences that one model has read, by slot.

    Attributes:
        ids: tokens whose keys and values each slot holds.
        layers: keys and values by layer; the second axis is the heads, the last the head size.
    """

    ids: list[list[int]] | dict[int, list[int]]
    layers: list[list[Tensor]]

    def shared(self, slot: int, ids: Sequence[int]) -> int:
        """How many leading tokens of `ids` the slot holds."""
        own = self.ids[slot]
        length = min(len(own), len(ids))
        if own[:length] == list(ids[:length]):
            return length
        return next(i for i in range(length) if own[i] != ids[i])

    def past(self, slots: Sequence[int], starts: Sequence[int]) -> DynamicCache:
        """A copy of the first `starts` tokens of some slots, right-padded: a model may append to it."""
        result, width = DynamicCache(), max(starts)
        if width:
            for index, (keys, values) in enumerate(self.leading(slots, width)):
                result.update(keys, values, index)
        return result

    @abstractmethod
    def leading(self, slots: Sequence[int], width: int) -> Iterator[tuple[Tensor, Tensor]]:
        """By layer, keys and values of the first `width` tokens of some slots; anything behind what a slot holds."""

    @abstractmethod
    def put(self, slots: Sequence[int], ids: Sequence[Sequence[int]], starts: Sequence[int], new: Cache) -> None:
        """Keep what a pass over ids[start:] appended to the copy that `past` gave; slots must hold ids[:start]."""

    @abstractmethod
    def note(self, slots: Sequence[int], starts: Sequence[int], values: Sequence[Float[Tensor, " _"]]) -> None:
        """Keep log-probabilities of each slot's tokens from an index on."""

    @abstractmethod
    def known(self, slot: int, start: int, end: int) -> float:
        """Log-likelihood of a slot's tokens from `start` up to `end`, as kept by `note`."""


class PrefixCache(TokenCache):
    """A fixed number of slots, each with room of its own.

    Attributes:
        log_probabilities: of each held token given those before it, where a pass computed it; [slots, capacity], nats.
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
        for own, layer in zip(self.layers, new.layers, strict=True):
            own[0][rows, :, columns] = layer.keys[:, :, skip:].detach().transpose(1, 2)
            own[1][rows, :, columns] = layer.values[:, :, skip:].detach().transpose(1, 2)
        for slot, text in zip(slots, ids, strict=True):
            self.ids[slot] = list(text)

    def note(self, slots: Sequence[int], starts: Sequence[int], values: Sequence[Float[Tensor, " _"]]) -> None:
        width = max(start + len(own) for start, own in zip(starts, values, strict=True))
        missing = width - self.log_probabilities.shape[1]
        if missing > 0:
            self.log_probabilities = torch.nn.functional.pad(self.log_probabilities, (0, missing + missing // 2))
        for slot, start, own in zip(slots, starts, values, strict=True):
            self.log_probabilities[slot, start : start + len(own)] = own

    def known(self, slot: int, start: int, end: int) -> float:
        return self.log_probabilities[slot, start:end].sum().item()

    def copy(self, other: "PrefixCache", slots: Sequence[int]) -> None:
        """Take over what the same slots of another cache hold."""
        for slot in slots:
            self.ids[slot] = list(other.ids[slot])
        width = max(len(other.ids[slot]) for slot in slots)
        if not width:
            return
        self._reserve(other.layers, width)
        rows = torch.tensor(slots, device=self.layers[0][0].device)
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            for own, taken in zip(mine, theirs, strict=True):
                own[rows, :, :width] = taken[rows, :, :width]
        if other.log_probabilities.shape[1]:
            self.note(slots, [0] * len(slots), list(other.log_probabilities[list(slots)]))

    def _reserve(self, like: Sequence[Sequence[Tensor]], capacity: int) -> None:
        """Room for `capacity` tokens in every slot."""
        held = self.layers[0][0].shape[2] if self.layers else 0
        if capacity <= held:
            return
        capacity = max(capacity, held + held // 2)
        grown = []
        for index, pair in enumerate(like):
            grown.append([t.new_zeros(len(self.ids), t.shape[1], capacity, t.shape[3]) for t in pair])
            if held:
                for new, old in zip(grown[-1], self.layers[index], strict=True):
                    new[:, :, :held] = old
        self.layers = grown
