"""Facts about DTO's gradient, as numbers: Prop. C.1, Eq. 25, and what the straight-through estimator estimates.

The functions return measurements; what must hold of them stands in `facts`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..dto import objective, straight_through
from ..dto.objective import GradientTerms
from ..engine import numerics
from ..models.language_models import Policy, RewardModel
from ..types import Messages

TERMS = GradientTerms._fields


class Decomposition(NamedTuple):
    """Prop. C.1 at one response.

    Attributes:
        residual: largest |sum of the terms - autograd|, relative to autograd's largest entry.
        prefix_residual: the same for δ_prefix against -ν log π as the Hugging Face model itself returns it.
        likelihood_residual: for δ_prefix + δ_postfix against autograd of the likelihood alone.
        reward_residual: for δ_reward against autograd of the reward alone.
        last_postfix: largest |δ_postfix| at the last token.
        norms: [length, 3, 2], each term's Euclidean norm by position: of ∂L/∂y, and of its part in ∂L/∂z by Eq. 25.
    """

    residual: float
    prefix_residual: float
    likelihood_residual: float
    reward_residual: float
    last_postfix: float
    norms: Float[Tensor, "length 3 2"]


def decomposition(
    policy: Policy,
    reward: RewardModel,
    messages: Messages,
    rollout: Sequence[int],
    *,
    reward_weight: float,
    nll_weight: float,
    kept: Sequence[str] = TERMS,
    claimed_reward_weight: float | None = None,
) -> Decomposition:
    """The three terms of `objective.gradient_terms` against autograd through dense one-hots.

    Args:
        rollout: the whole response.
        kept: the terms that are summed; all three make the proposition hold.
        claimed_reward_weight: λ given to the terms; None for that of the objective, which makes it hold.
    """
    weights = {"reward_weight": reward_weight, "nll_weight": nll_weight}
    claimed = weights | ({} if claimed_reward_weight is None else {"reward_weight": claimed_reward_weight})
    (terms,) = objective.gradient_terms(policy, reward, [messages], [[]], [rollout], **claimed)
    sequence = objective.make_sequence(policy, reward, messages, [], rollout)
    leaf = torch.nn.functional.one_hot(torch.tensor(sequence.rollout), policy.vocab_size).to(terms.prefix)
    leaf.requires_grad_()

    def autograd(**chosen: float) -> Tensor:
        loss = objective.relaxed_objective(policy, reward, sequence, leaf, **chosen)
        return torch.autograd.grad(loss, leaf)[0]

    whole = autograd(**weights)

    def residual(part: Tensor, expected: Tensor) -> float:
        return ((part - expected).abs().max() / whole.abs().max()).item()

    ids = torch.tensor([sequence.policy_prompt + sequence.rollout])
    with torch.no_grad():
        logits = policy.model(input_ids=ids).logits[0, -len(rollout) - 1 : -1, : policy.vocab_size]
    direct = -nll_weight * torch.log_softmax(logits, -1)
    by_logits = [straight_through.logits_gradient(logits, term) for term in terms]
    norms = torch.stack([torch.stack([term.norm(dim=-1) for term in space], -1) for space in (terms, by_logits)], -1)
    return Decomposition(
        residual=residual(sum(term for name, term in zip(TERMS, terms, strict=True) if name in kept), whole),
        prefix_residual=residual(terms.prefix, direct),
        likelihood_residual=residual(terms.prefix + terms.postfix, autograd(reward_weight=0.0, nll_weight=nll_weight)),
        reward_residual=residual(terms.reward, autograd(reward_weight=reward_weight, nll_weight=0.0)),
        last_postfix=terms.postfix[-1].abs().max().item(),
        norms=norms,
    )


def logits_residual(vocab_size: int, *, temperature: float, rows: int, seed: int, jacobian_temperature: float) -> float:
    """Eq. 25 against autograd through the straight-through token of a loss that is not linear; relative, float64.

    Args:
        temperature: τ of the estimator.
        jacobian_temperature: τ given to Eq. 25; the same makes it hold.
    """
    random = torch.Generator().manual_seed(seed)
    logits, weights, other = (torch.randn(rows, vocab_size, dtype=torch.float64, generator=random) for _ in range(3))
    leaf = logits.requires_grad_()
    y = straight_through.straight_through(leaf, leaf.argmax(-1), temperature=temperature)
    y.retain_grad()
    loss = ((y * weights).sum(-1).tanh() + (y * other).sum(-1) ** 2).sum()
    loss.backward()
    closed = straight_through.logits_gradient(leaf.detach(), y.grad, temperature=jacobian_temperature)
    return ((closed - leaf.grad).abs().max() / leaf.grad.abs().max()).item()


class Sweep(NamedTuple):
    """‖∂L/∂z‖ from uniform to confident rows.

    Attributes:
        entropy: H(softmax z) in nats.
        norm: Euclidean norm of ∂L/∂z.
        share: of the bound 2 (1 - max p) range(∂L/∂y) / τ that the gradient's absolute sum takes; at most 1.
        uniform: the norm that a uniform row must have, ‖g - mean g‖ / V.
    """

    entropy: Float[Tensor, " points"]
    norm: Float[Tensor, " points"]
    share: Float[Tensor, " points"]
    uniform: float


def entropy_sweep(vocab_size: int, *, sharpness: Sequence[float], own_term: bool, seed: int) -> Sweep:
    """Eq. 25 along rows z = c · (fixed Gaussian direction), c in `sharpness`, for ∂L/∂y = g, fixed and Gaussian.

    Args:
        sharpness: 0 is the uniform row.
        own_term: add -log p, the row's own part of the likelihood (δ_prefix), to g.
    """
    random = torch.Generator().manual_seed(seed)
    direction, downstream = (torch.randn(vocab_size, dtype=torch.float64, generator=random) for _ in range(2))
    entropies, norms, shares = [], [], []
    for scale in sharpness:
        logits = scale * direction[None]
        log_probabilities = torch.log_softmax(logits, -1)
        onehot_gradient = downstream - log_probabilities if own_term else downstream[None]
        gradient = straight_through.logits_gradient(logits, onehot_gradient)
        # what is left to the others, summed over them: 1 - max p loses its digits where it matters
        left = log_probabilities.exp().sort(descending=True).values[0, 1:].sum()
        bound = 2 * left * (onehot_gradient.max() - onehot_gradient.min())
        entropies.append(numerics.entropy(logits)[0])
        norms.append(gradient.norm())
        total = gradient.abs().sum()
        shares.append(total / bound if bound > 0 else total * torch.inf if total > 0 else total)
    uniform = (downstream - downstream.mean()).norm().item() / vocab_size
    return Sweep(torch.stack(entropies), torch.stack(norms), torch.stack(shares), uniform)
