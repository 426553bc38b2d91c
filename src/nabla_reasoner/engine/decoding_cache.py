"""Key-value cache of sequences that decode together."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from .kv_cache import TokenCache


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
