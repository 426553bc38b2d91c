"""The cells of one command, with progress, time left, failures and tables."""

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import build, fingerprint, workers
from ..config.build import BuiltCell
from ..config.cell import Cell
from ..cost import peak_bytes
from . import prediction, side_by_side
from .cell_records import check_records, correct_size, locked, record_file, stored, write_settings
from .results_folder import UNWRITABLE
from .rollout_engine import RolloutEngine, remove_records

# The table is rewritten when a cell ends, at most every TABLE_SECONDS and for at most a tenth of the time.
TABLE_SECONDS, TABLE_SHARE = 5, 10


def run_cell(built: BuiltCell, label: str | None, engine: RolloutEngine) -> None:
    """Solve the problems that the cell has no records of yet, and write their records and settings.

    Args:
        label: text before the progress bar; None shows no bar.

    Raises:
        ValueError: models that cannot be loaded, or that are not those of the records; another process at this cell.
    """
    with locked(built.cell):
        _run_locked(built, label, engine)


def _run_locked(built: BuiltCell, label: str | None, engine: RolloutEngine) -> None:
    cell = built.cell
    path = record_file(cell)
    before = fingerprint.fingerprint(cell)
    policy, reward = engine.models(built)
    _check_unchanged(built, before)
    if cell.overwrite:  # now that the models are there
        remove_records(cell)
    check_records(cell, wanted(built))  # again: loading may have fetched a newer model from the hub
    write_settings(cell)
    prediction.run(
        prediction.Inference(built.method, policy, reward, cell.seed, cell.reward_device),
        built.problems,
        path,
        policy=cell.policy.name,
        method=cell.method.name,
        repeats=cell.task.repeats,
        label=label,
        **{key: getattr(cell, key) for key in ("batch_size", "device", "devices", "threads")},
    )


def _check_unchanged(built: BuiltCell, before: dict[str, Any]) -> None:
    """Raise ValueError if a model or problem file is no longer what this command has read.

    Args:
        before: fingerprint of the cell before its models were loaded.
    """
    cell = built.cell
    changed = fingerprint.changes(before, fingerprint.fingerprint(cell))
    if not changed and cell.task.path is not None and build.build_problems(cell) != built.problems:
        changed = [f"the problems of {cell.task.path}"]
    if changed:
        raise ValueError(f"files have changed since they were read ({'; '.join(changed)}). Run the command again.")


def run_elsewhere(built: BuiltCell, folder: Path) -> tuple[float, int]:
    """Run a cell in a process of its own; return seconds, and the process's largest memory in bytes."""
    began = time.monotonic()
    build.prepare_models(built.cell)
    with RolloutEngine(folder) as engine:
        run_cell(built, None, engine)
    return time.monotonic() - began, peak_bytes(torch.device("cpu"))


def expected(built: BuiltCell) -> int:
    """Return the number of records of a complete cell."""
    return len(built.problems) * built.cell.task.repeats


def wanted(built: BuiltCell) -> set[tuple[str, int]]:
    """Return problem and repeat of each record of a complete cell."""
    return {(problem.id, repeat) for problem in built.problems for repeat in range(built.cell.task.repeats)}


def is_pending(built: BuiltCell) -> bool:
    """Return whether a cell has problems left to solve.

    Raises:
        ValueError: the cell's file has records of other problems.
    """
    if built.cell.overwrite:
        return True
    path, needed = record_file(built.cell), wanted(built)
    keys = stored(path).keys
    if foreign := sorted(keys - needed):
        raise ValueError(
            f"{path} must hold records of this run's {len(built.problems)} problems; it has {len(foreign)} of others, "
            f"the first of problem {foreign[0][0]!r}, repeat {foreign[0][1]}. Delete these lines, or pass "
            "overwrite=true."
        )
    return not needed <= keys


def sort_finished(built: BuiltCell) -> None:
    """Put the records of a finished cell into the order of one process, and note their number."""
    cell = built.cell
    correct_size(cell)
    prediction.sort_by_problem(record_file(cell), prediction.chunks(built.problems, cell.task.repeats, cell.batch_size))


class CellRunner:
    """Runs the cells of one command, with their progress, failures and tables.

    Args:
        cells: of the command.
        write_tables: rewrites the tables from the records.
        engine: loads the models.
    """

    def __init__(self, cells: Sequence[Cell], write_tables: Callable[[Sequence[Cell]], None], engine: RolloutEngine):
        self.cells = cells
        self.engine = engine
        self.write_tables = write_tables
        self.finished = 0
        self.peak_bytes = 0
        self.workers = 1
        self.tabulates = True
        self.left = list(cells)
        self.broken: list[str] = []
        self.started = time.monotonic()
        self.table_due = 0.0
        self.seconds: dict[str, list[float]] = {}

    def run_all(self, items: Sequence[BuiltCell]) -> None:
        """Run all cells, side by side where `workers` asks for it and there is enough to do.

        Raises:
            OSError: results can no longer be written.
            MemoryError: a process was killed.
        """
        pending = [item for item in items if is_pending(item)]
        records = sum(expected(item) for item in pending)
        self.workers = workers.useful_workers(pending[0].cell, records) if pending else 1
        if self.workers == 1:
            for item in items:
                self.run(item)
            return
        for item in items:
            if not is_pending(item):
                self.run(item)
        print(f"{len(pending)} cells, {self.workers} at a time", flush=True)
        before = {record_file(item.cell): _done(item.cell) for item in pending}
        work = partial(run_elsewhere, folder=self.engine.folder)
        for ended in side_by_side.run(pending, self.workers, work):
            self.peak_bytes = max(self.peak_bytes, ended.peak_bytes)
            if ended.error is not None:
                self._report(ended.built, ended.error)
            self.check_complete(ended.built)
            self._finish(ended.built, before[record_file(ended.built.cell)], ended.seconds)

    def run(self, built: BuiltCell) -> None:
        """Run one cell, unless it is complete; an error is reported and does not stop the other cells.

        Raises:
            OSError: results can no longer be written; every further cell would fail too.
        """
        before, began = _done(built.cell), time.monotonic()
        if before < expected(built):
            try:
                run_cell(built, f"cell {self.finished + 1}/{len(self.cells)} {cell_name(built.cell)}", self.engine)
            except Exception as error:
                self._report(built, error)
            self.check_complete(built)
        else:  # it may have been killed after its last record, before it was sorted
            sort_finished(built)
        self._finish(built, before, time.monotonic() - began)

    def run_in_job(self, built: BuiltCell) -> None:
        """Run one cell in a job that a launcher started; the command that launched it writes the tables."""
        self.tabulates = False
        self.run(built)

    def collect(self, items: Sequence[BuiltCell]) -> None:
        """Check the cells that jobs ran, and write the tables from their records."""
        for item in items:
            self.check_complete(item)
        self.finished = len(items)
        self._tabulate()

    def _finish(self, built: BuiltCell, before: int, seconds: float) -> None:
        """Count a cell as finished, note its time, and print its result."""
        cell = built.cell
        if before < expected(built):
            share = (stored(record_file(cell)).count - before) / expected(built)
            self.seconds.setdefault(_kind(cell), []).append(seconds / max(share, 0.01))
        self.finished += 1
        self.left = [other for other in self.left if other is not cell]
        if self.tabulates and (time.monotonic() > self.table_due or self.finished == len(self.cells)):
            self._tabulate()
        result = f"{cell_name(cell)}: {self.result(built)}; {self._clock()}"
        print(f"[{self.finished}/{len(self.cells)}] {result}", flush=True)

    def _report(self, built: BuiltCell, error: Exception) -> None:
        """Print an error of a cell; raise it if results can no longer be written."""
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            raise error
        traceback.print_exception(error)
        print(f"cell {cell_name(built.cell)} failed: {type(error).__name__}: {error}", file=sys.stderr)
        if built.cell.overwrite and stored(record_file(built.cell)).count >= expected(built):
            self.broken.append(f"{cell_name(built.cell)}, whose earlier records are kept")

    def check_complete(self, built: BuiltCell) -> None:
        """Count the cell as broken if records are missing."""
        missing = expected(built) - stored(record_file(built.cell)).count
        if missing > 0:
            self.broken.append(f"{cell_name(built.cell)} ({missing} of {expected(built)} problems)")

    def result(self, built: BuiltCell) -> str:
        """Return the accuracy so far, and how many problems it rests on."""
        counts = stored(record_file(built.cell))
        if not counts.count:
            return "no records"
        partial = f" (partial: {expected(built)} wanted)" if counts.count < expected(built) else ""
        return f"{100 * counts.correct / counts.count:.1f} % of {counts.count}{partial}"

    def _tabulate(self) -> None:
        """Rewrite the tables; an error there does not stop the cells, from whose records tables can be remade."""
        began = time.monotonic()
        self.broken = [name for name in self.broken if name != "the tables"]  # only the last attempt counts
        try:
            self.write_tables(self.cells)
        except Exception as error:
            self.broken.append("the tables")
            traceback.print_exc()
            print(f"the tables could not be written: {type(error).__name__}: {error}", file=sys.stderr)
        self.table_due = time.monotonic() + max(TABLE_SECONDS, TABLE_SHARE * (time.monotonic() - began))

    def _clock(self) -> str:
        """Return time elapsed and left: a cell is expected to take the mean time of its method, or of all cells."""
        elapsed = f"elapsed {_minutes(time.monotonic() - self.started)}"
        if not self.seconds:
            return elapsed
        overall = np.mean([value for values in self.seconds.values() for value in values])
        remaining = (self.seconds.get(_kind(cell)) for cell in self.left)
        left = sum((np.mean(same) if same else overall for same in remaining), start=0.0) / self.workers
        return f"{elapsed}, about {_minutes(left)} left"


def _done(cell: Cell) -> int:
    """Return the number of records that the cell keeps."""
    return 0 if cell.overwrite else stored(record_file(cell)).count


def _kind(cell: Cell) -> str:
    pool = " (larger pool)" if cell.budget else ""
    return f"{cell.setting or cell.method.name}{pool}"


def cell_name(cell: Cell) -> str:
    """Return policy, task, method and seed, for messages."""
    return f"{cell.policy.name} {cell.task.name} {_kind(cell)} seed {cell.seed}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def failures(cells: Sequence[Cell]) -> dict[Path, int]:
    """Count the failed records of each file that has any."""
    counts = {path: stored(path).failed for path in map(record_file, cells)}
    return {path: count for path, count in counts.items() if count}
