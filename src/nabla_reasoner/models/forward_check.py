"""Comparison of this package's way of running a model with the model's own `forward`, once, when it is loaded.

The package feeds embeddings, not ids, to the layers below the head; applies the head itself; and batches texts of
different lengths whose prefixes are cached. Each of these is wrong for some architectures. Two short texts are read
both ways, which costs four small forward passes. With a window of attention, one of them is longer than the window.
A pass over one token tells whether the FLOPs that would be recorded are those of the model.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import transformers
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from . import architecture
from .backbone import LanguageModel
from .chat_format import special_ids

Head = Callable[[Float[Tensor, "rows hidden"]], Float[Tensor, "rows outputs"]]
LENGTHS = (9, 4)  # tokens of the two texts; the first one also exceeds a window by so many
REST = 4  # largest number of tokens that are read after a cached prefix
# Largest difference, relative to the spread of the outputs. Rounding gives 1e-6 in float32 and 1e-2 in bfloat16.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}
FLOPS_TOLERANCE = 0.01  # of a token's FLOPs in the layers and the head; attention to the token itself may be added


_CHECKED: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()  # models that passed


class Difference(NamedTuple):
    """Largest difference of two outputs.

    Attributes:
        relative: its share of the spread of the expected outputs.
        expected, actual: the two numbers that differ most.
    """

    relative: float
    expected: float
    actual: float


def check_forward(language_model: LanguageModel, head: Head, *, scores: bool = False) -> None:
    """Compare the model's own outputs with `head` applied to our hidden states.

    Args:
        head: output matrix (logits) or score head (one column).
        scores: outputs are scores of a text and not logits.

    Raises:
        ValueError: the outputs or the FLOPs of a token differ, or outputs are not finite; the message names the model,
            both numbers and a remedy.
    """
    name = f"{language_model.name} ({type(language_model.model).__name__})"
    settings = [] if scores else architecture.logit_settings(language_model.model)
    if settings:
        raise ValueError(
            f"a language model's logits must be its output matrix applied to its last hidden state; {name} caps or "
            f"scales them ({', '.join(settings)}). Use another architecture, e.g. Qwen, Llama or Gemma 3."
        )
    texts = _texts(language_model)
    with torch.no_grad(), _refused(name, language_model.model.dtype):
        expected = [_own_outputs(language_model, text, scores=scores) for text in texts]
    if not all(output.isfinite().all() for output in expected):
        raise ValueError(
            f"the outputs of {name} must be finite; got NaN or infinity in {language_model.model.dtype}. "
            "Use dtype=float32 or other weights."
        )
    with torch.no_grad(), _refused(name, language_model.model.dtype):
        batched = [head(hidden) for hidden in _batched_states(language_model, texts)]
        alone = [head(_states(language_model, text)) for text in texts]
        scale = _scale(language_model, texts, expected, scores=scores)
    tolerance = TOLERANCES[language_model.model.dtype]
    what, head_name = ("score", "score head") if scores else ("logit", "output matrix")
    for outputs, ours in (
        (alone, f"the {head_name} applied to the last hidden state"),
        (batched, "the same text in a batch with another, its prefix cached"),
    ):
        outputs = [output[-len(rows) :] for output, rows in zip(outputs, expected, strict=True)]
        difference = _difference(expected, outputs, scale=scale)
        if not difference.relative <= tolerance:
            raise ValueError(
                f"{ours} must give what the model's own forward gives; {name} gives a {what} of "
                f"{difference.actual:.6g} instead of {difference.expected:.6g}, {difference.relative:.2g} of the "
                f"spread where {tolerance:g} is allowed. Use another architecture, e.g. Qwen or Llama."
            )
    _check_flops(language_model, name, texts[0][:1])
    _CHECKED.add(language_model.model)


def is_checked(language_model: LanguageModel) -> bool:
    """Return whether this model was compared with its own forward before."""
    return language_model.model in _CHECKED


def _check_flops(language_model: LanguageModel, name: str, token: list[int]) -> None:
    """Raise ValueError unless a pass over one token takes the FLOPs that its size says (see `cost`)."""
    size = language_model.size
    with torch.no_grad(), _refused(name, language_model.model.dtype), _plain_experts(language_model.model):
        with FlopCounterMode(display=False) as counter:
            _own_outputs(language_model, token, scores=False)
    counted, expected = counter.get_total_flops(), 2 * (size.layers + size.head)
    if abs(counted - expected) > FLOPS_TOLERANCE * expected + 4 * size.attention:
        raise ValueError(
            f"recorded FLOPs must be those of the model's products, and would be wrong; {name} takes {counted:,} for a "
            f"token, and {expected:,} would be recorded. Use another architecture, e.g. Qwen or Llama."
        )


@contextmanager
def _plain_experts(model: transformers.PreTrainedModel) -> Iterator[None]:
    """Compute experts by plain products: torch does not count the FLOPs of grouped kernels."""
    usual = model.get_experts_implementation()
    model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_experts_implementation(usual)


@contextmanager
def _refused(name: str, dtype: torch.dtype) -> Iterator[None]:
    """Turn any error of a forward pass, memory apart, into a ValueError that names the model."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an unknown architecture or an absurd configuration raises
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name} cannot be read from embeddings with a key-value cache in {dtype} ({type(error).__name__}: "
            f"{reason}). Check its config.json, try dtype=float32, or use another architecture, e.g. Qwen or Llama."
        ) from error


def _texts(language_model: LanguageModel) -> list[list[int]]:
    """Return two texts of ordinary tokens, spread over the vocabulary; the second differs from the first."""
    config = language_model.model.config
    avoided = special_ids(language_model.tokenizer) | {getattr(config, "pad_token_id", None)}
    rows = min(language_model.vocab_size, len(language_model.model.get_input_embeddings().weight))
    ordinary = [index for index in range(rows) if index not in avoided] or list(range(rows))
    span = max((span for span in architecture.spans(language_model.model).values() if _is_checked(span)), default=0)
    lengths = [min(length, language_model.context) for length in (span + LENGTHS[0], *LENGTHS[1:])]
    picked = [ordinary[(number * len(ordinary)) // sum(lengths)] for number in range(sum(lengths))]
    return [picked[: lengths[0]][::-1], picked[lengths[0] :]]


def _is_checked(span: int) -> bool:
    return LENGTHS[0] - REST <= span <= architecture.SPAN_CHECKED


def _own_outputs(language_model: LanguageModel, text: list[int], *, scores: bool) -> Float[Tensor, "rows outputs"]:
    """Return the outputs of the model's own forward: a row for each token, or one for a score of the whole text."""
    output = language_model.model(input_ids=torch.tensor([text], device=language_model.device), use_cache=False)
    logits = output.logits[0]
    logits = logits if logits.ndim == 2 else logits[None]  # a sequence classifier returns the last token's only
    if scores:  # of two labels, the score is the difference
        return logits.diff(dim=-1) if logits.shape[1] == 2 else logits
    return logits[:, : language_model.vocab_size]


def _states(language_model: LanguageModel, text: list[int]) -> Float[Tensor, "length hidden"]:
    ids = torch.tensor([text], device=language_model.device)
    return language_model.hidden_states(language_model.embedding[ids])[0]


def _batched_states(language_model: LanguageModel, texts: list[list[int]]) -> list[Float[Tensor, "length hidden"]]:
    """Return the hidden states of texts that are read together: their prefixes first, the rest from the cache.

    The rests are short, so that the columns between a short text's prefix and its rest exceed a window.
    """
    starts = [len(text) - max(1, min(len(text) // 2, REST)) for text in texts]
    heads = _padded([text[:start] or text[:1] for text, start in zip(texts, starts, strict=True)])
    tails = _padded([text[start:] for text, start in zip(texts, starts, strict=True)])
    cache, device, embedding = DynamicCache(), language_model.device, language_model.embedding
    first = language_model.hidden_states(embedding[heads.to(device)], past_key_values=cache)
    begin = torch.tensor(starts, device=device)[:, None]
    cached = torch.arange(heads.shape[1], device=device).expand(len(texts), -1)
    queries = begin + torch.arange(tails.shape[1], device=device)
    context = language_model.attention_inputs(torch.cat([cached.where(cached < begin, -1), queries], 1), queries)
    rest = language_model.hidden_states(embedding[tails.to(device)], past_key_values=cache, **context)
    return [
        torch.cat([first[row, :start], rest[row, : len(text) - start]])
        for row, (text, start) in enumerate(zip(texts, starts, strict=True))
    ]


def _padded(rows: list[list[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def _scale(language_model: LanguageModel, texts: list[list[int]], expected: list[Tensor], *, scores: bool) -> float:
    """Return the spread of the logits, or the typical size of a score: that of a random sum of the same products."""
    if not scores:
        return max((output.amax() - output.amin()).item() for output in expected)
    weight = language_model.model.score.weight
    return max((_states(language_model, text)[-1] * weight[0]).double().norm().item() for text in texts)


def _difference(expected: list[Tensor], actual: list[Tensor], *, scale: float) -> Difference:
    wanted, computed = (torch.cat([output.double().flatten() for output in outputs]) for outputs in (expected, actual))
    gaps = (wanted - computed).abs()
    gaps = gaps.masked_fill(gaps.isnan(), torch.inf)
    index = gaps.argmax()
    gap = gaps[index].item()
    return Difference(gap / scale if gap and scale else gap and torch.inf, wanted[index].item(), computed[index].item())
