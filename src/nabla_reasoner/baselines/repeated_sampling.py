"""Baselines without a search over positions: greedy decoding, Self-Consistency, Best-of-N."""

import time
from collections.abc import Sequence

from .. import cost
from ..cost import Cost
from ..engine import generation, scoring
from ..engine.generation import Rollout
from ..engine.sampling import Sampling, keyed_uniforms
from ..models.language_models import Policy, RewardModel
from ..tasks import grading
from ..types import Problem, Solution


class Greedy:
    """The most likely token at every step.

    Args:
        max_new_tokens: length limit of a response, >= 1.
    """

    def __init__(self, *, max_new_tokens: int = 1024):
        self.sampler = _Sampler(1, Sampling(0.0), max_new_tokens)

    def solve(
        self,
        problems: Sequence[Problem],
        policy: Policy,
        reward: RewardModel | None = None,
        seed: int = 0,
        repeat: int = 0,
    ) -> list[Solution]:
        """One solution per problem, in order; the reward model is not asked."""
        begin = time.perf_counter()
        drafts = self.sampler.draw(problems, policy, seed, repeat)
        seconds = (time.perf_counter() - begin) / len(problems)
        return [
            _solution(problem, policy, [draft], chosen=[0], rewards=None, seconds=seconds, scored=[])
            for problem, (draft,) in zip(problems, drafts, strict=True)
        ]


class SelfConsistency:
    """The answer that most of N samples agree on; ties go to the answer sampled first.

    Args:
        num_samples: N >= 1.
        temperature, top_p, top_k, max_new_tokens: how samples are drawn.
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
        self.sampler = _Sampler(num_samples, Sampling(temperature, top_p, top_k), max_new_tokens)

    def solve(
        self,
        problems: Sequence[Problem],
        policy: Policy,
        reward: RewardModel | None = None,
        seed: int = 0,
        repeat: int = 0,
    ) -> list[Solution]:
        """One solution per problem, in order; the reward model is not asked."""
        begin = time.perf_counter()
        drafts = self.sampler.draw(problems, policy, seed, repeat)
        chosen = [majority(problem, policy, own) for problem, own in zip(problems, drafts, strict=True)]
        seconds = (time.perf_counter() - begin) / len(problems)
        return [
            _solution(problem, policy, own, chosen=best, rewards=None, seconds=seconds, scored=[])
            for problem, own, best in zip(problems, drafts, chosen, strict=True)
        ]


class BestOfN:
    """The sample of highest reward among N; ties go to the one sampled first.

    Args:
        num_samples: N >= 1.
        temperature, top_p, top_k, max_new_tokens: how samples are drawn.
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
        self.sampler = _Sampler(num_samples, Sampling(temperature, top_p, top_k), max_new_tokens)

    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """One solution per problem, in order."""
        reward.check_vocabulary(policy)
        begin = time.perf_counter()
        drafts = self.sampler.draw(problems, policy, seed, repeat)
        prompts = [reward.prompt_ids(problem.messages) for problem in problems]
        count = self.sampler.num_samples
        values, costs = scoring.rewards(
            reward, [prompt for prompt in prompts for _ in range(count)], [d.token_ids for own in drafts for d in own]
        )
        seconds = (time.perf_counter() - begin) / len(problems)
        solutions = []
        for index, (problem, own) in enumerate(zip(problems, drafts, strict=True)):
            rewards = values[index * count : (index + 1) * count]
            chosen = [max(range(n), key=lambda k: (rewards[k], -k)) for n in range(1, count + 1)]
            solutions.append(
                _solution(
                    problem,
                    policy,
                    own,
                    chosen=chosen,
                    rewards=rewards,
                    seconds=seconds,
                    scored=costs[index * count : (index + 1) * count],
                )
            )
        return solutions


class _Sampler:
    """N samples per problem, sample k from the random stream "rollout k"."""

    def __init__(self, num_samples: int, sampling: Sampling, max_new_tokens: int):
        if num_samples < 1:
            raise ValueError(f"num_samples (N) must be >= 1; got {num_samples}.")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be >= 1; got {max_new_tokens}.")
        self.num_samples, self.sampling, self.max_new_tokens = num_samples, sampling.check(), max_new_tokens

    def draw(self, problems: Sequence[Problem], policy: Policy, seed: int, repeat: int) -> list[list[Rollout]]:
        """Samples by problem."""
        prompts = [policy.prompt_ids(problem.messages) for problem in problems]
        for prompt in prompts:
            policy.check_length(len(prompt), self.max_new_tokens)
        noise = [
            keyed_uniforms(seed, problem.id, repeat, f"rollout {k}", self.max_new_tokens)
            for problem in problems
            for k in range(self.num_samples)
        ]
        prefixes = [prompt for prompt in prompts for _ in range(self.num_samples)]
        drawn = generation.sample(policy, prefixes, noise, self.sampling, [self.max_new_tokens] * len(prefixes))
        return [drawn[i : i + self.num_samples] for i in range(0, len(drawn), self.num_samples)]


def majority(problem: Problem, policy: Policy, drafts: Sequence[Rollout]) -> list[int]:
    """For every n = 1…N, the index of the first sample that gives the answer most of the first n samples agree on.

    Samples without an answer do not vote; with no vote at all the first sample stands.
    """
    answers = [grading.extract_answer(policy.decode(d.token_ids), problem.task, finished=d.finished) for d in drafts]
    groups: list[list[int]] = []
    chosen = []
    for index, answer in enumerate(answers):
        if answer is not None:
            home = next((g for g in groups if grading.answers_match(answers[g[0]], answer, problem.task)), None)
            if home is None:
                groups.append([index])
            else:
                home.append(index)
        chosen.append(max(groups, key=lambda g: (len(g), -g[0]))[0] if groups else 0)
    return chosen


def _solution(
    problem: Problem,
    policy: Policy,
    drafts: Sequence[Rollout],
    *,
    chosen: Sequence[int],
    rewards: Sequence[float] | None,
    seconds: float,
    scored: Sequence[Cost],
) -> Solution:
    """A solution with its anytime trajectory: `chosen[n - 1]` is the sample that n samples would have given."""
    prompt = len(policy.prompt_ids(problem.messages))
    spent, trajectory = cost.prefill(policy.parameters, prompt), []  # one prompt, read once for all samples
    for index, draft in enumerate(drafts):
        spent = cost.total([spent, cost.decoding(policy.parameters, len(draft.token_ids)), *scored[index : index + 1]])
        trajectory.append(
            {
                "rollouts": index + 1,
                "model_calls": spent.model_calls,
                "flops": spent.flops,
                "seconds": seconds * (index + 1) / len(drafts),
                "response": policy.decode(drafts[chosen[index]].token_ids),
                "finished": drafts[chosen[index]].finished,
            }
        )
    best = chosen[-1]
    samples = [
        {
            "response": policy.decode(draft.token_ids),
            "finished": draft.finished,
            "reward": rewards[i] if rewards else None,
        }
        for i, draft in enumerate(drafts)
    ]
    return Solution(
        problem_id=problem.id,
        response=samples[best]["response"],
        token_ids=drafts[best].token_ids,
        reward=rewards[best] if rewards else None,
        cost=spent._replace(seconds=seconds, peak_bytes=cost.peak_bytes(policy.device)),
        search={
            "rollouts": len(drafts),
            "proposed": len(drafts) - 1,
            "accepted": sum(1 for before, after in zip(chosen, chosen[1:], strict=False) if before != after),
            "rejected": sum(1 for before, after in zip(chosen, chosen[1:], strict=False) if before == after),
            "finished": drafts[best].finished,
            "trajectory": trajectory,
            "samples": samples,
        },
    )
