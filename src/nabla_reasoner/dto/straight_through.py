"""Straight-through estimator (Section 3.2, arXiv 2603.04948), its chain rule (Eq. 25) and the rule of the hard token.

Forward the token is hard, backward it is softmax(z/τ). Because the forward value is one-hot, ∂L/∂y depends on the hard
sequence alone; only the softmax's Jacobian depends on the current logits. `logits_gradient` is that Jacobian.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

FLIPS = ("argmax", "gumbel")


def straight_through(
    logits: Float[Tensor, "*rows vocab"], tokens: Int[Tensor, "*rows"], *, temperature: float = 1.0
) -> Float[Tensor, "*rows vocab"]:
    """Return y = onehot(token) + softmax(z/τ) - stopgrad(softmax(z/τ)).

    Args:
        logits: z, any number of rows.
        tokens: hard token of each row. The paper writes argmax_j z_j; `hard_tokens` starts from the sampled token
            instead, so that both models read the text that is being revised.
        temperature: τ > 0 (not reported by the paper; 1 in the released code).

    Returns:
        Rows that equal the one-hot tokens and differentiate like softmax(z/τ).
    """
    soft = torch.softmax(logits / temperature, -1)
    hard = torch.nn.functional.one_hot(tokens, logits.shape[-1]).to(logits.dtype)
    return hard + soft - soft.detach()


def logits_gradient(
    logits: Float[Tensor, "rows vocab"], onehot_gradient: Float[Tensor, "rows vocab"], *, temperature: float = 1.0
) -> Float[Tensor, "rows vocab"]:
    """Return ∂L/∂z = p ⊙ (∂L/∂y - pᵀ ∂L/∂y) / τ with p = softmax(z/τ) (Eq. 25).

    A token with p ≈ 0 gets almost no gradient, and so does every token of a row that is almost certain.
    """
    probabilities = torch.softmax(logits if temperature == 1 else logits / temperature, -1)
    mean = (probabilities * onehot_gradient).sum(-1, keepdim=True)
    gradient = probabilities * (onehot_gradient - mean)
    return gradient if temperature == 1 else gradient / temperature


def hard_tokens(
    logits: Float[Tensor, "*rows vocab"],
    first_argmax: Int[Tensor, "*rows"],
    sampled: Int[Tensor, "*rows"],
    noise: Float[Tensor, "*rows vocab"] | None = None,
) -> Int[Tensor, "*rows"]:
    """Return each row's hard token: the sampled one until the row's argmax differs from its first argmax.

    From then on the hard token is the argmax; it is the sampled token again if the first argmax returns.

    Args:
        logits: z of each row.
        first_argmax: argmax of each row (with its noise) before the first step.
        sampled: token that was sampled at each row.
        noise: flip "gumbel": noise of `explaining_noise`, held fixed, so that the first argmax of z + noise is the
            sampled token itself; None: flip "argmax".
    """
    best = argmax(logits, noise)
    return torch.where(best == first_argmax, sampled, best)


def argmax(logits: Float[Tensor, "*rows vocab"], noise: Float[Tensor, "*rows vocab"] | None) -> Int[Tensor, "*rows"]:
    """Return the argmax of each row, with its noise if there is any."""
    return (logits if noise is None else logits + noise).max(-1).indices  # on a CPU three times as fast as argmax


def explaining_noise(
    logits: Float[Tensor, "rows vocab"],
    tokens: Int[Tensor, " rows"],
    uniforms: Float[np.ndarray, "rows vocab"],
    temperature: float,
) -> Float[Tensor, "rows vocab"]:
    """Return τ g with g drawn from the distribution of Gumbel noise given that argmax(z/τ + g) is the row's token.

    Our sampler inverts a cumulative distribution, so no such noise exists; its posterior given the token is exact. The
    largest of z/τ + g is Gumbel at logsumexp(z/τ) whatever its position; the others are Gumbel cut off at it. With a
    nucleus or top-k cut, and for tokens that were not drawn from this row, the condition on the token is the same.

    Args:
        logits: z of each row when the token was drawn.
        tokens: token of each row.
        uniforms: source of g, in [0, 1).
        temperature: τ > 0 of the draw.

    Returns:
        Noise in the units of z: argmax(z + noise) is the token, up to rounding.
    """
    scaled = logits.double() / temperature
    exponentials = -torch.log(-torch.log(torch.tensor(uniforms, device=logits.device).clamp(min=1e-300)))
    picked = tokens[:, None]
    largest = scaled.logsumexp(-1, keepdim=True) + exponentials.gather(1, picked)
    others = -torch.logaddexp(-largest, -(scaled + exponentials))  # Gumbel at `scaled`, cut off at the largest
    perturbed = others.scatter(1, picked, largest)
    return (temperature * (perturbed - scaled)).to(logits.dtype)
