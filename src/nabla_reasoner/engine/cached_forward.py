"""Forward passes over the tokens that a key-value cache does not hold.

A token's keys and values depend only on the tokens before it. Two sequences therefore share those of their common
prefix, in passes with and without gradients: a gradient is needed at later positions only.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from ..cost import Reads, one_pass
from ..models.language_models import LanguageModel
from . import batching
from .kv_cache import TokenCache
from .numerics import NonFiniteError, first_non_finite


class Reading(NamedTuple):
    """Result of a forward pass over the uncached tails of some texts.

    Attributes:
        texts: token ids of the whole texts.
        hidden: last hidden states; column 0 belongs to token `starts[i]` of text i, padding on the right.
        embeddings: input embeddings; with gradients, the leaf of the graph.
        starts: number of leading tokens taken from the cache, by text.
        cache: keys and values of the whole texts.
    """

    texts: Sequence[Sequence[int]]
    hidden: Float[Tensor, "batch width hidden"]
    embeddings: Float[Tensor, "batch width hidden"]
    starts: list[int]
    cache: DynamicCache

    @property
    def lengths(self) -> list[int]:
        """Number of tokens in the forward pass, by text."""
        return [len(text) - start for text, start in zip(self.texts, self.starts, strict=True)]

    @property
    def reads(self) -> list[Reads]:
        """What the pass read, by text, without outputs."""
        return [one_pass(start, len(text)) for text, start in zip(self.texts, self.starts, strict=True)]

    def last(self) -> Float[Tensor, "batch hidden"]:
        """Return the hidden states at the last token of each text."""
        device = self.hidden.device
        return self.hidden[torch.arange(len(self.texts), device=device), torch.tensor(self.lengths, device=device) - 1]

    def spans(self, firsts: Sequence[int]) -> list[tuple[int, int]]:
        """Return, per text, the range of tokens from `first` on whose probabilities this pass determines."""
        return [
            (min(max(first, start + 1), len(text)), len(text))
            for first, start, text in zip(firsts, self.starts, self.texts, strict=True)
        ]

    def predictors(self, spans: Sequence[tuple[int, int]]) -> tuple[Float[Tensor, "rows hidden"], Int[Tensor, " rows"]]:
        """Return the hidden states that predict the tokens of `spans`, and these tokens, texts concatenated."""
        device = self.hidden.device
        rows = torch.cat([torch.full((right - left,), i) for i, (left, right) in enumerate(spans)])
        columns = torch.cat(
            [torch.arange(left, right) - start - 1 for (left, right), start in zip(spans, self.starts, strict=True)]
        )
        targets = [token for text, (left, right) in zip(self.texts, spans, strict=True) for token in text[left:right]]
        with torch.set_grad_enabled(self.hidden.requires_grad):
            return self.hidden[rows.to(device), columns.to(device)], torch.tensor(targets, device=device)


def read(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    limits: Sequence[int],
    cache: TokenCache | None = None,
    slots: Sequence[int] = (),
    *,
    overlap: int = 0,
    gradients: bool = False,
) -> Reading:
    """Run a model over the tails of texts that its cache does not hold.

    Args:
        limits: largest number of leading tokens of each text to take from the cache, < its length.
        slots: cache slot of each text; unused without a cache.
        overlap: number of cached tokens to read again (1 to obtain the probability of the first uncached token).
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
        cached = torch.arange(max(starts), device=ids.device).expand(len(texts), -1)
        positions = begin + torch.arange(ids.shape[1], device=ids.device)
        context = model.attention_inputs(torch.cat([cached.where(cached < begin, -1), positions], 1), positions)
    with torch.set_grad_enabled(gradients):
        embeddings = model.embedding[ids].requires_grad_(gradients)
        hidden = model.hidden_states(embeddings, past_key_values=past, **context)
    return Reading(texts, hidden, embeddings, starts, past)


def check_gradient(model: LanguageModel, reading: Reading, gradient: Float[Tensor, "batch width hidden"]) -> None:
    """Raise NonFiniteError if a gradient with respect to the embeddings of a pass is NaN or infinite."""
    if (row := first_non_finite(gradient)) is not None:
        token = reading.starts[row] + first_non_finite(gradient[row])
        raise NonFiniteError(f"the gradient by the embedding of {model.name} at token {token} of its text")
