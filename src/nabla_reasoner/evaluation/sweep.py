"""The cells of one command: their record files, the check before resuming, and the run with its progress."""

import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..config import build, fingerprint
from ..config.build import BuiltCell
from ..config.cell import Cell
from . import prediction
from .records import read_records, record_path

# The table is rewritten when a cell ends, at most every TABLE_SECONDS and for at most a tenth of the time.
TABLE_SECONDS, TABLE_SHARE = 5, 10


def record_file(cell: Cell) -> Path:
    """Return the path of a cell's records."""
    folder = Path(cell.records, "budget" if cell.budget else "records")
    return record_path(folder, cell.policy.name, cell.task.name, cell.method.name, cell.seed)


def settings_file(path: Path) -> Path:
    """Return the path of the settings that made a record file."""
    return path.with_suffix(".settings.json")


def check_records(cell: Cell) -> None:
    """Raise ValueError if the cell has records that other settings made, or that cannot be read."""
    path = record_file(cell)
    if not path.exists() or not read_records(path):
        return
    sidecar = settings_file(path)
    old = json.loads(sidecar.read_text(encoding="utf-8")) if sidecar.exists() else {}
    changed = fingerprint.differences(old, json.loads(json.dumps(fingerprint.fingerprint(cell))))
    if changed:
        raise ValueError(
            f"{path} was made with other settings ({'; '.join(changed[:4])}{'; ...' if len(changed) > 4 else ''}). "
            "Resume with the old settings, choose another results_dir=DIR, or pass overwrite=true."
        )


def run_cell(built: BuiltCell, label: str) -> None:
    """Solve the problems that the cell has no records of yet, and write their records and settings."""
    cell = built.cell
    path = record_file(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    if cell.overwrite:
        path.unlink(missing_ok=True)
    if not path.exists() or not read_records(path):
        settings_file(path).write_text(json.dumps(fingerprint.fingerprint(cell), indent=1) + "\n", encoding="utf-8")
    policy, reward = build.load_models(cell)
    prediction.run(
        prediction.Inference(built.method, policy, reward, cell.seed),
        built.problems,
        path,
        policy=cell.policy.name,
        method=cell.method.name,
        repeats=cell.task.repeats,
        label=label,
        **{key: getattr(cell, key) for key in ("batch_size", "device", "devices", "num_nodes")},
    )


class CellRunner:
    """Runs the cells of one command, with their progress, failures and tables."""

    def __init__(self, cells: Sequence[Cell], write_tables: Callable[[Sequence[Cell]], None]):
        self.cells = cells
        self.write_tables = write_tables
        self.finished = 0
        self.broken: list[str] = []
        self.started = time.monotonic()
        self.table_due = 0.0
        self.seconds: dict[str, list[float]] = {}

    def run(self, built: BuiltCell) -> None:
        """Run one cell; an error is reported and does not stop the other cells."""
        cell = built.cell
        began, name = time.monotonic(), cell_name(cell)
        try:
            run_cell(built, f"cell {self.finished + 1}/{len(self.cells)} {name}")
        except Exception as error:
            self.broken.append(name)
            traceback.print_exc()
            print(f"cell {name} failed: {type(error).__name__}: {error}", file=sys.stderr)
        self.finished += 1
        self.seconds.setdefault(_kind(cell), []).append(time.monotonic() - began)
        if time.monotonic() > self.table_due or self.finished == len(self.cells):
            self._tabulate()
        print(f"[{self.finished}/{len(self.cells)}] {name}: {_result(cell)}; {self._clock()}", flush=True)

    def _tabulate(self) -> None:
        """Rewrite the tables; an error there does not stop the cells, from whose records tables can be remade."""
        began = time.monotonic()
        try:
            self.write_tables(self.cells)
        except Exception as error:
            self.broken.append("the tables")
            traceback.print_exc()
            print(f"the tables could not be written: {type(error).__name__}: {error}", file=sys.stderr)
        self.table_due = time.monotonic() + max(TABLE_SECONDS, TABLE_SHARE * (time.monotonic() - began))

    def _clock(self) -> str:
        """Return time elapsed and left: a cell is expected to take the mean time of its method, or of all cells."""
        overall = np.mean([value for values in self.seconds.values() for value in values])
        remaining = (self.seconds.get(_kind(cell)) for cell in self.cells[self.finished :])
        left = sum((np.mean(same) if same else overall for same in remaining), start=0.0)
        return f"elapsed {_minutes(time.monotonic() - self.started)}, about {_minutes(left)} left"


def _kind(cell: Cell) -> str:
    pool = " (larger pool)" if cell.budget else ""
    return f"{cell.setting or cell.method.name}{pool}"


def cell_name(cell: Cell) -> str:
    """Return policy, task, method and seed, for messages."""
    return f"{cell.policy.name} {cell.task.name} {_kind(cell)} seed {cell.seed}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _result(cell: Cell) -> str:
    records = read_records(record_file(cell)) if record_file(cell).exists() else []
    if not records:
        return "no records"
    return f"{100 * np.mean([record['correct'] for record in records]):.1f} % of {len(records)}"


def failures(cells: Sequence[Cell]) -> dict[Path, int]:
    """Count the failed records of each file that has any."""
    paths = [path for path in map(record_file, cells) if path.exists()]
    counts = {path: sum(record["status"] == "failed" for record in read_records(path)) for path in paths}
    return {path: count for path, count in counts.items() if count}
