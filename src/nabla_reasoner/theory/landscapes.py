"""Test problems for Theorem 4.1: a prior π and a reward r over points of a box, in one or two dimensions.

    L(x) = -λ r(x) - β log π(x)          Eq. 2 in continuous space; the paper's KL weight β is 1
    ρ* ∝ π exp(λ r / β) = exp(-L / β)    minimiser of L_PPO(ρ) = -E_ρ[λ r] + β KL(ρ‖π) (Eq. 3)

The box of a `mixture` only has to hold nearly all mass; the box of a `RelaxedText` has walls that reflect.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# A scalar function: [n, d] points to its [n] values and [n, d] gradients.
Field = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Masses = Float[np.ndarray, " cells"]
Points = Float[np.ndarray, "n d"]


class Landscape(NamedTuple):
    """π and r on a box.

    Attributes:
        loss: L = -λ r - β log π up to a constant, given λ and β.
        low, high: corners of the box.
        walls: whether the box reflects particles; otherwise it only bounds the grid of densities.
    """

    loss: Callable[[float, float], Field]
    low: tuple[float, ...]
    high: tuple[float, ...]
    walls: bool

    def log_prior(self, points: Points) -> Float[np.ndarray, " n"]:
        """Return log π up to a constant."""
        return -self.loss(0.0, 1.0)(points)[0]

    def reward(self, points: Points) -> Float[np.ndarray, " n"]:
        """Return r."""
        return -self.loss(1.0, 0.0)(points)[0]


class Grid(NamedTuple):
    """Equal cells of a landscape's box.

    Attributes:
        centres: centre of each cell; the last dimension varies fastest.
        shape: number of cells along each dimension.
        widths: cell width along each dimension.
    """

    centres: Float[np.ndarray, "cells d"]
    shape: tuple[int, ...]
    widths: tuple[float, ...]


def tabulate(landscape: Landscape, cells: int) -> Grid:
    """Divide the box into `cells` cells along each dimension."""
    widths = [(high - low) / cells for low, high in zip(landscape.low, landscape.high, strict=True)]
    axes = [low + width * (np.arange(cells) + 0.5) for low, width in zip(landscape.low, widths, strict=True)]
    centres = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], -1)
    return Grid(centres, (cells,) * len(axes), tuple(widths))


def normalised(log_weights: Float[np.ndarray, " cells"]) -> np.ndarray:
    """Return masses proportional to exp(log_weights)."""
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()


@dataclass(frozen=True)
class FlowProblem:
    """Eq. 3 on a landscape, with densities tabulated on a grid.

    Attributes:
        reward_weight, kl_weight: λ and β.
        cells: number of grid cells along each dimension.
        bins: number of bins along each dimension, for comparing particles with densities; it divides `cells`.
    """

    landscape: Landscape
    reward_weight: float
    kl_weight: float
    cells: int
    bins: int = 1

    @cached_property
    def loss(self) -> Field:
        """L at these weights."""
        return self.landscape.loss(self.reward_weight, self.kl_weight)

    @cached_property
    def grid(self) -> Grid:
        """The grid of `cells` cells along each dimension."""
        return tabulate(self.landscape, self.cells)

    @cached_property
    def prior(self) -> Masses:
        """π of each cell."""
        return normalised(self.landscape.log_prior(self.grid.centres))

    @cached_property
    def optimum(self) -> Masses:
        """ρ* ∝ π exp(λ r / β) of each cell: the closed form."""
        log_prior, reward = self.landscape.log_prior(self.grid.centres), self.landscape.reward(self.grid.centres)
        return normalised(log_prior + self.reward_weight * reward / self.kl_weight)

    def bin_masses(self, masses: Masses) -> Float[np.ndarray, " bins"]:
        """Sum the masses of the cells in each bin."""
        merged = masses.reshape([length for cells in self.grid.shape for length in (self.bins, cells // self.bins)])
        return merged.sum(tuple(range(1, merged.ndim, 2))).ravel()

    def bin_points(self, points: Points) -> Float[np.ndarray, " bins"]:
        """Return the share of the points in each bin; a point outside the box counts in none."""
        ranges = list(zip(self.landscape.low, self.landscape.high, strict=True))
        counts, _ = np.histogramdd(points, bins=self.bins, range=ranges)
        return counts.ravel() / len(points)


def log_mixture(weights: Sequence[float], means: Sequence[Sequence[float]], scale: float) -> Field:
    """Return the log density of a mixture of isotropic Gaussians with one standard deviation, up to a constant."""
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
    """Return Σ_k height_k exp(-|x - centre_k|² / 2 width²)."""
    peaks, positions = np.asarray(heights, dtype=float), np.asarray(centres, dtype=float)

    def field(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        offsets = points[:, None, :] - positions
        terms = peaks * np.exp(-0.5 * np.einsum("nkd,nkd->nk", offsets, offsets) / width**2)
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
    """Build a landscape without walls: π is a Gaussian mixture, r a sum of bumps, the box [-reach, reach]^d."""
    prior, reward = log_mixture(weights, means, scale), bumps(heights, centres, width)

    def loss(reward_weight: float, kl_weight: float) -> Field:
        def field(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            log_prior, prior_slope = prior(points)
            height, reward_slope = reward(points)
            return (
                -kl_weight * log_prior - reward_weight * height,
                -kl_weight * prior_slope - reward_weight * reward_slope,
            )

        return field

    corner = (float(reach),) * len(means[0])
    return Landscape(loss, tuple(-value for value in corner), corner, walls=False)
