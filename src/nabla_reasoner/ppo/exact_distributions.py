"""Exact distributions over answers that can all be scored: the optimum of Eq. 3, Best-of-N, and distances between them.

L_PPO(ρ) = -E_ρ[λ r] + KL(ρ‖π) is smallest at ρ* ∝ π e^{λr}, and L_PPO(ρ) - L_PPO(ρ*) = KL(ρ‖ρ*) (Eq. 3, arXiv
2603.04948). A distribution is a vector of log-probabilities in nats, one per answer, in float64; -inf is allowed.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..dto import gradient_passes, gradients
from ..engine import scoring
from ..engine.numerics import at_least_float32
from ..engine.sequences import TokenSequence
from ..models.language_models import Policy, RewardModel
from ..types import Messages

LogProbs = Float[Tensor, " answers"]


def every_answer(vocab_size: int, length: int) -> Int[Tensor, "answers length"]:
    """List all answers of `length` tokens, in counting order with one digit per token."""
    return torch.cartesian_prod(*[torch.arange(vocab_size)] * length).reshape(-1, length)


def answer_indices(answers: Int[Tensor, "batch length"], vocab_size: int) -> Int[Tensor, " batch"]:
    """Return the index of each answer in `every_answer`."""
    digits = vocab_size ** torch.arange(answers.shape[1]).flip(0)
    return (answers * digits).sum(1)


def token_log_probabilities(
    model: torch.nn.Module, prompts: Sequence[Sequence[int]], vocab_size: int, length: int
) -> Float[Tensor, "prompts answers length"]:
    """Compute log π(y_l|y_<l, x) of every token of every answer, from one pass over all answers without last token.

    Args:
        model: a Hugging Face causal LM; only its first `vocab_size` logits are used.
        prompts: token ids, all of one length.
    """
    answers = every_answer(vocab_size, length)
    prefixes = every_answer(vocab_size, length - 1) if length > 1 else answers[:1, :0]
    prompt_size = len(prompts[0])
    opening = torch.tensor(prompts)[:, None].expand(-1, len(prefixes), -1)
    texts = torch.cat([opening, prefixes.expand(len(prompts), -1, -1)], -1)
    logits = model(input_ids=texts.flatten(0, 1)).logits[:, prompt_size - 1 :, :vocab_size]
    next_token = torch.log_softmax(at_least_float32(logits).double(), -1).view(
        len(prompts), len(prefixes), length, vocab_size
    )
    prefix_of = torch.arange(len(answers)) // vocab_size  # answers that differ in the last token share one
    return torch.stack([next_token[:, prefix_of, l, answers[:, l]] for l in range(length)], -1)


class ScoredPrompt(NamedTuple):
    """One prompt with scores and gradients of all its answers.

    Attributes:
        prompt: the chat.
        answers: token ids of all answers.
        tokens: log π(y_l|y_<l, x).
        rewards: r(y|x).
        likelihood_gradients, reward_gradients: ∂log π/∂y and ∂r/∂y at each answer's one-hot tokens.
    """

    prompt: Messages
    answers: Int[Tensor, "answers length"]
    tokens: Float[Tensor, "answers length"]
    rewards: LogProbs
    likelihood_gradients: Float[Tensor, "answers length vocab"]
    reward_gradients: Float[Tensor, "answers length vocab"]

    @property
    def prior(self) -> LogProbs:
        """log π(y|x)."""
        return self.tokens.sum(-1)

    @property
    def vocab_size(self) -> int:
        """Number of tokens that an answer can have at each position."""
        return self.likelihood_gradients.shape[-1]

    def optimum(self, reward_weight: float) -> LogProbs:
        """Return log ρ*."""
        return optimum(self.prior, self.rewards, reward_weight)

    def energy_gradients(self, reward_weight: float) -> Float[Tensor, "answers length vocab"]:
        """Return ∂L/∂y of L = -λ r - log π (Eq. 2 with ν = 1)."""
        return -reward_weight * self.reward_gradients - self.likelihood_gradients


def score_prompt(policy: Policy, reward: RewardModel, prompt: Messages, length: int) -> ScoredPrompt:
    """Score every answer to a prompt and evaluate the gradients there, with the package's own passes."""
    answers = every_answer(policy.vocab_size, length)
    with torch.no_grad():
        tokens = token_log_probabilities(policy.model, [policy.prompt_ids(prompt)], policy.vocab_size, length)[0]
    sequences = [
        TokenSequence(policy.prompt_ids(prompt), reward.prompt_ids(prompt), [], answer) for answer in answers.tolist()
    ]
    values, _ = scoring.rewards(reward, [s.reward_prompt for s in sequences], [s.rollout for s in sequences])

    def minus_loss_gradients(reward_weight: float, nll_weight: float) -> Float[Tensor, "answers length vocab"]:
        evaluated = gradient_passes.evaluate(
            policy, reward, sequences, reward_weight=reward_weight, nll_weight=nll_weight
        )
        rows = gradients.onehot_gradient(evaluated, [range(length)] * len(evaluated))
        return -rows.double().view(len(answers), length, policy.vocab_size)

    return ScoredPrompt(
        prompt=prompt,
        answers=answers,
        tokens=tokens,
        rewards=torch.tensor(values, dtype=torch.float64),
        likelihood_gradients=minus_loss_gradients(reward_weight=0.0, nll_weight=1.0),
        reward_gradients=minus_loss_gradients(reward_weight=1.0, nll_weight=0.0),
    )


def optimum(prior: LogProbs, rewards: LogProbs, reward_weight: float) -> LogProbs:
    """Return log ρ* with ρ* ∝ π e^{λr}, the minimiser of Eq. 3."""
    return torch.log_softmax(prior + reward_weight * rewards, -1)


def divergence(distribution: LogProbs, other: LogProbs) -> float:
    """Return KL(distribution‖other) in nats; infinite if `other` gives an answer of `distribution` probability 0."""
    probabilities = distribution.exp()
    terms = torch.where(probabilities > 0, probabilities * (distribution - other), torch.zeros_like(distribution))
    return max(terms.sum().item(), 0.0)


def total_variation(distribution: LogProbs, other: LogProbs) -> float:
    """Return half the summed absolute difference of probabilities, in [0, 1]."""
    return 0.5 * (distribution.exp() - other.exp()).abs().sum().item()


def expected(distribution: LogProbs, values: LogProbs) -> float:
    """Return the expectation of `values`."""
    return (distribution.exp() * values).sum().item()


def best_of_n(prior: LogProbs, rewards: LogProbs, count: int) -> LogProbs:
    """Return the exact distribution of the answer with the highest reward among `count` independent samples of π.

    All samples score at most v with probability F(v)^N, so the best scores v with probability F(v)^N - F(v-)^N. Answers
    of equal reward share it in proportion to π.

    Raises:
        ValueError: count < 1.
    """
    if count < 1:
        raise ValueError(f"count (N) must be >= 1; got {count}.")
    _, group = rewards.unique(return_inverse=True)
    mass = torch.zeros(int(group.max()) + 1, dtype=prior.dtype).index_add(0, group, prior.exp())
    below = torch.cat([mass.new_zeros(1), mass.cumsum(0)[:-1]])
    total = mass.sum()
    top = ((below + mass) / total) ** count - (below / total) ** count
    return prior + (top / mass).log()[group]


def best_of_n_bound(count: int) -> float:
    """Return log N - (N - 1)/N, an upper bound of KL(Best-of-N‖π) (Beirami et al., arXiv 2401.01879)."""
    return math.log(count) - (count - 1) / count


def weighted_choice(
    prior: LogProbs, rewards: LogProbs, reward_weight: float, count: int, *, draws: int, generator: torch.Generator
) -> LogProbs:
    """Return the distribution of one of `count` samples of π, chosen with probability proportional to e^{λr}.

    This is importance resampling: P(y) = N π(y) w(y) E[1/(w(y) + S)], S the weight of N - 1 other samples. The
    expectation is a mean over `draws` samples of S, whose error is smaller than that of a histogram of answers.
    """
    weights = (reward_weight * (rewards - rewards.max())).exp()
    if count == 1:
        return prior
    others = torch.multinomial(prior.exp(), draws * (count - 1), replacement=True, generator=generator)
    sums = weights[others].view(draws, count - 1).sum(1)
    mean = torch.stack([(1 / (weight + sums)).mean() for weight in weights])
    return torch.log_softmax(prior + (weights * mean).log(), -1)


def empirical(indices: Int[Tensor, " samples"], size: int) -> LogProbs:
    """Return the empirical distribution of sampled answer indices."""
    return (torch.bincount(indices, minlength=size).double() / len(indices)).log()


def sampling_floor(
    distribution: LogProbs, count: int, *, repeats: int, generator: torch.Generator
) -> tuple[float, float]:
    """Return mean KL and total variation between a distribution and `count` exact samples of it.

    An estimate from that many samples shows these values if there is no difference at all.
    """
    divergences, variations = [], []
    for _ in range(repeats):
        indices = torch.multinomial(distribution.exp(), count, replacement=True, generator=generator)
        sampled = empirical(indices, len(distribution))
        divergences.append(divergence(sampled, distribution))
        variations.append(total_variation(sampled, distribution))
    return sum(divergences) / repeats, sum(variations) / repeats
