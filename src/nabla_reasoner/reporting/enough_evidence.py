"""How much evidence a verdict needs: every cell of the scale's grid, and enough problems in each."""

import itertools
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import yaml

from ..config.compose import compose_cells
from ..config.schema import CONFIGS
from .evidence import (
    FLOW_CHECKS,
    NOT_RUN,
    PAPER_SAMPLES,
    Evidence,
    Row,
    Rows,
    best_of,
    cell_of,
    compared,
    improved,
    num_samples,
    pooled,
    rejection_rows,
)
from .method_names import BEST_OF_N, NABLA_REASONER, NULL_ARM, SEARCHES, TRAINED

TOO_LITTLE = "too little was run"
MIN_PROBLEMS = 200  # of a task; all of a benchmark that has fewer


class Grid(NamedTuple):
    """What a complete run of a scale covers.

    Attributes:
        policies, tasks, methods, rewards: names; `rewards` of Table 2.
        seeds: number of seeds of each method in Table 1.
        trained: tasks on which it has policies improved by training.
        sizes: problems of each task in a complete run; None if that is not known.
        benchmarks: problems of each task that is a benchmark; None if problems are generated.
    """

    policies: tuple[str, ...]
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    rewards: tuple[str, ...]
    seeds: dict[str, int]
    trained: tuple[str, ...]
    sizes: dict[str, int | None]
    benchmarks: dict[str, int | None]

    def enough(self, task: str) -> int:
        """Return the number of problems that a verdict needs."""
        return min(MIN_PROBLEMS, self.benchmarks.get(task) or MIN_PROBLEMS)

    def complete_rows(self, table1: Rows) -> tuple[int, int]:
        """Return how many cells of Table 1 are complete, and how many there should be."""
        wanted = set(itertools.product(self.policies, self.tasks, self.methods))
        complete = {
            (row["policy"], row["task"], row["method"])
            for row in table1
            if row["status"] == "ok"
            and row["num_problems"] >= (self.sizes.get(row["task"]) or 1)
            and row["num_seeds"] >= self.seeds.get(row["method"], 1)
        }
        return len(wanted & complete), len(wanted)


def counted(evidence: Evidence, grid: Grid) -> tuple[Evidence, dict[tuple[str, str], int]]:
    """Leave out rows of cells beyond the grid that have too few problems for a verdict; say of which cells.

    Policies improved by training are no cells of their own, and are kept.

    Returns:
        The evidence, and the most problems in a row that was left out, by policy and task.
    """
    wanted = {*_cells(grid), *((policy, "all") for policy in grid.policies)}  # "all": pooled over tasks
    largest: dict[tuple[str, str], int] = {}
    for row in itertools.chain(*evidence):
        if _is_further(row, wanted) and row.get("num_problems") is not None:
            largest[cell_of(row)] = max(largest.get(cell_of(row), 0), int(row["num_problems"]))
    left_out: dict[tuple[str, str], int] = {}

    def counts(row: Row) -> bool:
        if not _is_further(row, wanted):
            return True
        size = row["num_problems"] if row.get("num_problems") is not None else largest.get(cell_of(row))
        if size is None:  # nothing says how many, as in rows of the gradient's terms alone
            return True
        if size < grid.enough(row["task"]):
            left_out[cell_of(row)] = max(left_out.get(cell_of(row), 0), int(size))
            return False
        return True

    kept = {name: [row for row in rows if counts(row)] for name, rows in evidence._asdict().items()}
    return Evidence(**kept), left_out


def _is_further(row: Row, wanted: Collection[tuple[str, str]]) -> bool:
    """Return whether a row is of a policy and a task that are not wanted."""
    return "policy" in row and "task" in row and cell_of(row) not in wanted and not improved(row["policy"])


def read_grid(scale: str) -> Grid:
    """Return the grid of a scale, as configs/scale/SCALE.yaml says."""
    (first,) = compose_cells([f"scale={scale}"])
    grid = first.grid
    cells = compose_cells([f"scale={scale}", f"task={grid['task']}"])
    seeds = dict.fromkeys(grid["method"].split(","), len(grid["seed"].split(",")))
    for part in grid["extra"]:
        if "policy" not in part:
            count = len(part.get("seed", grid["seed"]).split(","))
            seeds |= dict.fromkeys(part["method"].split(","), count)
    tasks = tuple(cell.task.name for cell in cells)
    trained = [part.get("task", ",".join(tasks)).split(",") for part in grid["extra"] if "policy" in part]
    return Grid(
        policies=tuple(grid["policy"].split(",")),
        tasks=tasks,
        methods=tuple(seeds),
        rewards=tuple(grid["reward"].split(",")),
        seeds=seeds,
        trained=tuple(dict.fromkeys(itertools.chain(*trained))),
        sizes={cell.task.name: cell.num_problems or cell.task.size for cell in cells},
        benchmarks={cell.task.name: cell.task.size for cell in cells},
    )


class _Wanted(NamedTuple):
    """Rows of which a verdict needs some in each cell, with enough problems.

    Attributes:
        column: column whose `values` must all be there; None: any row will do.
        tasks: tasks whose cells must have them; None: all.
    """

    rows: Rows
    column: str | None = None
    values: Sequence[str] = ("",)
    tasks: Collection[str] | None = None


def lacking(claim: str, evidence: Evidence, grid: Grid) -> str:
    """Return what a verdict on a claim lacks, in words; empty if there is enough evidence.

    Args:
        claim: C1 to C10.
    """
    searches = [name for name in SEARCHES if name in grid.methods]
    wanted: list[_Wanted] = []
    match claim:
        case "C1":
            wanted = [_Wanted(compared(evidence.comparisons, "greedy", "rollouts"))]
        case "C2":
            wanted = [_Wanted(evidence.calls, "method", (*searches, NABLA_REASONER))]
            wanted += [_Wanted(_pairs(evidence, "rollouts"), "baseline", searches)]
        case "C3":
            wanted = [_Wanted(_pairs(evidence, kind), "baseline", searches) for kind in ("rollouts", "flops")]
            wanted += [_Wanted(_pairs(evidence, "rollouts"), "baseline", TRAINED, grid.trained)]
        case "C4":
            rows = [row for row in evidence.rewards if row["method"] == NABLA_REASONER and row["accuracy"] is not None]
            wanted = [_Wanted(rows, "reward", grid.rewards)]
        case "C5":
            wanted = [_Wanted(rejection_rows(evidence), "method", (BEST_OF_N, NULL_ARM, NABLA_REASONER))]
        case "C6":
            wanted = [_Wanted(evidence.budgets, "method", (BEST_OF_N, "self_consistency", NABLA_REASONER))]
        case "C7":
            cells = {(row["policy"], row["task"]) for row in evidence.terms}
            measured = sum(cell in cells for cell in _cells(grid))
            terms = "" if measured == len(_cells(grid)) else f"terms in {measured} of {len(_cells(grid))} cells"
            return "; ".join(filter(None, [terms, _ablation_lacking(evidence, "past_only")]))
        case "C8":
            names = [row["name"] for row in evidence.checks if row["name"].startswith("eq25_")]
            absent = [size for size in _vocabularies() if not any(name.endswith(f"__V{size}") for name in names)]
            checks = f"no checks of Eq. 25 at vocabularies of {', '.join(map(str, absent))}" if absent else ""
            return "; ".join(filter(None, [checks, _ablation_lacking(evidence, "every_position")]))
        case "C9":
            names = [row["name"] for row in evidence.checks]
            absent = [prefix for prefix in FLOW_CHECKS if not any(name.startswith(prefix) for name in names)]
            parts = [f"no checks {', '.join(f'{prefix}*' for prefix in absent)}"] if absent else []
            return "; ".join([*parts, *([] if evidence.ppo else ["no distance to ρ*"])])
        case "C10":
            seconds = [
                row for row in evidence.expenses if (row["method"], row["quantity"]) == (NABLA_REASONER, "seconds")
            ]
            seconds = [row for row in seconds if row["ratio"] is not None]
            others = [num_samples(row) for row in seconds if num_samples(row) != PAPER_SAMPLES]
            wanted = [_Wanted([row for row in seconds if num_samples(row) == PAPER_SAMPLES])]
            cases = {row["case"] for row in evidence.bench if row["ratio_to_reference"] is not None}
            measured = [cell for cell in _cells(grid) if f"gradient_flops__{'__'.join(cell)}" in cases]
            if len(measured) < len(_cells(grid)):
                parts = [f"gradient FLOPs measured in {len(measured)} of {len(_cells(grid))} cells"]
            else:
                parts = [lack] if (lack := _cells_lacking(wanted, grid)) else []
            if others and _cells_lacking(wanted, grid):
                parts.append(f"seconds of {best_of(others)} do not count, only of {best_of([PAPER_SAMPLES])}")
            return "; ".join(parts)
    return _cells_lacking(wanted, grid)


def _vocabularies() -> list[int]:
    """Return the sizes of vocabularies at which a default run checks Eq. 25."""
    return yaml.safe_load((CONFIGS / "experiment/theorem.yaml").read_text(encoding="utf-8"))["eq25"]["vocab_sizes"]


def _pairs(evidence: Evidence, matched_on: str) -> list[Row]:
    rows = [row for row in evidence.comparisons if row["method"] == NABLA_REASONER and row["matched_on"] == matched_on]
    return [row for row in rows if row["verdict"] != NOT_RUN]


def _cells(grid: Grid) -> list[tuple[str, str]]:
    return list(itertools.product(grid.policies, grid.tasks))


def _cells_lacking(wanted: Collection[_Wanted], grid: Grid) -> str:
    """Count the cells of the grid with enough problems in all that is wanted."""
    fewest = dict.fromkeys(_cells(grid), math.inf)  # problems of a cell, in the part with the fewest
    for part in wanted:
        problems: dict[tuple[str, ...], float | int] = {}
        for row in part.rows:
            key = (row["policy"], row["task"], row[part.column] if part.column else "")
            problems[key] = max(problems.get(key, 0), row["num_problems"] or 0)
        for value, cell in itertools.product(part.values, fewest):
            if part.tasks is None or cell[1] in part.tasks:
                fewest[cell] = min(fewest[cell], problems.get((*cell, value), 0))
    lacking_in = [number for cell, number in fewest.items() if number < grid.enough(cell[1])]
    if not lacking_in:
        return ""
    most = f"at most {max(lacking_in):.0f} in the others" if max(lacking_in) else "the others are not complete"
    return f"{len(fewest) - len(lacking_in)} of {len(fewest)} cells with {MIN_PROBLEMS} problems, {most}"


def _ablation_lacking(evidence: Evidence, setting: str) -> str:
    problems = max((row["num_problems"] or 0 for row in pooled(evidence.ablations, setting)), default=0)
    return "" if problems >= MIN_PROBLEMS else f"{problems:.0f} of {MIN_PROBLEMS} problems of the ablation {setting}"
