"""Outcomes: records reduced to what tables and figures need, by cell and as [problem, repeat] arrays.

`load_outcomes` reads a folder once; everything else here is a function of what it returned.
"""

import bisect
import operator
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ..config.fingerprint import differing
from ..config.schema import choice_file
from ..config.targets import how_to_make
from ..cost import Cost
from ..tasks.written_steps import steps_are_true
from .json_files import warn_once
from .lineage import improved_policy
from .provenance import mixed_versions
from .record_files import RecordFile
from .records import CellKey, read_records
from .stored_cells import Cells, StoredCell, notes, stored_cells

Row = dict[str, Any]


class RunKey(NamedTuple):
    """One attempt at one question; attempts with equal seed and repeat are paired across methods.

    The right answer belongs to it: problems with one id and different answers are different questions.
    """

    problem: str
    seed: int
    repeat: int
    answer: str | None = None

    @property
    def attempt(self) -> tuple[int, int]:
        return self.seed, self.repeat


class Step(NamedTuple):
    """One entry of an anytime trajectory: costs up to then, and whether the best response so far is correct."""

    rollouts: int
    model_calls: float
    flops: float
    seconds: float
    correct: bool


class Sample(NamedTuple):
    """One of the responses that a method chose from."""

    reward: float | None
    correct: bool


class Outcome(NamedTuple):
    """What tables and figures need of a record.

    Attributes:
        key: problem, seed and repeat.
        correct, ok: graded correct; solved rather than failed.
        cost: by name of the fields of `Cost`; 0 for what an older record does not have, except `gradient_calls`.
        steps: at least one, rollouts ascending.
        reward: of the response; None for a failure or a method without rewards.
        samples: in the order they were drawn; empty for methods that keep none.
        proposed, rejected: candidates after the first, and those not better than the best before; None if not counted.
        true_steps: whether every written step of the response is true; None for tasks without written steps.
    """

    key: RunKey
    correct: bool
    ok: bool
    cost: dict[str, float]
    steps: list[Step]
    reward: float | None
    samples: list[Sample]
    proposed: int | None
    rejected: int | None
    true_steps: bool | None


Outcomes = Mapping[CellKey, list[Outcome]]


def load_outcomes(folder: Path) -> Outcomes:
    """Read the outcomes of every cell in a folder of records, all seeds together; nothing if there is no folder."""
    return outcomes_of(stored_cells(folder)[0])


def outcomes_of(cells: Cells) -> Outcomes:
    """Read the outcomes of these cells; those without records are left out."""
    loaded = {
        key: [outcome_of(record) for file in cell.files if file.path.exists() for record in read_records(file.path)]
        for key, cell in cells.items()
    }
    return {key: outcomes for key, outcomes in loaded.items() if outcomes}


class Experiment(NamedTuple):
    """What an experiment's folder holds.

    Attributes:
        folder: the folder.
        records, pools: outcomes of `records/` and of the larger pools in `budget/`.
        cells, pool_cells: their files and settings.
    """

    folder: Path
    records: Outcomes
    pools: Outcomes
    cells: Cells
    pool_cells: Cells

    def status(self, key: CellKey) -> str:
        """Return "ok", or "partial: COUNT of EXPECTED" by the settings of the cell."""
        return _status(self.cells[key], self.records.get(key, []))

    def notes(self) -> list[str]:
        """Return sentences on cells that are not complete or not made alike; none if all are."""
        loaded = (("", self.cells, self.records), (", larger pool", self.pool_cells, self.pools))
        statuses = {
            f"{', '.join(key)}{kind}": _status(cells[key], outcomes[key])
            for kind, cells, outcomes in loaded
            for key in outcomes
        }
        parts = [f"{name}: {status}" for name, status in statuses.items() if status != "ok"]
        incomplete = f"Partial: {len(parts)} of {len(statuses)} cells are not complete ({'; '.join(parts)})."
        versions = mixed_versions(self.folder)
        return [*([incomplete] if parts else []), *notes(self.cells, self.pool_cells), *versions]


def _status(cell: StoredCell, outcomes: Sequence[Outcome]) -> str:
    return completeness([outcome.key.seed for outcome in outcomes], cell.expected(cell.seeds))


def completeness(seeds: Sequence[int], expected: int | None) -> str:
    """Return a cell's status.

    Args:
        seeds: of its records. If some seeds have fewer than others, they answered fewer problems.
        expected: number of records that it should have; None: not known.
    """
    if expected is not None and len(seeds) < expected:
        return f"partial: {len(seeds)} of {expected}"
    counts = Counter(seeds).values()
    return "ok" if len(set(counts)) < 2 else f"partial: seeds of {min(counts)} to {max(counts)} records"


def read_experiment(folder: Path, planned: Sequence[RecordFile] = ()) -> Experiment:
    """Read an experiment's outcomes; cells whose settings differ have different names (see `stored_cells`).

    Args:
        folder: the experiment's folder, with `records/` and possibly `budget/`.
        planned: files that the command will write.
    """
    cells, stored = stored_cells(folder / "records", folder / "budget", planned=planned)
    pool_cells = {key: pool for key, pool in stored.items() if _is_larger_pool(folder, key, pool, cells.get(key))}
    return Experiment(folder, outcomes_of(cells), outcomes_of(pool_cells), cells, pool_cells)


def _is_larger_pool(folder: Path, key: CellKey, pool: StoredCell, cell: StoredCell | None) -> bool:
    """Return whether a pool differs from its cell in its size only; one that does not is named and left out."""
    sizes = choice_file("method", pool.names.method).get("budget") or {}
    cell_method = cell.settings.get("method", {}) if cell is not None else {}
    others = differing(pool.settings.get("method", {}), cell_method, but=sizes)
    if others:
        warn_once(
            f"{folder / 'budget'}: the pool of {', '.join(key)} is left out: its {', '.join(others)} is not that of "
            "the records. Repeat the command with the settings of both and overwrite=true."
        )
    return not others


def read_records_of(target: str, results: Path) -> Experiment:
    """Read a target's records.

    Args:
        target: its name.
        results: folder of a scale's results.

    Raises:
        ValueError: there are none.
    """
    folder = results / target
    experiment = read_experiment(folder)
    if not experiment.records:
        raise ValueError(f"{folder / 'records'} must hold records; got none. {how_to_make(target, results)}")
    return experiment


# Costs that older records lack. `gradient_calls` is not among them: where it is absent, it follows from other costs.
ABSENT = {name: 0 for name in Cost._fields if name != "gradient_calls"}
_step_values = operator.itemgetter(*Step._fields)


def outcome_of(record: Mapping[str, Any]) -> Outcome:
    """Reduce a record to its outcome."""
    cost, correct, search = ABSENT | record["cost"], bool(record["correct"]), record["search"]
    steps = [Step._make(_step_values(step)) for step in search.get("trajectory", [])]
    return Outcome(
        key=RunKey(record["problem_id"], record["seed"], record["repeat"], record.get("answer")),
        correct=correct,
        ok=record["status"] == "ok",
        cost=cost,
        steps=steps or [Step(1, cost["model_calls"], cost["flops"], cost["seconds"], correct)],
        reward=record.get("reward"),
        samples=[Sample(sample.get("reward"), bool(sample["correct"])) for sample in search.get("samples", [])],
        proposed=search.get("proposed"),
        rejected=search.get("rejected"),
        true_steps=steps_are_true(record.get("task", ""), record.get("response", "")),
    )


def stopped_at(outcome: Outcome, size: float | int) -> Step | None:
    """Return the last step of a run that may use at most `size` rollouts; None for a failure.

    A run that ended with fewer is charged in full, including what it spent after its last rollout. A run whose first
    step takes more than `size` is charged that step.
    """
    if not outcome.ok:
        return None
    if outcome.steps[-1].rollouts < size:
        return _whole_run(outcome)
    after = bisect.bisect_right(outcome.steps, size, key=operator.attrgetter("rollouts"))
    return outcome.steps[max(after - 1, 0)]


def charged_steps(outcomes: Sequence[Outcome]) -> list[list[Step]]:
    """Return the steps of each run with the whole run behind them, what came after the last rollout included.

    The last entry of at most n rollouts is `stopped_at` n; at the largest n of all, every run is charged in full. A
    failure has no steps.
    """
    most = max((outcome.steps[-1].rollouts for outcome in outcomes if outcome.ok), default=0)
    charged = []
    for outcome in outcomes:
        whole = _whole_run(outcome)
        ended = whole._replace(rollouts=min(whole.rollouts + 1, most))  # stopped at its last rollout, it costs less
        charged.append([*outcome.steps, ended] if outcome.ok else [])
    return charged


def _whole_run(outcome: Outcome) -> Step:
    cost = outcome.cost
    return Step(outcome.steps[-1].rollouts, cost["model_calls"], cost["flops"], cost["seconds"], outcome.correct)


def correct_array(keys: Sequence[RunKey], correct: Iterable[bool | np.bool_]) -> Float[np.ndarray, "problem repeat"]:
    """Arrange correctness by problem and attempt, both sorted; NaN where an attempt at a problem was not run."""
    rows = {problem: index for index, problem in enumerate(sorted({key.problem for key in keys}))}
    columns = {attempt: index for index, attempt in enumerate(sorted({key.attempt for key in keys}))}
    array = np.full((len(rows), len(columns)), np.nan)
    for key, value in zip(keys, correct, strict=True):
        array[rows[key.problem], columns[key.attempt]] = value
    return array


def paired_keys(first: Collection[RunKey], second: Collection[RunKey]) -> list[RunKey]:
    """Return the runs that two methods are compared on, sorted: every problem has all attempts of the result."""
    common = set(first) & set(second)
    attempts = {key.attempt for key in common}
    by_problem: dict[str, dict[tuple[int, int], RunKey]] = {}
    for key in common:
        by_problem.setdefault(key.problem, {})[key.attempt] = key
    complete = [by_problem[name] for name in sorted(by_problem) if by_problem[name].keys() == attempts]
    return [runs[attempt] for runs in complete for attempt in sorted(runs)]


def row_outcomes(outcomes: Outcomes, row: Row) -> list[Outcome]:
    """Return the outcomes of a table's row, over its seeds.

    Rows `sft` and `grpo` of a policy are the greedy outcomes of the policy that this training made of it.
    """
    key = CellKey(row["policy"], row["task"], row["method"])
    greedy = [cell.policy for cell in outcomes if cell.task == key.task and cell.method == "greedy"]
    policy = improved_policy(key.policy, key.method, greedy)
    if policy is not None:
        key = CellKey(policy, key.task, "greedy")
    return [outcome for outcome in outcomes.get(key, []) if outcome.key.seed in row["seeds"]]
