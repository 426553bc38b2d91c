"""Keys and values of what a model has read, so that no token is read twice.

A token's keys and values depend on the tokens before it alone. What a sequence shares with one that was read before is
therefore taken from there, in passes with and without gradients; a gradient is needed at later positions only.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from . import batches
from .models import Policy, RewardModel


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


class Reading(NamedTuple):
    """A pass over the unread parts of some texts.

    Attributes:
        texts: token ids.
        hidden: last hidden states; column 0 belongs to token `starts[i]` of text i, padding on the right.
        embeddings: input embeddings; a leaf where gradients were asked for.
        starts: number of leading tokens that were not read again.
        cache: keys and values of everything, as the model left them.
    """

    texts: Sequence[Sequence[int]]
    hidden: Float[Tensor, "batch width hidden"]
    embeddings: Float[Tensor, "batch width hidden"]
    starts: list[int]
    cache: DynamicCache

    @property
    def lengths(self) -> list[int]:
        """Number of tokens read, by text."""
        return [len(text) - start for text, start in zip(self.texts, self.starts, strict=True)]

    def last(self) -> Float[Tensor, "batch hidden"]:
        """Hidden states at the last token of each text."""
        device = self.hidden.device
        return self.hidden[torch.arange(len(self.texts), device=device), torch.tensor(self.lengths, device=device) - 1]

    def spans(self, firsts: Sequence[int]) -> list[tuple[int, int]]:
        """Per text, from where to where this reading yields token probabilities; nothing ahead of `firsts`."""
        return [
            (min(max(first, start + 1), len(text)), len(text))
            for first, start, text in zip(firsts, self.starts, self.texts, strict=True)
        ]

    def predictors(self, spans: Sequence[tuple[int, int]]) -> tuple[Float[Tensor, "rows hidden"], Int[Tensor, " rows"]]:
        """Hidden states that predict the tokens of the spans, and these tokens, all texts one after the other."""
        device = self.hidden.device
        rows = torch.cat([torch.full((right - left,), i) for i, (left, right) in enumerate(spans)])
        columns = torch.cat(
            [torch.arange(left, right) - start - 1 for (left, right), start in zip(spans, self.starts, strict=True)]
        )
        targets = [token for text, (left, right) in zip(self.texts, spans, strict=True) for token in text[left:right]]
        with torch.set_grad_enabled(self.hidden.requires_grad):
            return self.hidden[rows.to(device), columns.to(device)], torch.tensor(targets, device=device)


def read(
    model: Policy | RewardModel,
    texts: Sequence[Sequence[int]],
    limits: Sequence[int],
    cache: TokenCache | None = None,
    slots: Sequence[int] = (),
    *,
    overlap: int = 0,
    gradients: bool = False,
) -> Reading:
    """Run a model over the parts of texts that its cache does not hold.

    Args:
        limits: at most this many leading tokens of each text are taken from the cache, < its length.
        slots: slot of each text; unused without a cache.
        overlap: read so many of the shared tokens again (1 where the first new token's probability is wanted).
        gradients: make the embeddings a leaf and record the graph.
    """
    starts = [0] * len(texts)
    if cache is not None:
        starts = [
            max(0, min(cache.shared(slot, text) - overlap, limit))
            for slot, text, limit in zip(slots, texts, limits, strict=True)
        ]
    tails = [text[start:] for text, start in zip(texts, starts, strict=True)]
    ids = batches.padded(tails, model.embedding.device)
    past = cache.past(slots, starts) if cache is not None else DynamicCache()
    context: dict[str, Any] = {}
    if max(starts):
        begin = torch.tensor(starts, device=ids.device)[:, None]
        held = torch.arange(max(starts), device=ids.device) < begin
        context = {
            "attention_mask": torch.cat([held, held.new_ones(ids.shape)], 1),  # causality keeps padding unread
            "position_ids": begin + torch.arange(ids.shape[1], device=ids.device),
        }
    with torch.set_grad_enabled(gradients):
        embeddings = model.embedding[ids].requires_grad_(gradients)
        hidden = model.hidden_states(embeddings, past_key_values=past, **context)
    return Reading(texts, hidden, embeddings, starts, past)


class DecodingCache(Cache):
    """Keys and values of rows that decode together: each row writes at its own column, and nothing is ever moved.

    Attributes:
        lengths: tokens that each row holds.
    """

    def __init__(self, source: TokenCache, rows: int):
        self.lengths = [0] * rows
        self.device = source.layers[0][0].device
        super().__init__(layers=[_DecodingLayer(pair, rows) for pair in source.layers])

    def _reserve(self, width: int) -> None:
        held = self.layers[0].keys.shape[2]
        if width > held:
            extra = (0, 0, 0, max(width, held + held // 2, 64) - held)  # at the end of the columns
            for layer in self.layers:
                layer.keys = torch.nn.functional.pad(layer.keys, extra)
                layer.values = torch.nn.functional.pad(layer.values, extra)

    def admit(self, rows: Sequence[int], source: TokenCache, slots: Sequence[int]) -> None:
        """Give rows to new sequences."""
        own = torch.tensor(rows, device=self.device)
        width = max(len(source.ids[slot]) for slot in slots)
        self._reserve(width)
        for layer, (keys, values) in zip(self.layers, source.leading(slots, width), strict=True):
            layer.keys[own, :, :width] = keys
            layer.values[own, :, :width] = values
        for row, slot in zip(rows, slots, strict=True):
            self.lengths[row] = len(source.ids[slot])

    def open_column(self) -> tuple[Int[Tensor, "rows 1"], Tensor | None]:
        """Make room for one more token per row; returns its position, and the mask of what each row may read."""
        position = torch.tensor(self.lengths, device=self.device)
        width = max(self.lengths) + 1
        self._reserve(width)
        for layer in self.layers:
            layer.columns, layer.width = position, width
        uneven = min(self.lengths) + 1 < width
        self.lengths = [length + 1 for length in self.lengths]
        return position[:, None], torch.arange(width, device=self.device) <= position[:, None] if uneven else None

    def select(self, rows: Sequence[int]) -> None:
        """Keep some rows only."""
        kept = torch.tensor(rows, dtype=torch.long, device=self.device)
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[kept], layer.values[kept]
        self.lengths = [self.lengths[row] for row in rows]

    def hand_over(self, rows: Sequence[int], target: TokenCache, slots: Sequence[int], ids: Sequence[list[int]]):
        """Copy what some rows hold into another cache's slots; `ids` are the tokens held."""
        width = max(map(len, ids))
        chosen = torch.tensor(rows, device=self.device)
        held = DynamicCache()
        for index, layer in enumerate(self.layers):
            held.update(layer.keys[chosen, :, :width], layer.values[chosen, :, :width], index)
        target.put(slots, ids, [0] * len(rows), held)


class _DecodingLayer(DynamicLayer):
    """One layer of a `DecodingCache`."""

    def __init__(self, like: Sequence[Tensor], rows: int):
        super().__init__()
        self.keys, self.values = (t.new_zeros(rows, t.shape[1], 0, t.shape[-1]) for t in like)
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True
        self.columns, self.width = torch.zeros(rows, dtype=torch.long, device=self.device), 1

    def get_seq_length(self) -> int:
        return self.width - 1

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(self.columns), device=self.device)
        self.keys[rows, :, self.columns] = key_states[:, :, 0]
        self.values[rows, :, self.columns] = value_states[:, :, 0]
        return self.keys[:, :, : self.width], self.values[:, :, : self.width]
