"""Baselines that select one of N independent samples: greedy decoding, Self-Consistency, Best-of-N, and relatives."""

import functools
from collections.abc import Sequence

import numpy as np

from ..engine.generation import Rollout
from ..engine.sampling import Sampling, keyed_uniforms
from ..models.arguments import checked, checked_settings
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .sample_pool import SamplePool, check_positive, first_sample, highest, running_argmax, vote


@checked_settings
class _Selector:
    """Settings of a baseline that selects one of N samples."""

    def __init__(
        self,
        *,
        num_samples: int = 8,
        temperature: float = 0.7,
        top_p: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 1024,
    ):
        self.pool = SamplePool(num_samples, Sampling(temperature, top_p, top_k), max_new_tokens)


@checked_settings
class _TemperedSelector:
    """Settings of a baseline that weighs N samples by exp(r/τ)."""

    def __init__(
        self,
        *,
        num_samples: int = 8,
        reward_temperature: float | int = 1.0,
        temperature: float = 0.7,
        top_p: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 1024,
    ):
        check_positive({"reward_temperature (τ)": reward_temperature})
        self.reward_temperature = reward_temperature
        self.pool = SamplePool(num_samples, Sampling(temperature, top_p, top_k), max_new_tokens)


@checked_settings
class Greedy:
    """The most likely token at every step.

    Args:
        max_new_tokens: length limit of a response, >= 1.
    """

    def __init__(self, *, max_new_tokens: int = 1024):
        self.pool = SamplePool(1, Sampling(0.0), max_new_tokens)

    @checked
    def solve(
        self,
        problems: Sequence[Problem],
        policy: Policy,
        reward: RewardModel | None = None,
        seed: int = 0,
        repeat: int = 0,
    ) -> list[Solution]:
        """Return one solution per problem, in order; the reward model is not used."""
        return self.pool.solve(problems, policy, seed, repeat, select=first_sample)


class SelfConsistency(_Selector):
    """The answer that most of N samples agree on; ties go to the answer sampled first.

    Args:
        num_samples: N >= 1.
        temperature, top_p, top_k: sampling of tokens.
        max_new_tokens: length limit of a response, >= 1.
    """

    @checked
    def solve(
        self,
        problems: Sequence[Problem],
        policy: Policy,
        reward: RewardModel | None = None,
        seed: int = 0,
        repeat: int = 0,
    ) -> list[Solution]:
        """Return one solution per problem, in order; the reward model is not used."""

        def select(problem: Problem, rollouts: Sequence[Rollout], rewards: Sequence[float | None]) -> list[int]:
            return majority(problem, policy, rollouts)

        return self.pool.solve(problems, policy, seed, repeat, select=select)


def majority(problem: Problem, policy: Policy, rollouts: Sequence[Rollout]) -> list[int]:
    """Return, for n = 1…N, the index of the first sample with the answer that most of the first n samples agree on.

    Samples without an answer do not vote. Without any vote the first sample is returned.
    """
    return vote(problem, policy, rollouts, [0.0] * len(rollouts))


class BestOfN(_Selector):
    """The sample of highest reward among N; ties go to the one sampled first.

    Args:
        num_samples: N >= 1.
        temperature, top_p, top_k: sampling of tokens.
        max_new_tokens: length limit of a response, >= 1.
    """

    @checked
    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """Return one solution per problem, in order."""
        return self.pool.solve(problems, policy, seed, repeat, select=highest, reward=reward)


class SoftBestOfN(_TemperedSelector):
    """One of N samples, drawn with probability proportional to exp(r/τ) (arXiv 2505.03156).

    τ → 0 is Best-of-N; τ → ∞ is a single sample of the policy. The draw adds Gumbel noise to r/τ, one number per
    sample, so that the choice among the first n samples does not depend on those after them.

    Args:
        num_samples: N >= 1.
        reward_temperature: τ > 0, in units of the reward.
        temperature, top_p, top_k: sampling of tokens.
        max_new_tokens: length limit of a response, >= 1.
    """

    @checked
    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """Return one solution per problem, in order."""
        select = functools.partial(self._draw, seed, repeat)
        return self.pool.solve(problems, policy, seed, repeat, select=select, reward=reward)

    def _draw(
        self, seed: int, repeat: int, problem: Problem, rollouts: Sequence[Rollout], rewards: Sequence[float | None]
    ) -> list[int]:
        uniform = keyed_uniforms(seed, problem.id, repeat, "choice", len(rollouts))
        gumbel = -np.log(-np.log(np.maximum(uniform, np.finfo(float).tiny)))
        return running_argmax((np.array(rewards, dtype=float) / self.reward_temperature + gumbel).tolist())


class WeightedSelfConsistency(_TemperedSelector):
    """The answer of largest total weight among N samples; a sample's weight is the softmax of r/τ over the pool.

    Ties go to the answer sampled first. τ → ∞ is Self-Consistency. With a likelihood reward and τ = 1 the weights are
    the judge's own probabilities of the samples.

    Args:
        num_samples: N >= 1.
        reward_temperature: τ > 0, in units of the reward.
        temperature, top_p, top_k: sampling of tokens.
        max_new_tokens: length limit of a response, >= 1.
    """

    @checked
    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """Return one solution per problem, in order."""

        def select(problem: Problem, rollouts: Sequence[Rollout], rewards: Sequence[float | None]) -> list[int]:
            # a softmax over the pool differs from this by a factor that all its samples share
            return vote(problem, policy, rollouts, [value / self.reward_temperature for value in rewards])

        return self.pool.solve(problems, policy, seed, repeat, select=select, reward=reward)
