"""Spaces to check Theorem 4.1 on: a prior π and a reward r over points of a box, in one or two dimensions.

    L(x) = -λ r(x) - β log π(x)          Eq. 2 in continuous space; the paper's KL weight β is 1
    ρ* ∝ π exp(λ r / β) = exp(-L / β)    minimiser of L_PPO(ρ) = -E_ρ[λ r] + β KL(ρ‖π) (Eq. 3)

Two kinds. A mixture of Gaussians with a reward of bumps lives in free space; its box only has to hold all but a
negligible part of the mass. A relaxed text lives on the unit square, each coordinate how far a token has moved towards
another one, as two real models read the mixed embeddings; the square's sides are walls that reflect.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# A scalar function: [n, d] points to its [n] values and [n, d] gradients.
Field = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Landscape(NamedTuple):
    """π and r on a box.

    Attributes:
        loss: L = -λ r - β log π, up to a constant, as a field; called with λ and β.
        low, high: corners of the box.
        walls: whether particles are reflected at the box; otherwise it is only where densities are tabulated.
    """

    loss: Callable[[float, float], Field]
    low: tuple[float, ...]
    high: tuple[float, ...]
    walls: bool

    def log_prior(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """log π up to a constant."""
        return -self.loss(0.0, 1.0)(points)[0]

    def reward(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """r."""
        return -self.loss(1.0, 0.0)(points)[0]


class Grid(NamedTuple):
    """Equal cells of a landscape's box.

    Attributes:
        centres: of the cells, the last dimension running fastest.
        shape: number of cells along each dimension.
        widths: of a cell along each dimension.
    """

    centres: Float[np.ndarray, "cells d"]
    shape: tuple[int, ...]
    widths: tuple[float, ...]


def tabulate(landscape: Landscape, cells: int) -> Grid:
    """`cells` cells along each dimension."""
    widths = [(high - low) / cells for low, high in zip(landscape.low, landscape.high, strict=True)]
    axes = [low + width * (np.arange(cells) + 0.5) for low, width in zip(landscape.low, widths, strict=True)]
    centres = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], -1)
    return Grid(centres, (cells,) * len(axes), tuple(widths))


def normalised(log_weights: Float[np.ndarray, " cells"]) -> np.ndarray:
    """Masses in proportion to exp(log_weights)."""
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()


def log_mixture(weights: Sequence[float], means: Sequence[Sequence[float]], scale: float) -> Field:
    """log of a mixture of round Gaussians of one standard deviation, up to a constant."""
    log_shares, centres = np.log(weights), np.asarray(means, dtype=float)

    def field(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        offsets = points[:, None, :] - centres
        exponents = log_shares - 0.5 * np.einsum("nkd,nkd->nk", offsets, offsets) / scale**2
        top = exponents.max(1)
        terms = np.exp(exponents - top[:, None])
        total = terms.sum(1)
        return top + np.log(total), -np.einsum("nk,nkd->nd", terms, offsets) / (scale**2 * total[:, None])

    return field


def bumps(heights: Sequence[float], centres: Sequence[Sequence[float]], width: float) -> Field:
    """Σ_k height_k exp(-|x - centre_k|² / 2 width²)."""
    tops, places = np.asarray(heights, dtype=float), np.asarray(centres, dtype=float)

    def field(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        offsets = points[:, None, :] - places
        terms = tops * np.exp(-0.5 * np.einsum("nkd,nkd->nk", offsets, offsets) / width**2)
        return terms.sum(1), -np.einsum("nk,nkd->nd", terms, offsets) / width**2

    return field


def mixture(
    *,
    weights: Sequence[float],
    means: Sequence[Sequence[float]],
    scale: float,
    heights: Sequence[float],
    centres: Sequence[Sequence[float]],
    width: float,
    reach: float,
) -> Landscape:
    """A free landscape of dimension 1 or 2: π a mixture of Gaussians, r a sum of bumps, box [-reach, reach]^d."""
    prior, reward = log_mixture(weights, means, scale), bumps(heights, centres, width)

    def loss(reward_weight: float, kl_weight: float) -> Field:
        def field(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            pairs = zip(prior(points), reward(points), strict=True)
            value, slope = (-kl_weight * own - reward_weight * other for own, other in pairs)
            return value, slope

        return field

    corner = (float(reach),) * len(means[0])
    return Landscape(loss, tuple(-value for value in corner), corner, walls=False)
