"""A pool of independent samples per problem, drawn and scored once, and rules that select one of them.

Self-Consistency, Best-of-N, their weighted and random relatives select from the same pool: equal seeds, equal samples.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .. import cost
from ..cost import Cost
from ..engine import scoring
from ..engine.generation import Rollout
from ..engine.sampling import LEAST_TEMPERATURE, Sampling, check_finite, check_whole, keyed_uniforms
from ..engine.trajectory import Sample, SampleLog, seconds_share
from ..models.language_models import Policy, RewardModel
from ..serving.rollouts import rollouts_of
from ..tasks import grading
from ..types import Problem, Solution

MOST_RESPONSES = 100_000  # of one problem at once: the random numbers of 1,024 tokens each take 0.8 GB

# (problem, samples, their rewards or None) -> for n = 1…N, the index of the one selected among the first n
Selector = Callable[[Problem, Sequence[Rollout], Sequence[float | None]], list[int]]


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
        sample = rollouts_of(self.policy)
        rollouts = sample(self.policy, prefixes, noise, self.sampling, [limit] * len(prefixes))
        return [rollouts[i : i + count] for i in range(0, len(rollouts), count)]


def check_counts(counts: dict[str, int]) -> None:
    """Raise ValueError naming the first count that is no whole number >= 1."""
    check_finite(counts)
    check_whole(counts)
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be >= 1; got {count}.")


def check_responses(counts: dict[str, int]) -> None:
    """Raise ValueError naming the first count of responses to one problem that is no whole number from 1 to 100,000."""
    check_counts(counts)
    for name, count in counts.items():
        if count > MOST_RESPONSES:
            raise ValueError(
                f"{name} must be at most {MOST_RESPONSES:,}: all are held in memory at once; got {count:,}."
            )


def check_positive(values: dict[str, float | int]) -> None:
    """Raise ValueError naming the first value that is not a positive finite number, far enough from 0 to divide by."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be > 0 and finite; got {value}.")
        if value < LEAST_TEMPERATURE:
            raise ValueError(f"{name} must be >= {LEAST_TEMPERATURE:g}; got {value}.")


def prompts_within_context(
    problems: Sequence[Problem], model: Policy | RewardModel, max_new_tokens: int
) -> list[list[int]]:
    """Return the model's prompt of each problem.

    Raises:
        ValueError: a prompt and its response do not fit the model's context.
    """
    prompts = [model.prompt_ids(problem.messages) for problem in problems]
    for prompt in prompts:
        model.check_length(len(prompt), max_new_tokens)
    return prompts


def first_sample(problem: Problem, rollouts: Sequence[Rollout], rewards: Sequence[float | None]) -> list[int]:
    """Select the first sample."""
    return [0] * len(rollouts)


def highest(problem: Problem, rollouts: Sequence[Rollout], rewards: Sequence[float | None]) -> list[int]:
    """Select the sample of highest reward; ties go to the one sampled first."""
    return running_argmax(rewards)


def running_argmax(values: Sequence[float]) -> list[int]:
    """Return, for n = 1…N, the index of the largest of the first n values, ties to the first."""
    best, winners = 0, []
    for index, value in enumerate(values):
        if value > values[best]:
            best = index
        winners.append(best)
    return winners


def vote(problem: Problem, policy: Policy, rollouts: Sequence[Rollout], log_weights: Sequence[float]) -> list[int]:
    """Return, for n = 1…N, the index of the first sample with the answer of the largest weight among the first n.

    Samples without an answer do not vote. Without any vote the first sample is returned. Ties go to the answer sampled
    first.

    Args:
        log_weights: logarithms of the samples' weights.
    """
    answers = [
        grading.extract_answer(policy.response_text(rollout.token_ids), problem.task, finished=rollout.finished)
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
        top = max(groups, key=lambda g: (_log_sum([log_weights[i] for i in g]), -g[0]), default=[0])
        winners.append(top[0])
    return winners


def _log_sum(log_weights: Sequence[float]) -> float:
    """Return the logarithm of a sum of weights."""
    largest = max(log_weights)
    return largest + math.log(sum(math.exp(value - largest) for value in log_weights))


class SamplePool:
    """Settings of N independent samples per problem, and the search that all selecting baselines share.

    Args:
        num_samples: N, 1 to 100,000.
        sampling: temperature and cuts.
        max_new_tokens: length limit of a response, >= 1.
    """

    def __init__(self, num_samples: int, sampling: Sampling, max_new_tokens: int):
        check_responses({"num_samples (N)": num_samples})
        check_counts({"max_new_tokens": max_new_tokens})
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
        select: Selector,
        reward: RewardModel | None = None,
    ) -> list[Solution]:
        """Sample, score the samples if a reward model is given, and return the selected sample of every problem.

        Equal samples of a problem are scored once; a prefix that several share is read once by the reward model.

        Raises:
            ValueError: a prompt and its response do not fit the context of a model, or vocabularies differ.
        """
        begin = time.perf_counter()
        if reward is not None:
            reward = reward.for_policy(policy)
            reward_prompts = prompts_within_context(problems, reward, self.max_new_tokens)
        prompts = prompts_within_context(problems, policy, self.max_new_tokens)
        sampler = KeyedSampler(policy, self.sampling, seed, repeat)
        rollouts = sampler.draw(problems, prompts, "rollout", self.num_samples, self.max_new_tokens)
        if reward is None:
            rewards = [[None] * self.num_samples for _ in problems]
            costs = [[Cost()] * self.num_samples for _ in problems]
        else:
            rewards, costs = self._score(reward, reward_prompts, rollouts)
        winners = [select(*problem) for problem in zip(problems, rollouts, rewards, strict=True)]
        share = seconds_share(begin, len(problems) * self.num_samples)
        solutions = []
        for number, problem in enumerate(problems):
            log = SampleLog()
            # one prefill: all samples of a problem share its prompt
            log.trajectory.charge(cost.prefill(policy.size, cost.one_pass(0, len(prompts[number]))))
            for index, rollout in enumerate(rollouts[number]):
                decoding_cost = cost.decoding(policy.size, rollout.decoded)
                log.trajectory.charge(decoding_cost, costs[number][index], share)
                log.samples.append(Sample(rollout.token_ids, rewards[number][index]))
                log.choose(winners[number][index])
                log.record(policy)
            solutions.append(log.solution(problem, policy))
        return solutions

    def _score(
        self, reward: RewardModel, prompts: Sequence[list[int]], rollouts: Sequence[Sequence[Rollout]]
    ) -> tuple[list[list[float]], list[list[Cost]]]:
        """Return rewards and their costs, by problem and sample."""
        count = self.num_samples
        values, costs = scoring.rewards(
            reward,
            [prompt for prompt in prompts for _ in range(count)],
            [rollout.token_ids for samples in rollouts for rollout in samples],
            pools=[number for number in range(len(prompts)) for _ in range(count)],
        )
        starts = range(0, len(values), count)
        return [values[i : i + count] for i in starts], [costs[i : i + count] for i in starts]
