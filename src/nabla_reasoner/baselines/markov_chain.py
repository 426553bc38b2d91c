"""Runs of Markov chains on responses: one chain per problem, all advancing together."""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ..engine.trajectory import SampleLog, shared_seconds
from ..models.language_models import Policy
from ..types import Problem, Solution


@runtime_checkable
class Chain(Protocol):
    """The chain of one problem, with the log of its states."""

    problem: Problem
    log: SampleLog


@runtime_checkable
class Chains(Protocol):
    """The chains of a batch; step 0 draws the first states."""

    chains: Sequence[Chain]

    def advance(self, step: int) -> None:
        """Take one step of every chain."""


def run(batch: Chains, num_steps: int, policy: Policy) -> list[Solution]:
    """Draw the first states and take `num_steps` steps; return the last states as solutions, in order."""
    for step in range(num_steps + 1):
        with shared_seconds([chain.log.trajectory for chain in batch.chains]):
            batch.advance(step)
        for chain in batch.chains:
            chain.log.record(policy)
    return [chain.log.solution(chain.problem, policy) for chain in batch.chains]


def check_weight(reward_weight: float | int) -> None:
    """Raise ValueError unless a reward's weight β is a finite number >= 0."""
    if not 0 <= reward_weight < math.inf:
        raise ValueError(
            f"reward_weight (β) must be >= 0 and finite; got {reward_weight}. Use 0 for the policy's own law."
        )
