"""Sampling of one token: temperature, top-k, top-p, keyed uniform numbers."""

import hashlib
import math
import numbers
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.arguments import check_kinds

LEAST_TEMPERATURE = 1e-9  # logits or rewards divided by a smaller one may be infinite


class Sampling(NamedTuple):
    """Settings of the distribution from which a token is sampled.

    Attributes:
        temperature: τ; 0 selects the most likely token, others are at least `LEAST_TEMPERATURE`.
        top_p: probability mass of the nucleus, in (0, 1].
        top_k: number of candidate tokens, >= 0; 0 means all.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0

    def check(self) -> "Sampling":
        """Raise ValueError if a value is out of range; return the settings unchanged."""
        check_kinds(self._asdict(), Sampling.__annotations__)
        if self.temperature < 0:
            raise ValueError(f"temperature must be >= 0; got {self.temperature}. Use 0 for greedy decoding.")
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise ValueError(
                f"temperature must be 0 or >= {LEAST_TEMPERATURE:g}; got {self.temperature}. Use 0 for greedy decoding."
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1]; got {self.top_p}. Use 1 to keep every token.")
        check_whole({"top_k": self.top_k})
        if self.top_k < 0:
            raise ValueError(f"top_k must be >= 0; got {self.top_k}. Use 0 to keep every token.")
        return self


def check_finite(settings: Mapping[str, object]) -> None:
    """Raise ValueError naming the first setting that is NaN or infinity, which pass any comparison by `<` or `>`."""
    for name, value in settings.items():
        if isinstance(value, numbers.Real) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number; got {value}. Write a number.")


def check_whole(settings: Mapping[str, object]) -> None:
    """Raise ValueError naming the first setting that is no whole number, such as 2.5, which a loop may never reach."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise ValueError(f"{name} must be a whole number; got {value!r}.")


def check_choice(name: str, value: object, valid: Collection[str]) -> None:
    """Raise ValueError unless the value is one of the valid ones."""
    if value not in list(valid):  # a dict would raise on a list, which has no hash
        raise ValueError(f"{name} must be one of {', '.join(valid)}; got {value!r}.")


def keyed_uniforms(seed: int, problem_id: str, repeat: int, stage: str, count: int) -> np.ndarray:
    """Return `count` uniform numbers in [0, 1) of the stream keyed by (seed, problem, repeat, stage).

    A longer request for the same key starts with the same numbers.
    """
    digest = hashlib.sha256(f"{seed}|{repeat}|{stage}|{problem_id}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"))).random(count)


def filtered_probabilities(logits: Float[Tensor, "batch vocab"], sampling: Sampling) -> Float[Tensor, "batch vocab"]:
    """Return softmax(z/τ) restricted to the top_k tokens, then to the nucleus, and renormalised.

    The most likely token is always included; at temperature 0 it has all the mass.
    """
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    probabilities = torch.softmax(logits / sampling.temperature, -1)
    if 0 < sampling.top_k < logits.shape[-1]:
        floor = probabilities.topk(sampling.top_k, -1).values[:, -1:]
        probabilities = probabilities.masked_fill(probabilities < floor, 0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        nucleus = ordered.masked_fill(ordered.cumsum(-1) - ordered >= sampling.top_p, 0)
        probabilities = torch.zeros_like(probabilities).scatter_(-1, order, nucleus)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


def draw(
    logits: Float[Tensor, "batch vocab"], uniform: Float[Tensor, " batch"], sampling: Sampling
) -> Int[Tensor, " batch"]:
    """Sample one token per row by inverting the cumulative distribution at `uniform` (in [0, 1))."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    ids = _candidates(logits, sampling.top_k)
    if ids is not None:
        return ids.gather(-1, _invert(logits.gather(-1, ids), uniform, sampling)[:, None])[:, 0]
    return _invert(logits, uniform, sampling)


def _candidates(logits: Float[Tensor, "batch vocab"], top_k: int) -> Int[Tensor, "batch candidates"] | None:
    """Return ids of the most likely tokens of each row, ascending: all that top_k keeps; None if all tokens count.

    Ties with the k-th place are kept too. In bfloat16 they are common, so each row gets as many ids as the row with the
    most. At a vocabulary of 150,000 the rest of a draw then costs a twentieth.
    """
    vocab = logits.shape[-1]
    if not 0 < top_k < vocab:
        return None
    width, kept = top_k, top_k
    while kept == width < vocab:  # a tie may go on after the last one
        width = min(2 * width, vocab)
        values, ids = logits.topk(width, -1)
        kept = max(top_k, int((values >= values[:, top_k - 1 : top_k]).sum(-1).max()))
    return ids[:, :kept].sort(-1).values


def _invert(
    logits: Float[Tensor, "batch vocab"], uniform: Float[Tensor, " batch"], sampling: Sampling
) -> Int[Tensor, " batch"]:
    cumulative = filtered_probabilities(logits.double(), sampling).cumsum(-1)
    # scaled by the total mass, which rounding can leave below 1 and below a uniform number
    threshold = uniform[:, None].double() * cumulative[:, -1:]
    return (cumulative <= threshold).sum(-1).clamp(max=logits.shape[-1] - 1)
