"""What the cases of the benchmark share: settings, cells of table 1, models, problems, and solutions found once."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .. import cost
from ..config import build, compose
from ..config.schema import Cell
from ..cost import Cost
from ..engine.sequences import TokenSequence
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .profile import Part

NABLA, BEST_OF_N = "nabla_reasoner", "best_of_n"


class Variant(NamedTuple):
    """One of the two things compared, per problem or per evaluation.

    Attributes:
        variant: its name.
        seconds: every timing; one, of the counted run, where nothing but FLOPs or bytes is compared.
        spent: tokens, gradient evaluations and FLOPs (those that the case compares); fractions are means.
        peak_bytes: what the call adds to memory, where it was measured.
        parts: where the time goes, of one more run, where that was asked for.
    """

    variant: str
    seconds: list[float]
    spent: Cost
    peak_bytes: int | None = None
    parts: Mapping[str, Part] | None = None


class Comparison(NamedTuple):
    """The yardstick, then what is compared with it.

    Attributes:
        sides: both.
        note: what else there is to say.
        valid: False when the two did not do the same work.
    """

    sides: tuple[Variant, Variant]
    note: str = ""
    valid: bool = True


class BenchContext:
    """The settings of a run, and what its cases share.

    Args:
        settings: configs/bench.yaml, resolved.
    """

    def __init__(self, settings: dict[str, Any]):
        self.settings, self.device = settings, torch.device(settings["device"])
        self.cells: dict[tuple[str, ...], Cell] = {}
        self.solved: dict[tuple, list[Solution]] = {}

    def cell(self, policy: str, task: str, method: str, *overrides: str) -> Cell:
        """A cell of table 1 with this run's device and threads."""
        given = self.settings["threads"]
        threads = [] if given is None else [f"threads={given}"]
        choice = [f"policy={policy}", f"task={task}", f"method={method}"]
        scale, device = f"scale={self.settings['scale']}", f"device={self.settings['device']}"
        words = (scale, device, *threads, *choice, *overrides)
        if words not in self.cells:
            self.cells[words] = compose.compose_cells(words)[0]
        return self.cells[words]

    def models(self, policy: str) -> tuple[Policy, RewardModel]:
        cell = self.cell(policy, self.settings["tasks"][0], NABLA)
        build.prepare_models(cell)
        return build.load_models(cell)

    def problems(self, task: str, count: int) -> list[Problem]:
        cell = self.cell(self.settings["policies"][0], task, NABLA, f"num_problems={count}")
        return build.build_problems(cell)

    def solver(self, policy: str, task: str, method: str, *overrides: str) -> Callable[[Sequence[Problem]], list]:
        """What solves problems with a method at table 1's settings."""
        built, (own, reward) = build.build_method(self.cell(policy, task, method, *overrides)), self.models(policy)
        return lambda problems: built.solve(problems, own, reward, seed=0)

    def solutions(self, policy: str, task: str, count: int, method: str, *overrides: str) -> list[Solution]:
        """Solutions of the first problems of a task, worked out once."""
        key = (policy, task, count, method, *overrides)
        if key not in self.solved:
            solve, problems = self.solver(policy, task, method, *overrides), self.problems(task, count)
            begin = time.perf_counter()
            solved = solve(problems)
            share = (time.perf_counter() - begin) / count  # the plain engine keeps no time of its own
            self.solved[key] = [each._replace(cost=each.cost._replace(seconds=share)) for each in solved]
        return self.solved[key]

    def sequences(self, count: int) -> tuple[Policy, RewardModel, list[TokenSequence]]:
        """Greedy answers of the first policy to the first task, as a gradient evaluation takes them."""
        name, task = self.settings["policies"][0], self.settings["tasks"][0]
        policy, reward = self.models(name)
        answers = self.solutions(name, task, count, "greedy")
        return (
            policy,
            reward,
            [
                TokenSequence(policy.prompt_ids(p.messages), reward.prompt_ids(p.messages), [], answer.token_ids)
                for p, answer in zip(self.problems(task, count), answers, strict=True)
            ],
        )


def mean(costs: Sequence[Cost], count: int) -> Cost:
    """A share of the sum."""
    return Cost(*(value / count for value in cost.total(costs)))
