"""Baselines that sample independent responses: greedy decoding, Self-Consistency, Best-of-N."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from .. import cost
from ..cost import Cost
from ..engine import generation, scoring
from ..engine.generation import Rollout
from ..engine.sampling import Sampling, keyed_uniforms
from ..engine.trajectory import SampleLog, seconds_share
from ..models.language_models import Policy, RewardModel
from ..tasks import grading
from ..types import Problem, Solution


class Greedy:
    """The most likely token at every step.

    Args:
        max_new_tokens: length limit of a response, >= 1.
    """

    def __init__(self, *, max_new_tokens: int = 1024):
        self.sampling = _RepeatedSampling(1, Sampling(0.0), max_new_tokens)

    def solve(
        self,
        problems: Sequence[Problem],
        policy: Policy,
        reward: RewardModel | None = None,
        seed: int = 0,
        repeat: int = 0,
    ) -> list[Solution]:
        """Return one solution per problem, in order; the reward model is not used."""
        return self.sampling.solve(problems, policy, seed, repeat)


class SelfConsistency:
    """The answer that most of N samples agree on; ties go to the answer sampled first.

    Args:
        num_samples: N >= 1.
        temperature, top_p, top_k: sampling of tokens.
        max_new_tokens: length limit of a response, >= 1.
    """

    def __init__(
        self,
        *,
        num_samples: int = 8,
        temperature: float = 0.7,
        top_p: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 1024,
    ):
        self.sampling = _RepeatedSampling(num_samples, Sampling(temperature, top_p, top_k), max_new_tokens)

    def solve(
        self,
        problems: Sequence[Problem],
        policy: Policy,
        reward: RewardModel | None = None,
        seed: int = 0,
        repeat: int = 0,
    ) -> list[Solution]:
        """Return one solution per problem, in order; the reward model is not used."""
        return self.sampling.solve(problems, policy, seed, repeat, vote=True)


class BestOfN:
    """The sample of highest reward among N; ties go to the one sampled first.

    Args:
        num_samples: N >= 1.
        temperature, top_p, top_k: sampling of tokens.
        max_new_tokens: length limit of a response, >= 1.
    """

    def __init__(
        self,
        *,
        num_samples: int = 8,
        temperature: float = 0.7,
        top_p: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 1024,
    ):
        self.sampling = _RepeatedSampling(num_samples, Sampling(temperature, top_p, top_k), max_new_tokens)

    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """Return one solution per problem, in order."""
        reward.check_vocabulary(policy)
        return self.sampling.solve(problems, policy, seed, repeat, reward=reward)


class KeyedSampler(NamedTuple):
    """Sampling of several responses to each prompt, each from a random stream of its own."""

    policy: Policy
    sampling: Sampling
    seed: int
    repeat: int

    def draw(
        self, problems: Sequence[Problem], prompts: Sequence[list[int]], stage: str, count: int, limit: int
    ) -> list[list[Rollout]]:
        """Sample `count` responses of at most `limit` tokens to each problem's prompt.

        Args:
            prompts: token ids, one prompt per problem.
            stage: name of the random streams; sample k of a problem uses stream "STAGE k".
        """
        noise = [
            keyed_uniforms(self.seed, problem.id, self.repeat, f"{stage} {k}", limit)
            for problem in problems
            for k in range(count)
        ]
        prefixes = [prompt for prompt in prompts for _ in range(count)]
        rollouts = generation.sample(self.policy, prefixes, noise, self.sampling, [limit] * len(prefixes))
        return [rollouts[i : i + count] for i in range(0, len(rollouts), count)]


def check_counts(counts: dict[str, int]) -> None:
    """Raise ValueError naming the first count below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be >= 1; got {count}.")


def majority(problem: Problem, policy: Policy, rollouts: Sequence[Rollout]) -> list[int]:
    """Return, for n = 1…N, the index of the first sample with the answer that most of the first n samples agree on.

    Samples without an answer do not vote. Without any vote the first sample is returned.
    """
    answers = [
        grading.extract_answer(policy.decode(rollout.token_ids), problem.task, finished=rollout.finished)
        for rollout in rollouts
    ]
    groups: list[list[int]] = []
    winners = []
    for index, answer in enumerate(answers):
        if answer is not None:
            group = next((g for g in groups if grading.answers_match(answers[g[0]], answer, problem.task)), None)
            if group is None:
                groups.append([index])
            else:
                group.append(index)
        winners.append(max(groups, key=lambda g: (len(g), -g[0]))[0] if groups else 0)
    return winners


class _RepeatedSampling:
    """Settings of N independent samples per problem, and the search that the three baselines share."""

    def __init__(self, num_samples: int, sampling: Sampling, max_new_tokens: int):
        check_counts({"num_samples (N)": num_samples, "max_new_tokens": max_new_tokens})
        self.num_samples = num_samples
        self.sampling = sampling.check()
        self.max_new_tokens = max_new_tokens

    def solve(
        self,
        problems: Sequence[Problem],
        policy: Policy,
        seed: int,
        repeat: int,
        *,
        reward: RewardModel | None = None,
        vote: bool = False,
    ) -> list[Solution]:
        """Sample, score the samples if a reward model is given, and return one solution per problem.

        A solution is the answer of the majority (`vote`), the sample of highest reward, or else the first sample.

        Raises:
            ValueError: a prompt and its response do not fit the policy's context.
        """
        begin = time.perf_counter()
        prompts = [policy.prompt_ids(problem.messages) for problem in problems]
        for prompt in prompts:
            policy.check_length(len(prompt), self.max_new_tokens)
        sampler = KeyedSampler(policy, self.sampling, seed, repeat)
        rollouts = sampler.draw(problems, prompts, "rollout", self.num_samples, self.max_new_tokens)
        flat = [rollout for samples in rollouts for rollout in samples]
        rewards, costs = [None] * len(flat), [Cost()] * len(flat)
        if reward is not None:
            reward_prompts = [reward.prompt_ids(problem.messages) for problem in problems]
            repeated = [prompt for prompt in reward_prompts for _ in range(self.num_samples)]
            rewards, costs = scoring.rewards(reward, repeated, [rollout.token_ids for rollout in flat])
        pairs = list(zip(problems, rollouts, strict=True))
        winners = [majority(problem, policy, samples) for problem, samples in pairs] if vote else None
        share = seconds_share(begin, len(flat))
        scores = iter(zip(rewards, costs, strict=True))
        solutions = []
        for number, (problem, samples) in enumerate(pairs):
            log = SampleLog()
            # one prefill: all samples of a problem share its prompt
            log.trajectory.charge(cost.prefill(policy.parameters, len(prompts[number])))
            for index, rollout in enumerate(samples):
                value, scoring_cost = next(scores)
                decoding_cost = cost.decoding(policy.parameters, len(rollout.token_ids))
                log.trajectory.charge(decoding_cost, scoring_cost, share)
                log.add(rollout.token_ids, value)
                if winners is not None:
                    log.choose(winners[number][index])
                log.record(policy)
            solutions.append(log.solution(problem, policy))
        return solutions
