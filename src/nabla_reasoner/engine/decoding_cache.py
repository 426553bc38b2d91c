"""Key-value cache of sequences that are decoded together."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from ..models.language_models import LanguageModel
from .kv_cache import TokenCache, distinct_indices


class DecodingCache(Cache):
    """Keys and values of rows of different lengths; each row writes at its own column, and no entry is moved.

    Attributes:
        lengths: number of tokens in each row.
        ended: whether a row's sequence has ended. What is read in it then is not used, and it never grows beyond the
            longest of the others: some models rotate the whole batch by its largest position.
    """

    def __init__(self, source: TokenCache, rows: int):
        self.lengths = [0] * rows
        self.ended = [False] * rows
        self.device = source.layers[0][0].device
        super().__init__(layers=[_DecodingLayer(pair, rows) for pair in source.layers])

    def _reserve(self, width: int) -> None:
        old_width = self.layers[0].keys.shape[2]
        if width > old_width:
            padding = (0, 0, 0, max(width, old_width + old_width // 2, 64) - old_width)  # at the end of the columns
            for layer in self.layers:
                layer.keys = torch.nn.functional.pad(layer.keys, padding)
                layer.values = torch.nn.functional.pad(layer.values, padding)

    def admit(self, rows: Sequence[int], source: TokenCache, slots: Sequence[int]) -> None:
        """Copy slots of another cache into rows."""
        targets = torch.tensor(rows, device=self.device)
        width = max(len(source.ids[slot]) for slot in slots)
        self._reserve(width)
        with distinct_indices():
            for layer, (keys, values) in zip(self.layers, source.leading(slots, width), strict=True):
                layer.keys[targets, :, :width] = keys
                layer.values[targets, :, :width] = values
        for row, slot in zip(rows, slots, strict=True):
            self.lengths[row] = len(source.ids[slot])
            self.ended[row] = False

    def end(self, row: int) -> None:
        """Note that the sequence of a row has ended."""
        self.ended[row] = True

    def open_column(self) -> tuple[Int[Tensor, "rows 1"], Int[Tensor, "rows width"] | None]:
        """Append a token to every row; in an ended row it may replace the one read last.

        Returns:
            The token's position in each row, and the position of each column's token, -1 for an unused column; None if
            all rows are equally long.
        """
        position = torch.tensor(self.lengths, device=self.device)
        width = max(self.lengths) + 1
        self._reserve(width)
        for layer in self.layers:
            layer.columns, layer.width = position, width
        uneven = min(self.lengths) + 1 < width
        longest = max((length for length, ended in zip(self.lengths, self.ended, strict=True) if not ended), default=0)
        self.lengths = [length + 1 if length <= longest else length for length in self.lengths]
        if not uneven:
            return position[:, None], None
        columns = torch.arange(width, device=self.device).expand(len(position), -1)
        return position[:, None], columns.where(columns <= position[:, None], -1)

    def select(self, rows: Sequence[int]) -> None:
        """Remove all rows but these."""
        index = torch.tensor(rows, dtype=torch.long, device=self.device)
        for layer in self.layers:
            layer.keys = layer.keys[index]
            layer.values = layer.values[index]
        self.lengths = [self.lengths[row] for row in rows]
        self.ended = [self.ended[row] for row in rows]

    def copy_to(self, target: TokenCache, slots: Sequence[int], rows: Sequence[int], ids: Sequence[list[int]]) -> None:
        """Copy rows into another cache's slots; `ids` are their tokens."""
        width = max(map(len, ids))
        index = torch.tensor(rows, device=self.device)
        copied = DynamicCache()
        for number, layer in enumerate(self.layers):
            copied.update(layer.keys[index, :, :width], layer.values[index, :, :width], number)
        target.put(slots, ids, [0] * len(rows), copied)


class _DecodingLayer(DynamicLayer):
    """One layer of a `DecodingCache`."""

    def __init__(self, like: Sequence[Tensor], rows: int):
        super().__init__()
        self.keys, self.values = (t.new_zeros(rows, t.shape[1], 0, t.shape[-1]) for t in like)
        self.dtype = self.keys.dtype
        self.device = self.keys.device
        self.is_initialized = True
        self.columns = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.width = 1

    def get_seq_length(self) -> int:
        return self.width - 1

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(self.columns), device=self.device)
        with distinct_indices():
            self.keys[rows, :, self.columns] = key_states[:, :, 0]
            self.values[rows, :, self.columns] = value_states[:, :, 0]
        return self.keys[:, :, : self.width], self.values[:, :, : self.width]


def read_tokens(
    model: LanguageModel, cache: DecodingCache, tokens: Int[Tensor, " rows"]
) -> Float[Tensor, "rows hidden"]:
    """Read one more token in every row; return the hidden states that predict the next one."""
    positions, columns = cache.open_column()
    context = {"attention_mask": None, "position_ids": positions}
    if columns is not None:
        context = model.attention_inputs(columns, positions)
    return model.hidden_states(model.embedding[tokens[:, None]], past_key_values=cache, **context)[:, -1]
