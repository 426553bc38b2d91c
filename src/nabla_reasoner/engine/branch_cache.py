"""Keys and values of sequences that branch: what two of them have in common is held once."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache

from .kv_cache import TokenCache


class BranchCache(TokenCache):
    """Slots without number, as the branches of a search tree need them.

    Every token that was read lies in one pool, and a slot lists where its tokens lie: a fork copies that list only, and
    the pool grows by what is new, not by [slots, longest sequence].

    Attributes:
        places: rows of the pool by slot, one for each of its tokens.
        log_probabilities: of each row's token given those before it, where a pass computed it; nats.
        free: rows in which nothing is held.
    """

    def __init__(self):
        self.ids: dict[int, list[int]] = defaultdict(list)
        self.places: dict[int, list[int]] = defaultdict(list)
        self.layers: list[list[Tensor]] = []  # [capacity, heads, head size]
        self.log_probabilities: Float[Tensor, " capacity"] = torch.zeros(0, dtype=torch.float64)
        self.free: list[int] = []

    def fork(self, source: int, target: int) -> None:
        """Let one slot hold what another holds."""
        self.ids[target], self.places[target] = list(self.ids[source]), list(self.places[source])

    def cut(self, slot: int, length: int) -> None:
        """Forget a slot's tokens from an index on; no other slot may hold them."""
        self.free += self.places[slot][length:]
        del self.ids[slot][length:], self.places[slot][length:]

    def leading(self, slots: Sequence[int], width: int) -> Iterator[tuple[Tensor, Tensor]]:
        index = torch.zeros(len(slots), width, dtype=torch.long)
        for row, slot in enumerate(slots):
            own = self.places[slot][:width]
            index[row, : len(own)] = torch.tensor(own, dtype=torch.long)
        index = index.to(self.layers[0][0].device)
        return ((keys[index].transpose(1, 2), values[index].transpose(1, 2)) for keys, values in self.layers)

    def put(self, slots: Sequence[int], ids: Sequence[Sequence[int]], starts: Sequence[int], new: Cache) -> None:
        width = max(len(text) - start for text, start in zip(ids, starts, strict=True))
        skip = new.layers[0].keys.shape[2] - width
        # what was read twice stays where it lies, with its log-probability
        begins = [self.shared(slot, text) for slot, text in zip(slots, ids, strict=True)]
        self._reserve(sum(len(text) - begin for text, begin in zip(ids, begins, strict=True)), new)
        origins, places = [], []
        for row, (slot, text, start, begin) in enumerate(zip(slots, ids, starts, begins, strict=True)):
            fresh = [self.free.pop() for _ in range(begin, len(text))]
            self.ids[slot], self.places[slot] = list(text), self.places[slot][:begin] + fresh
            origins += [(row, skip + column - start) for column in range(begin, len(text))]
            places += fresh
        if not places:
            return
        device = new.layers[0].keys.device
        row, column = torch.tensor(origins, device=device).T
        place = torch.tensor(places, device=device)
        for own, layer in zip(self.layers, new.layers, strict=True):
            own[0][place] = layer.keys[row, :, column].detach()
            own[1][place] = layer.values[row, :, column].detach()

    def note(self, slots: Sequence[int], starts: Sequence[int], values: Sequence[Float[Tensor, " _"]]) -> None:
        for slot, start, own in zip(slots, starts, values, strict=True):
            places = torch.tensor(self.places[slot][start : start + len(own)], dtype=torch.long)
            self.log_probabilities[places] = own.to(self.log_probabilities)

    def known(self, slot: int, start: int, end: int) -> float:
        return self.log_probabilities[self.places[slot][start:end]].sum().item()

    def _reserve(self, count: int, like: Cache) -> None:
        """Have at least `count` rows in which nothing is held."""
        if count <= len(self.free):
            return
        held = len(self.log_probabilities)
        extra = max(count - len(self.free), held // 2)
        self.free += range(held + extra - 1, held - 1, -1)  # taken from the end
        self.log_probabilities = torch.nn.functional.pad(self.log_probabilities, (0, extra))
        if not self.layers:
            pairs = [(layer.keys, layer.values) for layer in like.layers]
            self.layers = [[t.new_zeros(0, t.shape[1], t.shape[3]) for t in pair] for pair in pairs]
        self.layers = [[torch.cat([t, t.new_zeros(extra, *t.shape[1:])]) for t in pair] for pair in self.layers]
