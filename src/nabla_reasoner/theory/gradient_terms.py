"""Measurements of DTO's gradient for Prop. C.1 and Eq. 25; `gradient_checks` turns them into checks."""

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
        residual: largest |sum of the terms - autograd|, relative to autograd's largest entry (as all residuals).
        prefix_residual: δ_prefix against -ν log π from the Hugging Face model.
        likelihood_residual: δ_prefix + δ_postfix against autograd of the likelihood alone.
        reward_residual: δ_reward against autograd of the reward alone.
        last_postfix: largest |δ_postfix| at the last token.
        norms: Euclidean norm of each term by position, of ∂L/∂y and of its part in ∂L/∂z by Eq. 25.
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
    summed: Sequence[str] = TERMS,
    claimed_reward_weight: float | None = None,
) -> Decomposition:
    """Compare the three terms of `objective.gradient_terms` with autograd through dense one-hots.

    Args:
        rollout: the whole response.
        summed: names of the terms that are summed; all three make the proposition hold.
        claimed_reward_weight: λ given to the terms; the objective's (None) makes the proposition hold.
    """
    reward = reward.for_policy(policy)
    weights = {"reward_weight": reward_weight, "nll_weight": nll_weight}
    claimed = weights | ({} if claimed_reward_weight is None else {"reward_weight": claimed_reward_weight})
    (terms,) = objective.gradient_terms(policy, reward, [messages], [[]], [rollout], **claimed)
    sequence = objective.make_sequence(policy, reward, messages, [], rollout)
    leaf = torch.nn.functional.one_hot(torch.tensor(sequence.rollout), policy.vocab_size).to(terms.prefix)
    leaf.requires_grad_()

    def autograd(**loss_weights: float) -> Tensor:
        loss = objective.relaxed_objective(policy, reward, sequence, leaf, **loss_weights)
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
        residual=residual(sum(term for name, term in zip(TERMS, terms, strict=True) if name in summed), whole),
        prefix_residual=residual(terms.prefix, direct),
        likelihood_residual=residual(terms.prefix + terms.postfix, autograd(reward_weight=0.0, nll_weight=nll_weight)),
        reward_residual=residual(terms.reward, autograd(reward_weight=reward_weight, nll_weight=0.0)),
        last_postfix=terms.postfix[-1].abs().max().item(),
        norms=norms,
    )


def logits_residual(vocab_size: int, *, temperature: float, rows: int, seed: int, jacobian_temperature: float) -> float:
    """Return the largest error of Eq. 25 against autograd through straight-through tokens of a nonlinear loss.

    Relative to autograd's largest entry, in float64.

    Args:
        temperature: τ of the estimator.
        jacobian_temperature: τ given to Eq. 25; the estimator's makes it hold.
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
        share: Σ|∂L/∂z| relative to its bound 2 (1 - max p) range(∂L/∂y) / τ; at most 1.
        uniform: norm that a uniform row must have, ‖g - mean g‖ / V.
    """

    entropy: Float[Tensor, " points"]
    norm: Float[Tensor, " points"]
    share: Float[Tensor, " points"]
    uniform: float


def entropy_sweep(vocab_size: int, *, sharpness: Sequence[float], prefix_term: bool, seed: int) -> Sweep:
    """Evaluate Eq. 25 on rows z = c · direction for ∂L/∂y = g; direction and g are fixed Gaussian vectors.

    Args:
        sharpness: values of c; 0 is the uniform row.
        prefix_term: whether -log p, the row's δ_prefix, is added to g.
    """
    random = torch.Generator().manual_seed(seed)
    direction, downstream = (torch.randn(vocab_size, dtype=torch.float64, generator=random) for _ in range(2))
    entropies, norms, shares = [], [], []
    for scale in sharpness:
        logits = scale * direction[None]
        log_probabilities = torch.log_softmax(logits, -1)
        onehot_gradient = downstream - log_probabilities if prefix_term else downstream[None]
        gradient = straight_through.logits_gradient(logits, onehot_gradient)
        # 1 - max p as a sum over the other tokens: the subtraction would lose all digits for confident rows
        remainder = log_probabilities.exp().sort(descending=True).values[0, 1:].sum()
        bound = 2 * remainder * (onehot_gradient.max() - onehot_gradient.min())
        entropies.append(numerics.entropy(logits)[0])
        norms.append(gradient.norm())
        total = gradient.abs().sum()
        shares.append(total / bound if bound > 0 else total * torch.inf if total > 0 else total)
    uniform = (downstream - downstream.mean()).norm().item() / vocab_size
    return Sweep(torch.stack(entropies), torch.stack(norms), torch.stack(shares), uniform)
