"""Spaces to check Theorem 4.1 on: a prior π and a reward r over points of a box, in one or two dimensions.

    L(x) = -λ r(x) - β log π(x)          Eq. 2 in continuous space; the paper's KL weight β is 1
    ρ* ∝ π exp(λ r / β) = exp(-L / β)    minimiser of L_PPO(ρ) = -E_ρ[λ r] + β KL(ρ‖π) (Eq. 3)

Two kinds. A mixture of Gaussians with a reward of bumps lives in free space; its box only has to hold all but a
negligible part of the mass. A relaxed text lives on the unit square, each coordinate how far one token has moved towards
another one, as two real models read the mixed embeddings; the square's sides are walls that reflect.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import chebyshev

from . import objective
from .models import Messages, Policy, RewardModel


class Field(NamedTuple):
    """A scalar function of points and its gradient.

    Attributes:
        value: [n, d] points to [n] numbers.
        gradient: [n, d] points to [n, d] numbers.
    """

    value: Callable[[np.ndarray], np.ndarray]
    gradient: Callable[[np.ndarray], np.ndarray]


class Landscape(NamedTuple):
    """π and r on a box.

    Attributes:
        log_prior: log π up to a constant.
        reward: r.
        low, high: corners of the box.
        walls: whether particles are reflected at the box; otherwise it is only where densities are tabulated.
    """

    log_prior: Field
    reward: Field
    low: tuple[float, ...]
    high: tuple[float, ...]
    walls: bool

    def potential(self, points: Float[np.ndarray, "n d"], reward_weight: float, kl_weight: float) -> np.ndarray:
        """L = -λ r - β log π, up to a constant; [n]."""
        return -reward_weight * self.reward.value(points) - kl_weight * self.log_prior.value(points)

    def slope(self, points: Float[np.ndarray, "n d"], reward_weight: float, kl_weight: float) -> np.ndarray:
        """∇L; [n, d]."""
        return -reward_weight * self.reward.gradient(points) - kl_weight * self.log_prior.gradient(points)


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
    shares, centres = np.asarray(weights, dtype=float), np.asarray(means, dtype=float)

    def parts(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        offsets = points[:, None, :] - centres
        exponents = -0.5 * np.einsum("nkd,nkd->nk", offsets, offsets) / scale**2
        top = exponents.max(1)
        return offsets, shares * np.exp(exponents - top[:, None]), top

    def value(points: np.ndarray) -> np.ndarray:
        _, terms, top = parts(points)
        return top + np.log(terms.sum(1))

    def gradient(points: np.ndarray) -> np.ndarray:
        offsets, terms, _ = parts(points)
        return -np.einsum("nk,nkd->nd", terms, offsets) / (scale**2 * terms.sum(1, keepdims=True))

    return Field(value, gradient)


def bumps(heights: Sequence[float], centres: Sequence[Sequence[float]], width: float) -> Field:
    """Σ_k height_k exp(-|x - centre_k|² / 2 width²)."""
    tops, places = np.asarray(heights, dtype=float), np.asarray(centres, dtype=float)

    def parts(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        offsets = points[:, None, :] - places
        return offsets, tops * np.exp(-0.5 * np.einsum("nkd,nkd->nk", offsets, offsets) / width**2)

    def gradient(points: np.ndarray) -> np.ndarray:
        offsets, terms = parts(points)
        return -np.einsum("nk,nkd->nd", terms, offsets) / width**2

    return Field(lambda points: parts(points)[1].sum(1), gradient)


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
    corner = (float(reach),) * len(means[0])
    low = tuple(-value for value in corner)
    return Landscape(log_mixture(weights, means, scale), bumps(heights, centres, width), low, corner, walls=False)


def polynomial(values: Float[np.ndarray, "nodes nodes"]) -> Field:
    """The polynomial on the unit square through values at the product of Chebyshev nodes (see `chebyshev_nodes`)."""
    degree = len(values) - 1
    basis = np.linalg.inv(chebyshev.chebvander(2 * chebyshev_nodes(len(values)) - 1, degree))
    coefficients = basis @ values @ basis.T
    by_first, by_second = (2 * chebyshev.chebder(coefficients, axis=axis) for axis in (0, 1))

    def evaluate(points: np.ndarray, table: np.ndarray) -> np.ndarray:
        first, second = (chebyshev.chebvander(2 * points[:, axis] - 1, degree) for axis in (0, 1))
        return np.einsum("nj,nj->n", first[:, : len(table)] @ table, second[:, : table.shape[1]])

    def gradient(points: np.ndarray) -> np.ndarray:
        return np.stack([evaluate(points, by_first), evaluate(points, by_second)], -1)

    return Field(lambda points: evaluate(points, coefficients), gradient)


def chebyshev_nodes(count: int) -> np.ndarray:
    """Nodes on [0, 1]; [count]."""
    return 0.5 + 0.5 * chebyshev.chebpts1(count)


class RelaxedText:
    """A response in which two tokens are relaxed: y_i = (1 - u_i) onehot(token_i) + u_i onehot(other_i), u in [0, 1]².

    Attributes:
        sequence: the response for both models; tokens but the two stay as they are.
    """

    def __init__(
        self,
        policy: Policy,
        reward: RewardModel,
        messages: Messages,
        *,
        prefix: str,
        text: str,
        positions: Sequence[int],
        others: Sequence[str],
    ):
        """`positions` are two tokens of `text`, `others` the tokens that they may turn into.

        Raises:
            ValueError: not two positions within the text, or other words of more than one token.
        """
        self.policy, self.reward, self.positions = policy, reward, list(positions)
        prefix_ids, ids = (policy.tokenizer.encode(part, add_special_tokens=False) for part in (prefix, text))
        others_ids = [policy.tokenizer.encode(word, add_special_tokens=False) for word in others]
        if len(positions) != 2 or len(others) != 2 or not all(0 <= position < len(ids) for position in positions):
            raise ValueError(f"a relaxed text needs two positions below {len(ids)} and two others; got {positions}.")
        if any(len(word) != 1 for word in others_ids):
            raise ValueError(f"each of the other words must be one token; got {others}. Choose digits.")
        self.sequence = objective.make_sequence(policy, reward, messages, prefix_ids, ids)
        eye = torch.eye(policy.vocab_size, dtype=policy.embedding.dtype)
        self._hard = eye[ids]
        self._moves = torch.zeros(2, *self._hard.shape, dtype=self._hard.dtype)
        for move, position, (other,) in zip(self._moves, self.positions, others_ids, strict=True):
            move[position] = eye[other] - self._hard[position]

    def loss(self, place: Float[torch.Tensor, "2"], *, reward_weight: float, nll_weight: float) -> torch.Tensor:
        """Eq. 2 at u = `place`, differentiable: -λ r - ν log π as the two models compute it."""
        onehots = self._hard + place[0] * self._moves[0] + place[1] * self._moves[1]
        return objective.relaxed_objective(
            self.policy, self.reward, self.sequence, onehots, reward_weight=reward_weight, nll_weight=nll_weight
        )

    @torch.no_grad()
    def landscape(self, nodes: int) -> Landscape:
        """log π and r as polynomials of degree nodes - 1 in each coordinate, through nodes² readings by the models.

        Particles ask for millions of gradients; the polynomial gives them. How far it is from the models is measured
        by `surrogate_error`.
        """
        axis = torch.from_numpy(chebyshev_nodes(nodes))
        log_prior, reward = np.empty((nodes, nodes)), np.empty((nodes, nodes))
        for i, first in enumerate(axis):
            for j, second in enumerate(axis):
                place = torch.stack([first, second])
                log_prior[i, j] = -self.loss(place, reward_weight=0.0, nll_weight=1.0)
                reward[i, j] = -self.loss(place, reward_weight=1.0, nll_weight=0.0)
        return Landscape(polynomial(log_prior), polynomial(reward), (0.0, 0.0), (1.0, 1.0), walls=True)

    def surrogate_error(self, landscape: Landscape, points: Float[np.ndarray, "n 2"], reward_weight: float) -> tuple:
        """Largest difference of L in nats, and of ∇L relative to its largest norm, against autograd through the models."""
        values, slopes = [], []
        for point in points:
            place = torch.from_numpy(point).requires_grad_()
            loss = self.loss(place, reward_weight=reward_weight, nll_weight=1.0)
            slopes.append(torch.autograd.grad(loss, place)[0].numpy())
            values.append(loss.item())
        value_error = np.abs(landscape.potential(points, reward_weight, 1.0) - values).max()
        slope_error = np.abs(landscape.slope(points, reward_weight, 1.0) - np.array(slopes)).max()
        return float(value_error), float(slope_error / np.linalg.norm(slopes, axis=1).max())
