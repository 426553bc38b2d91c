"""Updates of logits that DTO is compared with: sharpening and a random direction, at DTO's KL divergence."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

MOVES = ("gradient", "sharpen", "random")
LARGEST = 2.0**20  # upper end of the bisection; a softmax is one-hot there


def divergence(moved: Float[Tensor, "rows vocab"], first: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
    """Return KL(softmax moved ‖ softmax first) of each row, in nats."""
    new, old = torch.log_softmax(moved, -1), torch.log_softmax(first, -1)
    return (new.exp() * (new - old)).sum(-1).clamp(min=0)


def equal_kl(
    first: Float[Tensor, "rows vocab"], direction: Float[Tensor, "rows vocab"], target: Float[Tensor, " rows"]
) -> Float[Tensor, "rows vocab"]:
    """Return first + s direction with s >= 0 such that KL(moved ‖ first) is the target, by bisection in float64.

    The divergence grows with s (its slope is s times the variance of the direction under the moved row), up to
    -log p of the token that the direction favours; with a target above that the row ends one-hot at this token.

    Args:
        target: KL of each row, in nats.
    """
    z, d, target = first.double(), direction.double(), target.double()
    low, high = torch.zeros_like(target), torch.full_like(target, LARGEST)
    for _ in range(80):
        middle = (low + high) / 2
        near = divergence(z + middle[:, None] * d, z) < target
        low, high = torch.where(near, middle, low), torch.where(near, high, middle)
    return (z + low[:, None] * d).to(first.dtype)


def apply_move(
    move: str,
    first: Float[Tensor, "rows vocab"],
    optimised: Float[Tensor, "rows vocab"],
    uniforms: Float[np.ndarray, "rows vocab"] | None,
) -> Float[Tensor, "rows vocab"]:
    """Return the rows that a token is drawn from: DTO's, or rows as far (in KL) from the first rows as DTO's.

    Args:
        move: "gradient": DTO's rows. "sharpen": c·first with c >= 1. "random": along a Gaussian direction.
        uniforms: source of the random direction, in [0, 1); None with any other move.
    """
    if move == "gradient":
        return optimised
    target = divergence(optimised.double(), first.double())
    if move == "sharpen":
        return equal_kl(first, first, target)
    directions = torch.special.ndtri(torch.tensor(uniforms, device=first.device).clamp(min=1e-300))
    return equal_kl(first, directions.to(first.dtype), target)
