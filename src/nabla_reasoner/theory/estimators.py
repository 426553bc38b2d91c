"""Gradient estimators on an enumerable pair of tokens: straight-through, score function, Gumbel-softmax."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..dto import gradient_passes, gradients, objective, straight_through
from ..engine.sequences import TokenSequence
from ..models.language_models import Policy, RewardModel
from ..types import Messages


class Pairs(NamedTuple):
    """A two-token text with K candidates at each position, enumerated.

    Attributes:
        losses: L of every pair of tokens.
        slopes: ∂L/∂y at every hard pair, both rows, restricted to the candidates.
        logits: the policy's logits z of the candidates.
        candidates: token ids of the candidates at each position.
        sequences: every pair for both models, the second token varying fastest.
    """

    losses: Float[Tensor, "K K"]
    slopes: Float[Tensor, "K K 2 K"]
    logits: Float[Tensor, "2 K"]
    candidates: list[list[int]]
    sequences: list[TokenSequence]


def enumerate_pairs(
    policy: Policy,
    reward: RewardModel,
    messages: Messages,
    prefix: Sequence[int],
    *,
    candidates: int,
    reward_weight: float,
    nll_weight: float,
) -> Pairs:
    """Evaluate all answers of two tokens among the policy's most likely ones.

    The second row's logits are those after the most likely first token, as in a greedy rollout.

    Args:
        candidates: K, the number of tokens at each position.
    """
    reward = reward.for_policy(policy)
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
    evaluated = gradient_passes.evaluate(policy, reward, sequences, reward_weight=reward_weight, nll_weight=nll_weight)
    slopes = gradients.onehot_gradient(evaluated, [[0, 1]] * len(evaluated)).reshape(candidates, candidates, 2, -1)
    columns = torch.tensor(choices).expand(candidates, candidates, 2, candidates)
    losses = torch.tensor([gradient.loss for gradient in evaluated], dtype=slopes.dtype)
    return Pairs(
        losses=losses.reshape(candidates, candidates),
        slopes=slopes.gather(-1, columns),
        logits=torch.stack(rows),
        candidates=choices,
        sequences=sequences,
    )


def pair_probabilities(logits: Float[Tensor, "2 K"]) -> Float[Tensor, "K K"]:
    """Return the probability of every pair if both tokens are drawn from softmax(z) independently."""
    first, second = torch.softmax(logits, -1)
    return first[:, None] * second[None, :]


def true_gradient(pairs: Pairs) -> Float[Tensor, "2 K"]:
    """Compute ∂/∂z of E_{y~softmax(z)}[L(y)] over all pairs."""
    leaf = pairs.logits.clone().requires_grad_()
    return torch.autograd.grad((pair_probabilities(leaf) * pairs.losses).sum(), leaf)[0]


class Estimator(NamedTuple):
    """An estimator of the true gradient.

    Attributes:
        mean: expectation of the estimate.
        variance: E‖estimate - mean‖².
        error: standard error of the norm of `mean`; 0 if enumerated.
    """

    mean: Float[Tensor, "2 K"]
    variance: float
    error: float = 0.0


def straight_through_estimates(pairs: Pairs, *, temperature: float = 1.0) -> Float[Tensor, "K K 2 K"]:
    """Compute the straight-through gradient at every hard pair: Eq. 25's Jacobian applied to ∂L/∂y there."""
    count = pairs.logits.shape[-1]
    rows = pairs.logits.expand(count, count, 2, count).reshape(-1, count)
    gradient = straight_through.logits_gradient(rows, pairs.slopes.reshape(-1, count), temperature=temperature)
    return gradient.reshape(pairs.slopes.shape)


def enumerated(estimates: Float[Tensor, "K K 2 K"], probabilities: Float[Tensor, "K K"]) -> Estimator:
    """Compute mean and variance of the estimates over hard pairs with these probabilities."""
    weights = probabilities[..., None, None]
    mean = (weights * estimates).sum((0, 1))
    return Estimator(mean, (weights * (estimates - mean) ** 2).sum().item())


def score_estimates(pairs: Pairs) -> Float[Tensor, "K K 2 K"]:
    """Compute REINFORCE with baseline E[L] at every hard pair: (L - E L) ∂ log p(y)/∂z; unbiased."""
    probabilities = pair_probabilities(pairs.logits)
    count = len(probabilities)
    rows = torch.softmax(pairs.logits, -1)
    eye = torch.eye(count, dtype=rows.dtype)
    first, second = (eye - row for row in rows)
    scores = torch.stack([first[:, None].expand(-1, count, -1), second[None].expand(count, -1, -1)], 2)
    advantage = pairs.losses - (probabilities * pairs.losses).sum()
    return advantage[..., None, None] * scores


def gumbel_estimator(pairs: Pairs, *, temperature: float, samples: int, seed: int) -> tuple[Estimator, float]:
    """Sample straight-through Gumbel-softmax: hard argmax(z + g) forward, softmax((z + g)/τ) backward.

    Returns:
        The estimator, and the total variation between the sampled pairs and softmax(z), which they must follow.
    """
    random = torch.Generator().manual_seed(seed)
    uniform = torch.rand(samples, *pairs.logits.shape, dtype=torch.float64, generator=random)
    noisy = pairs.logits - torch.log(-torch.log(uniform.clamp_min(1e-300)))
    first, second = noisy.argmax(-1).T
    flat = pairs.slopes[first, second].reshape(-1, noisy.shape[-1])
    estimates = straight_through.logits_gradient(noisy.reshape(flat.shape), flat, temperature=temperature)
    estimates = estimates.reshape(noisy.shape)
    mean = estimates.mean(0)
    variance = ((estimates - mean) ** 2).sum().item() / (samples - 1)
    count = noisy.shape[-1]
    frequencies = torch.bincount(first * count + second, minlength=count**2) / samples
    variation = 0.5 * (frequencies - pair_probabilities(pairs.logits).ravel()).abs().sum().item()
    return Estimator(mean, variance, (variance / samples) ** 0.5), variation


class Variation(NamedTuple):
    """Total variation between the shares in `samples` draws and the probabilities that they were drawn from.

    Attributes:
        mean: its expectation.
        high: exceeded with a chance of 1e-4.
    """

    mean: float
    high: float


def sampling_variation(
    probabilities: Float[Tensor, "K K"], samples: int, *, seed: int, repeats: int = 100_000
) -> Variation:
    """Simulate the total variation of right draws; its quantiles depend on how many pairs hold the mass."""
    masses = probabilities.ravel().numpy()
    shares = np.random.default_rng(seed).multinomial(samples, masses / masses.sum(), size=repeats) / samples
    distances = 0.5 * np.abs(shares - masses).sum(1)
    return Variation(float(distances.mean()), float(np.quantile(distances, 1 - 1e-4)))


def autograd_estimates(
    policy: Policy,
    reward: RewardModel,
    pairs: Pairs,
    *,
    reward_weight: float,
    nll_weight: float,
) -> tuple[Float[Tensor, "K K 2 K"], Float[Tensor, "K K"]]:
    """Compute `straight_through_estimates` by autograd through both models, without cached ∂L/∂y and without Eq. 25.

    Returns:
        The estimates, and L of every pair as the objective computes it.
    """
    columns = torch.tensor(pairs.candidates)
    results, losses = [], []
    for sequence in pairs.sequences:
        leaf = pairs.logits.clone().requires_grad_()
        tokens = torch.tensor([row.index(token) for row, token in zip(pairs.candidates, sequence.rollout, strict=True)])
        soft = straight_through.straight_through(leaf, tokens)
        onehots = torch.zeros(2, policy.vocab_size, dtype=soft.dtype).scatter(1, columns, soft)
        loss = objective.relaxed_objective(
            policy, reward, sequence, onehots, reward_weight=reward_weight, nll_weight=nll_weight
        )
        results.append(torch.autograd.grad(loss, leaf)[0])
        losses.append(loss.detach())
    return torch.stack(results).reshape(pairs.slopes.shape), torch.stack(losses).reshape(pairs.losses.shape)
