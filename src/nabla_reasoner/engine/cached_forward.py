"""Keys and values of what a model has read, so that no token is read twice.

A token's keys and values depend on the tokens before it alone. What a sequence shares with one that was read before is
therefore taken from there, in passes with and without gradients; a gradient is needed at later positions only.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from ..models.language_models import Policy, RewardModel
from . import batching
from .kv_cache import TokenCache


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
    ids = batching.padded(tails, model.embedding.device)
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
