"""A response with two relaxed tokens as a space for the checks of Theorem 4.1."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import chebyshev

from ..dto import objective
from ..models.language_models import Policy, RewardModel
from ..types import Messages
from .landscapes import Field, Landscape


def polynomial(coefficients: Float[np.ndarray, "first second"]) -> Field:
    """A polynomial on the unit square by its coefficients in products of Chebyshev polynomials."""
    degrees = [count - 1 for count in coefficients.shape]
    # column j holds the derivative of T_j in the T's, for u in [0, 1]
    derivatives = [
        np.stack([np.pad(2 * chebyshev.chebder(row), (0, 1)) for row in np.eye(degree + 1)], -1) for degree in degrees
    ]

    def field(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, second = (chebyshev.chebvander(2 * points[:, axis] - 1, degrees[axis]) for axis in (0, 1))
        along = first @ coefficients
        value = np.einsum("nj,nj->n", along, second)
        by_first = np.einsum("nj,nj->n", first @ (derivatives[0] @ coefficients), second)
        by_second = np.einsum("nj,nj->n", along, second @ derivatives[1])
        return value, np.stack([by_first, by_second], -1)

    return field


def fitted(values: Float[np.ndarray, "first second"]) -> np.ndarray:
    """Coefficients of the polynomial through values at the products of `chebyshev_nodes`."""
    bases = [np.linalg.inv(chebyshev.chebvander(2 * chebyshev_nodes(n) - 1, n - 1)) for n in values.shape]
    return bases[0] @ values @ bases[1].T


def chebyshev_nodes(count: int) -> np.ndarray:
    """Chebyshev's nodes on [0, 1]; [count]."""
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
    def landscape(self, nodes: Sequence[int]) -> Landscape:
        """log π and r as polynomials through the models' readings at a product of Chebyshev nodes.

        Particles ask for millions of gradients; polynomials give them. How far they are from the models is measured by
        `surrogate_error`.

        Args:
            nodes: number of nodes along each of the two coordinates.
        """
        axes = [torch.from_numpy(chebyshev_nodes(count)) for count in nodes]
        places = torch.cartesian_prod(*axes)

        def table(reward_weight: float, nll_weight: float) -> np.ndarray:
            values = [self.loss(place, reward_weight=reward_weight, nll_weight=nll_weight).item() for place in places]
            return fitted(np.reshape(values, nodes))

        reward, prior = table(1.0, 0.0), table(0.0, 1.0)
        return Landscape(
            lambda reward_weight, kl_weight: polynomial(reward_weight * reward + kl_weight * prior),
            (0.0, 0.0),
            (1.0, 1.0),
            walls=True,
        )

    def surrogate_error(
        self, landscape: Landscape, points: Float[np.ndarray, "n 2"], reward_weight: float
    ) -> tuple[float, float]:
        """Largest difference of L in nats, and of ∇L relative to its largest norm, from autograd through the models."""
        values, slopes = [], []
        for point in points:
            place = torch.from_numpy(point).requires_grad_()
            loss = self.loss(place, reward_weight=reward_weight, nll_weight=1.0)
            slopes.append(torch.autograd.grad(loss, place)[0].numpy())
            values.append(loss.item())
        fitted_values, fitted_slopes = landscape.loss(reward_weight, 1.0)(points)
        apart, wrong = fitted_values - values, np.linalg.norm(fitted_slopes - np.array(slopes), axis=1)
        return float(np.abs(apart).max()), float(wrong.max() / np.linalg.norm(slopes, axis=1).max())
