"""What every method records about its search: cumulative cost, best response after each rollout, counts, samples."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .. import cost
from ..cost import Cost
from ..models.language_models import Policy
from ..types import Problem, Solution


@dataclass
class Trajectory:
    """Cumulative cost of one problem, and its best response after each rollout (the anytime trajectory).

    Attributes:
        spent: cost so far.
        entries: JSON objects, one per recorded rollout; keys as in `types.Solution.search`.
    """

    spent: Cost = field(default_factory=Cost)
    entries: list[dict[str, Any]] = field(default_factory=list)

    def charge(self, *costs: Cost) -> None:
        """Add to the cost so far."""
        self.spent = cost.total([self.spent, *costs])

    def record(self, policy: Policy, rollouts: int, token_ids: Sequence[int]) -> None:
        """Append the best response after `rollouts` rollouts, with the cost so far."""
        self.entries.append(
            {
                "rollouts": rollouts,
                "model_calls": self.spent.model_calls,
                "flops": self.spent.flops,
                "seconds": self.spent.seconds,
                "response": policy.response_text(token_ids),
                "finished": is_finished(policy, token_ids),
            }
        )

    def total_cost(self, policy: Policy) -> Cost:
        """Return the cost so far, with the peak memory of the policy's device."""
        return self.spent._replace(peak_bytes=cost.peak_bytes(policy.device))


def is_finished(policy: Policy, token_ids: Sequence[int]) -> bool:
    """Return whether a response ends with an end-of-turn token."""
    return bool(token_ids) and token_ids[-1] in policy.eos_ids


def search_summary(*, rollouts: int, proposed: int, accepted: int, **others: int) -> dict[str, Any]:
    """Return the counts that open `Solution.search`; `others` are a method's own counts."""
    return {
        "rollouts": rollouts,
        "proposed": proposed,
        "accepted": accepted,
        "rejected": proposed - accepted,
        **others,
    }


def seconds_share(begin: float, count: int) -> Cost:
    """Return an equal share, one of `count`, of the seconds since `begin` (a value of `time.perf_counter`)."""
    return Cost(seconds=(time.perf_counter() - begin) / max(count, 1))


@contextmanager
def shared_seconds(trajectories: Sequence[Trajectory]) -> Iterator[None]:
    """Measure the seconds of the block and charge an equal share to each problem that takes part in it."""
    begin = time.perf_counter()
    yield
    share = seconds_share(begin, len(trajectories))
    for trajectory in trajectories:
        trajectory.charge(share)


class Sample(NamedTuple):
    """A complete response and its reward; None if the method does not use the reward model."""

    token_ids: list[int]
    reward: float | None


@dataclass
class SampleLog:
    """Complete responses sampled for one problem, in the order sampled, and the best of them so far.

    Attributes:
        best: index of the response that the method would return now.
        replacements: number of times that another response became the best.
    """

    trajectory: Trajectory = field(default_factory=Trajectory)
    samples: list[Sample] = field(default_factory=list)
    best: int = 0
    replacements: int = 0

    @property
    def best_sample(self) -> Sample:
        """The response that the method would return now."""
        return self.samples[self.best]

    def add(self, token_ids: list[int], reward: float | None = None) -> None:
        """Append a sample; it becomes the best one if its reward is higher than that of the best before."""
        self.samples.append(Sample(token_ids, reward))
        if reward is not None and reward > self.best_sample.reward:
            self.choose(len(self.samples) - 1)

    def choose(self, index: int) -> None:
        """Make a sample the best one."""
        self.replacements += index != self.best
        self.best = index

    def record(self, policy: Policy) -> None:
        """Append the best sample so far to the trajectory."""
        self.trajectory.record(policy, len(self.samples), self.best_sample.token_ids)

    def solution(self, problem: Problem, policy: Policy, **counts: int) -> Solution:
        """Return the best sample as the problem's solution; `counts` are the method's own counts."""
        token_ids, reward = self.best_sample
        summary = search_summary(
            rollouts=len(self.samples), proposed=len(self.samples) - 1, accepted=self.replacements, **counts
        )
        return Solution(
            problem_id=problem.id,
            response=policy.response_text(token_ids),
            token_ids=token_ids,
            reward=reward,
            cost=self.trajectory.total_cost(policy),
            search={
                **summary,
                "finished": is_finished(policy, token_ids),
                "trajectory": self.trajectory.entries,
                "samples": [
                    {
                        "response": policy.response_text(sample.token_ids),
                        "finished": is_finished(policy, sample.token_ids),
                        "reward": sample.reward,
                    }
                    for sample in self.samples
                ],
            },
        )
