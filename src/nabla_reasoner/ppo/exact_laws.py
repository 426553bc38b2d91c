"""Laws on a space of answers that can all be scored: the optimum of Eq. 3, Best-of-N's law, and how far two laws are.

L_PPO(ρ) = -E_ρ[λ r] + KL(ρ‖π) is smallest at ρ* ∝ π e^{λr}, and L_PPO(ρ) - L_PPO(ρ*) = KL(ρ‖ρ*) (Eq. 3, arXiv
2603.04948). Laws are kept as log-probabilities in nats, one entry per answer, in 64-bit arithmetic; -inf is allowed.
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

LogProbs = Float[Tensor, " answers"]


def every_answer(vocab_size: int, length: int) -> Int[Tensor, "answers length"]:
    """All strings of `length` tokens, in the order of numbers with that many digits."""
    return torch.cartesian_prod(*[torch.arange(vocab_size)] * length).reshape(-1, length)


def token_log_probabilities(
    model: torch.nn.Module, prompts: Sequence[Sequence[int]], vocab_size: int, length: int
) -> Float[Tensor, "prompts answers length"]:
    """log π(y_l|y_<l, x) of every token of every answer, from one pass over all beginnings of answers.

    Args:
        model: a Hugging Face causal LM; only its first `vocab_size` logits take part.
        prompts: token ids, all of one length.
    """
    answers = every_answer(vocab_size, length)
    beginnings = every_answer(vocab_size, length - 1) if length > 1 else answers[:1, :0]
    size = len(prompts[0])
    opening = torch.tensor(prompts)[:, None].expand(-1, len(beginnings), -1)
    texts = torch.cat([opening, beginnings.expand(len(prompts), -1, -1)], -1)
    logits = model(input_ids=texts.flatten(0, 1)).logits[:, size - 1 :, :vocab_size]
    following = torch.log_softmax(at_least_float32(logits).double(), -1).view(
        len(prompts), len(beginnings), length, vocab_size
    )
    return torch.stack(  # answer i begins with beginning i // V, whatever its last token
        [following[:, torch.arange(len(answers)) // vocab_size, l, answers[:, l]] for l in range(length)], -1
    )


class ScoredPrompt(NamedTuple):
    """One prompt with everything that can be known about its answers.

    Attributes:
        prompt: the chat.
        answers: all of them.
        tokens: log π(y_l|y_<l, x).
        rewards: r(y|x).
        likelihood_gradients, reward_gradients: ∂log π/∂y and ∂r/∂y at each answer's one-hot tokens.
    """

    prompt: list[dict[str, str]]
    answers: Int[Tensor, "answers length"]
    tokens: Float[Tensor, "answers length"]
    rewards: LogProbs
    likelihood_gradients: Float[Tensor, "answers length vocab"]
    reward_gradients: Float[Tensor, "answers length vocab"]

    @property
    def prior(self) -> LogProbs:
        """log π(y|x)."""
        return self.tokens.sum(-1)

    def energy_gradients(self, reward_weight: float) -> Float[Tensor, "answers length vocab"]:
        """∂L/∂y of L = -λ r - log π (Eq. 2 with ν = 1)."""
        return -reward_weight * self.reward_gradients - self.likelihood_gradients


def survey(policy: Policy, reward: RewardModel, prompt: list[dict[str, str]], length: int) -> ScoredPrompt:
    """Score every answer to a prompt and evaluate the gradients there, with the package's own passes."""
    answers = every_answer(policy.vocab_size, length)
    with torch.no_grad():
        tokens = token_log_probabilities(policy.model, [policy.prompt_ids(prompt)], policy.vocab_size, length)[0]
    sequences = [
        TokenSequence(policy.prompt_ids(prompt), reward.prompt_ids(prompt), [], answer) for answer in answers.tolist()
    ]
    values, _ = scoring.rewards(reward, [s.reward_prompt for s in sequences], [s.rollout for s in sequences])
    tables = []
    for reward_weight, nll_weight in ((0.0, 1.0), (1.0, 0.0)):
        found = gradient_passes.evaluate(policy, reward, sequences, reward_weight=reward_weight, nll_weight=nll_weight)
        rows = gradients.onehot_gradient(found, [range(length)] * len(found))
        tables.append(-rows.double().view(len(answers), length, policy.vocab_size))
    return ScoredPrompt(prompt, answers, tokens, torch.tensor(values, dtype=torch.float64), *tables)


def optimum(prior: LogProbs, rewards: LogProbs, reward_weight: float) -> LogProbs:
    """log ρ* with ρ* ∝ π e^{λr}, the minimiser of Eq. 3."""
    return torch.log_softmax(prior + reward_weight * rewards, -1)


def divergence(law: LogProbs, other: LogProbs) -> float:
    """KL(law‖other) in nats; infinite where `other` lacks an answer that `law` has."""
    probabilities = law.exp()
    terms = torch.where(probabilities > 0, probabilities * (law - other), torch.zeros_like(law))
    return max(terms.sum().item(), 0.0)


def total_variation(law: LogProbs, other: LogProbs) -> float:
    """Half the summed absolute difference of probabilities, in [0, 1]."""
    return 0.5 * (law.exp() - other.exp()).abs().sum().item()


def expected(law: LogProbs, values: LogProbs) -> float:
    """E_law[values]."""
    return (law.exp() * values).sum().item()


def objective(law: LogProbs, prior: LogProbs, rewards: LogProbs, reward_weight: float) -> float:
    """L_PPO of Eq. 3."""
    return divergence(law, prior) - reward_weight * expected(law, rewards)


def best_of_n(prior: LogProbs, rewards: LogProbs, count: int) -> LogProbs:
    """The law of the answer with the highest reward among `count` independent draws from π, exactly.

    All draws score at most v with probability F(v)^N, so the best scores v with probability F(v)^N - F(v-)^N; among
    answers of equal reward it falls on each in proportion to π.

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
    """log N - (N - 1)/N, never exceeded by KL(Best-of-N‖π) (Beirami et al., arXiv 2401.01879)."""
    return math.log(count) - (count - 1) / count


def weighted_choice(
    prior: LogProbs, rewards: LogProbs, reward_weight: float, count: int, *, draws: int, generator: torch.Generator
) -> LogProbs:
    """The law of one of `count` draws from π, chosen with probability proportional to e^{λr} (importance resampling).

    P(y) = N π(y) w(y) E[1/(w(y) + S)] with S the weight of N - 1 other draws; the expectation is a mean over `draws`
    samples of S, so its error is that of a smooth mean and not of a histogram.
    """
    weights = (reward_weight * (rewards - rewards.max())).exp()
    if count == 1:
        return prior
    others = torch.multinomial(prior.exp(), draws * (count - 1), replacement=True, generator=generator)
    sums = weights[others].view(draws, count - 1).sum(1)
    mean = torch.stack([(1 / (weight + sums)).mean() for weight in weights])
    return torch.log_softmax(prior + (weights * mean).log(), -1)


def empirical(indices: Int[Tensor, " samples"], size: int) -> LogProbs:
    """The law of a sample: log of each answer's share."""
    return (torch.bincount(indices, minlength=size).double() / len(indices)).log()


def sampling_floor(law: LogProbs, count: int, *, repeats: int, generator: torch.Generator) -> tuple[float, float]:
    """Mean KL and total variation between `law` and the empirical law of `count` exact draws from it.

    What an estimate from a sample of that size shows when there is no difference at all.
    """
    found = []
    for _ in range(repeats):
        drawn = empirical(torch.multinomial(law.exp(), count, replacement=True, generator=generator), len(law))
        found.append((divergence(drawn, law), total_variation(drawn, law)))
    kl, variation = zip(*found, strict=True)
    return sum(kl) / repeats, sum(variation) / repeats
