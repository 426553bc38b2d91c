"""Facts about DTO's gradient, as numbers: Prop. C.1, Eq. 25, and what the straight-through estimator estimates.

The functions return measurements; what must hold of them stands in `facts`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from . import gradients, objective, passes, relaxation
from .models import Messages, Policy, RewardModel
from .objective import GradientTerms
from .passes import HardSequence

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
    by_logits = [relaxation.logits_gradient(logits, term) for term in terms]
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
    y = relaxation.straight_through(leaf, leaf.argmax(-1), temperature=temperature)
    y.retain_grad()
    loss = ((y * weights).sum(-1).tanh() + (y * other).sum(-1) ** 2).sum()
    loss.backward()
    closed = relaxation.logits_gradient(leaf.detach(), y.grad, temperature=jacobian_temperature)
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
        gradient = relaxation.logits_gradient(logits, onehot_gradient)
        # what is left to the others, summed over them: 1 - max p loses its digits where it matters
        left = log_probabilities.exp().sort(descending=True).values[0, 1:].sum()
        bound = 2 * left * (onehot_gradient.max() - onehot_gradient.min())
        entropies.append(relaxation.entropy(logits)[0])
        norms.append(gradient.norm())
        total = gradient.abs().sum()
        shares.append(total / bound if bound > 0 else total * torch.inf if total > 0 else total)
    uniform = (downstream - downstream.mean()).norm().item() / vocab_size
    return Sweep(torch.stack(entropies), torch.stack(norms), torch.stack(shares), uniform)


class Pairs(NamedTuple):
    """A two-token text with K candidates at each position, enumerated.

    Attributes:
        losses: L of every pair of tokens.
        slopes: ∂L/∂y at every hard pair, both rows, restricted to the candidates.
        logits: z of the candidates, as the policy proposes them.
    """

    losses: Float[Tensor, "K K"]
    slopes: Float[Tensor, "K K 2 K"]
    logits: Float[Tensor, "2 K"]


def pairs(
    policy: Policy,
    reward: RewardModel,
    messages: Messages,
    prefix: Sequence[int],
    *,
    candidates: int,
    reward_weight: float,
    nll_weight: float,
) -> tuple[Pairs, list[list[int]], list[HardSequence]]:
    """All answers of two tokens among the policy's most likely ones; the candidates' ids and the sequences too.

    The second row's logits are those after the most likely first token, as in a greedy rollout.
    """
    prompt = policy.prompt_ids(messages) + list(prefix)
    rows, choices = [], []
    with torch.no_grad():
        for _ in range(2):
            logits = policy.model(input_ids=torch.tensor([prompt])).logits[0, -1, : policy.vocab_size]
            top = logits.topk(candidates)
            rows.append(top.values)
            choices.append(top.indices.tolist())
            prompt = prompt + choices[-1][:1]
    sequences = [
        objective.make_sequence(policy, reward, messages, prefix, [first, second])
        for first in choices[0]
        for second in choices[1]
    ]
    found = passes.evaluate(policy, reward, sequences, reward_weight=reward_weight, nll_weight=nll_weight)
    slopes = gradients.onehot_gradient(found, [[0, 1]] * len(found)).reshape(candidates, candidates, 2, -1)
    columns = torch.tensor(choices).expand(candidates, candidates, 2, candidates)
    losses = torch.tensor([one.loss for one in found], dtype=slopes.dtype).reshape(candidates, candidates)
    return Pairs(losses, slopes.gather(-1, columns), torch.stack(rows)), choices, sequences


def pair_probabilities(logits: Float[Tensor, "2 K"]) -> Float[Tensor, "K K"]:
    """Probability of every pair when both tokens are drawn from softmax(z) independently."""
    first, second = torch.softmax(logits, -1)
    return first[:, None] * second[None, :]


def true_gradient(pairs: Pairs) -> Float[Tensor, "2 K"]:
    """∂/∂z of E_{y~softmax(z)}[L(y)], every pair enumerated."""
    leaf = pairs.logits.clone().requires_grad_()
    return torch.autograd.grad((pair_probabilities(leaf) * pairs.losses).sum(), leaf)[0]


class Estimator(NamedTuple):
    """An estimator of the true gradient.

    Attributes:
        mean: its expectation, [2, K].
        variance: E‖estimate - mean‖².
        error: standard error of `mean` (of its norm); 0 where it was enumerated.
    """

    mean: Float[Tensor, "2 K"]
    variance: float
    error: float = 0.0


def straight_through_estimates(pairs: Pairs, *, temperature: float = 1.0) -> Float[Tensor, "K K 2 K"]:
    """The straight-through gradient at every hard pair (Eq. 25's Jacobian on ∂L/∂y there)."""
    count = pairs.logits.shape[-1]
    rows = pairs.logits.expand(count, count, 2, count).reshape(-1, count)
    return relaxation.logits_gradient(rows, pairs.slopes.reshape(-1, count), temperature=temperature).reshape(
        pairs.slopes.shape
    )


def enumerated(estimates: Float[Tensor, "K K 2 K"], probabilities: Float[Tensor, "K K"]) -> Estimator:
    """Mean and variance of estimates at hard pairs drawn with these probabilities."""
    weights = probabilities[..., None, None]
    mean = (weights * estimates).sum((0, 1))
    return Estimator(mean, (weights * (estimates - mean) ** 2).sum().item())


def score_estimates(pairs: Pairs) -> Float[Tensor, "K K 2 K"]:
    """REINFORCE at every hard pair, E[L] as its baseline: (L - E L) ∂ log p(y)/∂z; unbiased."""
    probabilities = pair_probabilities(pairs.logits)
    count, rows = len(probabilities), torch.softmax(pairs.logits, -1)
    eye = torch.eye(count, dtype=rows.dtype)
    first, second = (eye - row for row in rows)
    scores = torch.stack([first[:, None].expand(-1, count, -1), second[None].expand(count, -1, -1)], 2)
    advantage = pairs.losses - (probabilities * pairs.losses).sum()
    return advantage[..., None, None] * scores


def gumbel_estimator(pairs: Pairs, *, temperature: float, samples: int, seed: int) -> tuple[Estimator, float]:
    """Straight-through Gumbel-softmax: hard argmax(z + g) forward, softmax((z + g)/τ) backward; by sampling.

    Returns:
        The estimator, and the total variation between the pairs that were drawn and softmax(z), which they must follow.
    """
    random = torch.Generator().manual_seed(seed)
    uniform = torch.rand(samples, *pairs.logits.shape, dtype=torch.float64, generator=random)
    noisy = pairs.logits - torch.log(-torch.log(uniform.clamp_min(1e-300)))
    first, second = noisy.argmax(-1).T
    flat = pairs.slopes[first, second].reshape(-1, noisy.shape[-1])
    drawn = relaxation.logits_gradient(noisy.reshape(flat.shape), flat, temperature=temperature).reshape(noisy.shape)
    mean = drawn.mean(0)
    variance = ((drawn - mean) ** 2).sum().item() / (samples - 1)
    count = noisy.shape[-1]
    frequencies = torch.bincount(first * count + second, minlength=count**2) / samples
    apart = 0.5 * (frequencies - pair_probabilities(pairs.logits).ravel()).abs().sum().item()
    return Estimator(mean, variance, (variance / samples) ** 0.5), apart


def autograd_estimates(
    policy: Policy,
    reward: RewardModel,
    pairs: Pairs,
    choices: Sequence[Sequence[int]],
    sequences: Sequence[HardSequence],
    *,
    reward_weight: float,
    nll_weight: float,
) -> Float[Tensor, "K K 2 K"]:
    """As `straight_through_estimates`, by autograd through the tokens and both models: no cached ∂L/∂y, no Eq. 25."""
    results = []
    for sequence in sequences:
        leaf = pairs.logits.clone().requires_grad_()
        tokens = torch.tensor([row.index(token) for row, token in zip(choices, sequence.rollout, strict=True)])
        soft = relaxation.straight_through(leaf, tokens)
        columns = torch.tensor(choices)
        onehots = torch.zeros(2, policy.vocab_size, dtype=soft.dtype).scatter(1, columns, soft)
        loss = objective.relaxed_objective(
            policy, reward, sequence, onehots, reward_weight=reward_weight, nll_weight=nll_weight
        )
        results.append(torch.autograd.grad(loss, leaf)[0])
    return torch.stack(results).reshape(pairs.slopes.shape)
