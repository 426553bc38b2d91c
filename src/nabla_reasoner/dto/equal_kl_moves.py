"""Where a row of logits goes, and what DTO is compared with: noise that explains a draw, and moves of equal KL.

`explaining_noise` is the Gumbel noise with which a sampled token is the argmax of its row (a second definition of a
flip); `equal_kl` moves a row along another direction until it is as far from where it began as DTO took it.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

MOVES = ("gradient", "sharpen", "random")
LARGEST = 2.0**20  # steps along a direction are sought up to here; a softmax is then one-hot


def divergence(moved: Float[Tensor, "rows vocab"], first: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
    """KL(softmax moved ‖ softmax first) of each row, in nats."""
    new, old = torch.log_softmax(moved, -1), torch.log_softmax(first, -1)
    return (new.exp() * (new - old)).sum(-1).clamp(min=0)


def equal_kl(
    first: Float[Tensor, "rows vocab"], direction: Float[Tensor, "rows vocab"], target: Float[Tensor, " rows"]
) -> Float[Tensor, "rows vocab"]:
    """first + s direction with s >= 0 such that KL(moved ‖ first) is the target, by bisection in 64 bits.

    The divergence grows with s (its slope is s times the variance of the direction under the moved row), up to
    -log p of the token that the direction favours; a target beyond that leaves the row one-hot at this token.

    Args:
        target: KL of each row, in nats.
    """
    z, d, wanted = first.double(), direction.double(), target.double()
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, LARGEST)
    for _ in range(80):
        middle = (low + high) / 2
        near = divergence(z + middle[:, None] * d, z) < wanted
        low, high = torch.where(near, middle, low), torch.where(near, high, middle)
    return (z + low[:, None] * d).to(first.dtype)


def apply_move(
    move: str,
    first: Float[Tensor, "rows vocab"],
    optimised: Float[Tensor, "rows vocab"],
    uniforms: Float[np.ndarray, "rows vocab"] | None,
) -> Float[Tensor, "rows vocab"]:
    """The rows that a token is drawn from: DTO's, or those of a move as far from the first rows as DTO's.

    Args:
        move: "gradient": DTO's rows. "sharpen": c·first with c >= 1. "random": along a Gaussian direction.
        uniforms: in [0, 1), the source of the random direction; None where it is not asked for.
    """
    if move == "gradient":
        return optimised
    target = divergence(optimised.double(), first.double())
    if move == "sharpen":
        return equal_kl(first, first, target)
    directions = torch.special.ndtri(torch.tensor(uniforms, device=first.device).clamp(min=1e-300))
    return equal_kl(first, directions.to(first.dtype), target)
