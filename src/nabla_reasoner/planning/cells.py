"""Plan of a command's cells: expected work, cost, hours, memory and disk of each, and what would be refused."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..config.cell import Cell
from ..config.method_rules import check_method
from ..cost import Cost
from ..tasks import problems
from .expected_cost import Models, label, record_bytes, seconds, total_cost
from .machines import MACHINES, Machine
from .memory import Demand, Limits, Memory, fits, gigabytes, largest, memory
from .model_sizes import check_vocabulary, load
from .work import Case, Work
from .workload import case_of, work


@dataclass(frozen=True)
class CellPlan:
    """Expectations for one policy, reward, task and method, all seeds together.

    Attributes:
        cell: the cell of the first seed.
        problems: problems to be solved, repeats and seeds included.
        batches: batches of one seed, which is the most processes that can share its work.
        cost: of all problems; its model calls and seconds are not meaningful.
        seconds: on one machine.
        least_seconds: on a machine that launches its kernels in no time, as one with recorded graphs nearly does.
        memory: peak.
        records: bytes of the records.
    """

    cell: Cell
    problems: int
    batches: int
    case: Case
    work: Work
    models: Models
    cost: Cost
    seconds: float | int
    least_seconds: float | int
    memory: Memory
    records: float | int

    @property
    def name(self) -> str:
        """The method, with the change of an ablation or the larger pool."""
        return label(self.cell)

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return math.ceil(self.case.prompt + self.case.limit)

    def demand(self, limits: Limits) -> Memory:
        """Return the peak memory with other settings."""
        return memory(self.case, self.work, self.models, limits)


def problem_count(cell: Cell) -> int:
    """Return the number of problems of a cell, without repeats.

    Raises:
        ValueError: a problem file that is missing, malformed or shorter than `num_problems`; more problems than a
            benchmark has; or a task whose size is not known.
    """
    task, wanted = cell.task, cell.num_problems
    if task.dataset is None and task.path is not None:
        return len(problems.load_jsonl(task.path, task=task.name, size=wanted, suffix=""))
    size = task.size_of(cell.split)
    if task.dataset is None and size is not None and (wanted or 0) > size:
        raise ValueError(
            f"num_problems must be at most {size}, the problems of task {task.name}; got {wanted}. Lower it."
        )
    count = wanted or size
    if count is None:
        raise ValueError(f"the number of problems of task {task.name} must be known to plan; give num_problems.")
    return count


def models_of(cell: Cell) -> Models:
    """Return the sizes of a cell's models.

    Raises:
        ValueError: sizes that are not known, or vocabularies that differ.
    """
    policy = load(cell.policy.path, classifier=False)
    reward = load(cell.reward.path, classifier=cell.reward.kind != "likelihood")
    check_vocabulary(policy, reward)
    reference = load(cell.reward.reference, classifier=False) if cell.reward.reference else None
    return Models(policy, reward, reference)


def plan_cells(cells: Sequence[Cell], machine: Machine) -> list[CellPlan]:
    """Return the plan of each cell; cells that differ in their seed only are joined.

    Raises:
        ValueError: as `check_method`, `problem_count` and `models_of`.
    """
    joined: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        key = (cell.policy.path, cell.reward.path, cell.task.name, label(cell), cell.records)
        joined.setdefault(key, []).append(cell)
    return [_plan(members, machine) for members in joined.values()]


def _plan(members: Sequence[Cell], machine: Machine) -> CellPlan:
    cell = members[0]
    check_method(cell)
    count = problem_count(cell)
    case = case_of(cell, min(cell.batch_size, count))
    expected, models = work(case), models_of(cell)
    solved = count * cell.task.repeats * len(members)
    limits = limits_of(cell)
    return CellPlan(
        cell=cell,
        problems=solved,
        batches=cell.task.repeats * math.ceil(count / case.batch),  # as `prediction.chunks`
        case=case,
        work=expected,
        models=models,
        cost=total_cost(case, expected, solved, models),
        seconds=seconds(case, expected, solved, models, machine),
        least_seconds=seconds(case, expected, solved, models, machine.without_launches()),
        memory=memory(case, expected, models, limits),
        records=record_bytes(case, expected, solved),
    )


def limits_of(cell: Cell) -> Limits:
    """Return the settings of a cell that decide its memory."""
    return Limits(cell.tokens_per_pass, cell.decode_rows, cell.batch_size)


def check_memory(plans: Sequence[CellPlan], machine: Machine) -> None:
    """Raise ValueError if a cell does not fit the machine; the message names the largest settings that do."""
    worst = max(plans, key=lambda plan: plan.memory.total)
    limits = limits_of(worst.cell)
    demands: list[Demand] = [plan.demand for plan in plans]
    if fits([worst.demand], limits, machine):
        return
    parts = ", ".join(f"{name} {gigabytes(value)}" for name, value in worst.memory._asdict().items())
    who = f"{worst.cell.policy.name} {worst.cell.task.name} {worst.name}"
    best = largest(demands, limits, machine, max(plan.longest for plan in plans))
    if best is not None:
        remedy = f"The largest settings that fit: {best}"
    else:
        least = Limits(1, 1, 1)
        names = [name for name, other in MACHINES.items() if not name.startswith("cpu") and fits(demands, least, other)]
        remedy = f"No setting fits: one problem at a time needs {gigabytes(worst.demand(least).total)} GB. " + (
            f"Machines that can hold it: {', '.join(names)}" if names else "Choose smaller models"
        )
    raise ValueError(
        f"the peak memory must fit {machine.name} ({gigabytes(machine.memory)} GB); {who} needs "
        f"{gigabytes(worst.memory.total)} GB ({parts}) with {limits}. {remedy}."
    )
