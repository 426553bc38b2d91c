"""Shared state of the benchmark's cases: settings, cells of Table 1, models, problems, and cached solutions."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from .. import cost
from ..config import build, compose
from ..config.cell import Cell
from ..config.settings import BenchSettings
from ..cost import Cost
from ..engine.sequences import TokenSequence
from ..models import random_init
from ..models.language_models import Policy, RewardModel
from ..reporting.method_names import NABLA_REASONER
from ..types import Problem, Solution
from .profile import Part


class Variant(NamedTuple):
    """One of the two variants of a comparison, per problem or per evaluation.

    Attributes:
        name: label in column `variant`.
        seconds: every timing; a single one, of the counted run, if only FLOPs or bytes are compared.
        spent: tokens, gradient evaluations and FLOPs (those that the case compares); fractions are means.
        peak_bytes: memory added by the call, if measured.
        parts: profile of one more run, if requested.
    """

    name: str
    seconds: list[float]
    spent: Cost
    peak_bytes: int | None = None
    parts: Mapping[str, Part] | None = None


class Comparison(NamedTuple):
    """A baseline, and the variant that is compared with it.

    Attributes:
        note: remark for the table of points.
        valid: False if the two variants did not do the same work.
    """

    baseline: Variant
    measured: Variant
    note: str = ""
    valid: bool = True

    @property
    def variants(self) -> tuple[Variant, Variant]:
        """Both variants, the baseline first."""
        return self.baseline, self.measured


class BenchContext:
    """Settings of a run, and the models, problems and solutions that its cases share."""

    def __init__(self, settings: BenchSettings):
        self.settings = settings
        self.device = torch.device(settings.device)
        self.cells: dict[tuple[str, ...], Cell] = {}
        self.solved: dict[tuple[str | int, ...], list[Solution]] = {}

    def cell(self, policy: str, task: str, method: str, *overrides: str) -> Cell:
        """Return a cell of Table 1 with this run's device and threads."""
        threads = self.settings.threads
        command = (
            f"scale={self.settings.scale}",
            f"device={self.settings.device}",
            *([] if threads is None else [f"threads={threads}"]),
            f"policy={policy}",
            f"task={task}",
            f"method={method}",
            *overrides,
        )
        if command not in self.cells:
            self.cells[command] = compose.compose_cells(command)[0]
        return self.cells[command]

    def main_reward(self, policy: str) -> str:
        """Return the override that chooses Table 1's reward model, which need not be that of the other cases."""
        return f"reward={self.cell(policy, self.settings.tasks[0], NABLA_REASONER).grid['main_reward']}"

    def models(self, policy: str, *overrides: str) -> tuple[Policy, RewardModel]:
        """Return a policy and the reward model that the overrides choose, or the scale's."""
        rewards = (override for override in overrides if override.startswith("reward="))
        cell = self.cell(policy, self.settings.tasks[0], NABLA_REASONER, *rewards)
        build.prepare_models(cell)
        return build.load_models(cell)

    @functools.cached_property
    def paper_size_models(self) -> tuple[Policy, RewardModel]:
        """Models of the paper's size with random weights in bfloat16, on the run's device."""
        sizes = self.settings.paper_size
        shapes = sizes.policy_shape.model_dump(), sizes.reward_shape.model_dump()
        return random_init.random_models(*shapes, sizes.vocab_size, "classifier", self.device, torch.bfloat16)

    def problems(self, task: str, count: int) -> list[Problem]:
        """Return the first problems of a task."""
        cell = self.cell(self.settings.policies[0], task, NABLA_REASONER, f"num_problems={count}")
        return build.build_problems(cell)

    def solver(
        self, policy: str, task: str, method: str, *overrides: str
    ) -> Callable[[Sequence[Problem]], list[Solution]]:
        """Return a function that solves problems by a method with Table 1's settings."""
        solving = build.build_method(self.cell(policy, task, method, *overrides))
        models = self.models(policy, *overrides)
        return lambda problems: solving.solve(problems, *models, seed=0)

    def solutions(self, policy: str, task: str, count: int, method: str, *overrides: str) -> list[Solution]:
        """Return solutions of the first problems of a task; computed once per run."""
        key = (policy, task, count, method, *overrides)
        if key not in self.solved:
            solve, problems = self.solver(policy, task, method, *overrides), self.problems(task, count)
            begin = time.perf_counter()
            solutions = solve(problems)
            share = (time.perf_counter() - begin) / count  # the reference engine does not measure its time
            self.solved[key] = [solution._replace(cost=solution.cost._replace(seconds=share)) for solution in solutions]
        return self.solved[key]

    def sequences(self, count: int) -> tuple[Policy, RewardModel, list[TokenSequence]]:
        """Return the models, and greedy answers of the first policy to the first task as token sequences."""
        name, task = self.settings.policies[0], self.settings.tasks[0]
        policy, reward = self.models(name)
        sequences = [
            TokenSequence(
                policy_prompt=policy.prompt_ids(problem.messages),
                reward_prompt=reward.prompt_ids(problem.messages),
                prefix=[],
                rollout=solution.token_ids,
            )
            for problem, solution in zip(
                self.problems(task, count), self.solutions(name, task, count, "greedy"), strict=True
            )
        ]
        return policy, reward, sequences


def mean_cost(solutions: Sequence[Solution]) -> Cost:
    """Return the mean cost of a problem; counts become fractions."""
    return mean([solution.cost for solution in solutions])


def mean(costs: Sequence[Cost]) -> Cost:
    """Return the mean of every field."""
    return Cost(*(value / len(costs) for value in cost.total(costs)))
