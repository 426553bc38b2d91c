"""A response with two relaxed tokens, as a landscape for the checks of Theorem 4.1."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import chebyshev
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..dto import objective
from ..models.language_models import Policy, RewardModel
from ..types import Messages
from .landscapes import Field, Landscape

POINTS_AT_ONCE = 64  # at which the models are evaluated together


def polynomial(coefficients: Float[np.ndarray, "first second"]) -> Field:
    """Build a polynomial on the unit square from its coefficients in products of Chebyshev polynomials."""
    degrees = [count - 1 for count in coefficients.shape]
    derivatives = [_derivatives(count) for count in coefficients.shape]

    def field(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, second = (chebyshev.chebvander(2 * points[:, axis] - 1, degrees[axis]) for axis in (0, 1))
        along = first @ coefficients
        value = np.einsum("nj,nj->n", along, second)
        by_first = np.einsum("nj,nj->n", first @ (derivatives[0] @ coefficients), second)
        by_second = np.einsum("nj,nj->n", along, second @ derivatives[1])
        return value, np.stack([by_first, by_second], -1)

    return field


@functools.cache  # a landscape builds its polynomial again for every set of points
def _derivatives(count: int) -> np.ndarray:
    """Return a matrix whose column j holds the derivative of T_j in the first `count` T's, for u in [0, 1]."""
    matrix = np.stack([np.pad(2 * chebyshev.chebder(row), (0, 1)) for row in np.eye(count)], -1)
    matrix.flags.writeable = False
    return matrix


def fitted(values: Float[np.ndarray, "first second"]) -> np.ndarray:
    """Return the coefficients of the polynomial through values at the products of `chebyshev_nodes`."""
    bases = [np.linalg.inv(chebyshev.chebvander(2 * chebyshev_nodes(n) - 1, n - 1)) for n in values.shape]
    return bases[0] @ values @ bases[1].T


def chebyshev_nodes(count: int) -> np.ndarray:
    """Return `count` Chebyshev nodes on [0, 1]."""
    return 0.5 + 0.5 * chebyshev.chebpts1(count)


class RelaxedText:
    """A response with two relaxed tokens: y_i = (1 - u_i) onehot(token_i) + u_i onehot(other_i), u in [0, 1]².

    Args:
        text: the response after `prefix`; its other tokens stay hard.
        positions: two token positions in `text`.
        others: for each position, the text of the alternative token.

    Raises:
        ValueError: not two positions within the text and two others, or an other text of more than one token.
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
        self.policy = policy
        self.reward = reward.for_policy(policy)
        prefix_ids, ids = (policy.tokenizer.encode(part, add_special_tokens=False) for part in (prefix, text))
        others_ids = [policy.tokenizer.encode(other, add_special_tokens=False) for other in others]
        if len(positions) != 2 or len(others) != 2 or not all(0 <= position < len(ids) for position in positions):
            raise ValueError(
                f"a relaxed text needs two positions below {len(ids)} and two others; got {positions} and {others}."
            )
        if any(len(other_ids) != 1 for other_ids in others_ids):
            raise ValueError(f"each of the others must be one token; got {others}. Choose digits.")
        self.sequence = objective.make_sequence(policy, reward, messages, prefix_ids, ids)
        eye = torch.eye(policy.vocab_size, dtype=policy.embedding.dtype)
        self._hard = eye[ids]
        self._changes = torch.zeros(2, *self._hard.shape, dtype=self._hard.dtype)
        for change, position, (other,) in zip(self._changes, positions, others_ids, strict=True):
            change[position] = eye[other] - self._hard[position]

    def loss(self, u: Float[torch.Tensor, "2"], *, reward_weight: float, nll_weight: float) -> torch.Tensor:
        """Compute Eq. 2 at u, -λ r - ν log π, by both models; differentiable."""
        weights = {"reward_weight": reward_weight, "nll_weight": nll_weight}
        return objective.relaxed_objective(self.policy, self.reward, self.sequence, self.onehots(u), **weights)

    def onehots(self, u: Float[torch.Tensor, "2"]) -> Float[torch.Tensor, "length vocab"]:
        """Return the relaxed tokens at u."""
        return self._hard + u[0] * self._changes[0] + u[1] * self._changes[1]

    @torch.no_grad()
    def landscape(self, nodes: Sequence[int]) -> Landscape:
        """Interpolate log π and r by polynomials through the models' values at a product of Chebyshev nodes.

        Particle methods need millions of gradients, which only polynomials give in time. `surrogate_error` measures
        their distance from the models.

        Args:
            nodes: number of nodes along each of the two coordinates.
        """
        axes = [torch.from_numpy(chebyshev_nodes(count)) for count in nodes]

        def values(u: Float[torch.Tensor, "2"]) -> tuple[torch.Tensor, torch.Tensor]:
            return objective.relaxed_values(self.policy, self.reward, self.sequence, self.onehots(u))

        with sdpa_kernel(SDPBackend.MATH):  # the fused kernel of the CPU cannot be mapped over points
            both = torch.vmap(values, chunk_size=POINTS_AT_ONCE)(torch.cartesian_prod(*axes))
        reward, prior = (fitted(-part.numpy().reshape(nodes)) for part in both)
        return Landscape(
            loss=lambda reward_weight, kl_weight: polynomial(reward_weight * reward + kl_weight * prior),
            low=(0.0, 0.0),
            high=(1.0, 1.0),
            walls=True,
        )

    def surrogate_error(
        self, landscape: Landscape, points: Float[np.ndarray, "n 2"], reward_weight: float
    ) -> tuple[float, float]:
        """Compare a landscape's L with autograd through the models.

        Returns:
            Largest error of L in nats, and of ∇L relative to its largest norm.
        """
        values, slopes = [], []
        for point in points:
            u = torch.from_numpy(point).requires_grad_()
            loss = self.loss(u, reward_weight=reward_weight, nll_weight=1.0)
            slopes.append(torch.autograd.grad(loss, u)[0].numpy())
            values.append(loss.item())
        fitted_values, fitted_slopes = landscape.loss(reward_weight, 1.0)(points)
        slope_errors = np.linalg.norm(fitted_slopes - np.array(slopes), axis=1)
        scale = np.linalg.norm(slopes, axis=1).max()
        return float(np.abs(fitted_values - values).max()), float(slope_errors.max() / scale)
