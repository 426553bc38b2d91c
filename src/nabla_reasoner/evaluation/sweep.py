"""The cells of one command: where their records lie, whether they may be gone on with, how each is run and reported."""

import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from ..config import build, fingerprint
from ..config.schema import Cell
from . import prediction
from .records import read_records, record_path

# The table is rewritten as a cell ends, unless that was done so lately that it would take over a tenth of the time.
TABLE_SECONDS, TABLE_SHARE = 5, 10


def record_file(cell: Cell) -> Path:
    """Where a cell's records lie."""
    folder = Path(cell["records"], "budget" if cell["budget"] else "records")
    return record_path(folder, cell["policy"]["name"], cell["task"]["name"], cell["method"]["name"], cell["seed"])


def settings_file(path: Path) -> Path:
    """The settings that made a record file, beside it."""
    return path.with_suffix(".settings.json")


def check_records(cell: Cell) -> None:
    """Raise ValueError when the cell has records that other settings made, or that cannot be read."""
    path = record_file(cell)
    if not path.exists() or not read_records(path):
        return
    sidecar = settings_file(path)
    old = json.loads(sidecar.read_text(encoding="utf-8")) if sidecar.exists() else {}
    changed = fingerprint.differences(old, json.loads(json.dumps(fingerprint.fingerprint(cell))))
    if changed:
        raise ValueError(
            f"{path} was made with other settings ({'; '.join(changed[:4])}{'; ...' if len(changed) > 4 else ''}). "
            "Go on with those, write elsewhere with results_dir=DIR, or replace the records with overwrite=true."
        )


def run_cell(cell: Cell, label: str) -> None:
    """Solve what the cell still misses; its records and the settings that made them are left in its folder."""
    path = record_file(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    if cell["overwrite"]:
        path.unlink(missing_ok=True)
    if not path.exists() or not read_records(path):
        settings_file(path).write_text(json.dumps(fingerprint.fingerprint(cell), indent=1) + "\n", encoding="utf-8")
    policy, reward = build.load_models(cell)
    prediction.run(
        prediction.Inference(build.build_method(cell), policy, reward, cell["seed"]),
        build.build_problems(cell),
        path,
        policy=cell["policy"]["name"],
        method=cell["method"]["name"],
        repeats=cell["task"]["repeats"],
        label=label,
        **{key: cell[key] for key in ("batch_size", "device", "devices", "num_nodes")},
    )


class Sweep:
    """What the cells of one command share: their count, the clock, what went wrong, and the table."""

    def __init__(self, cells: Sequence[Cell], write_tables: Callable[[Sequence[Cell]], None]):
        self.cells, self.finished, self.broken, self.write_tables = cells, 0, [], write_tables
        self.started, self.table_due = time.monotonic(), 0.0
        self.seconds: dict[str, list[float]] = {}

    def run(self, cell: Cell) -> None:
        """Run one cell; a cell that breaks is reported and the others go on."""
        began, name = time.monotonic(), cell_name(cell)
        try:
            run_cell(cell, f"cell {self.finished + 1}/{len(self.cells)} {name}")
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
        """Rewrite the tables; trouble there does not stop the cells, whose records are what tables are made from."""
        asked = time.monotonic()
        try:
            self.write_tables(self.cells)
        except Exception as error:
            self.broken.append("the tables")
            traceback.print_exc()
            print(f"the tables could not be written: {type(error).__name__}: {error}", file=sys.stderr)
        self.table_due = time.monotonic() + max(TABLE_SECONDS, TABLE_SHARE * (time.monotonic() - asked))

    def _clock(self) -> str:
        """Elapsed and left: the cells to come are taken to last as long as those of the same method did."""
        known = [value for values in self.seconds.values() for value in values]
        mean = sum(known) / len(known)
        left = 0.0
        for cell in self.cells[self.finished :]:
            same = self.seconds.get(_kind(cell))
            left += sum(same) / len(same) if same else mean
        return f"elapsed {_minutes(time.monotonic() - self.started)}, about {_minutes(left)} left"


def _kind(cell: Cell) -> str:
    name = cell["setting"] if "setting" in cell else cell["method"]["name"]
    return f"{name} {cell['budget']}"


def cell_name(cell: Cell) -> str:
    """For people: policy, task, method and seed."""
    pool = " (larger pool)" if cell["budget"] else ""
    name = cell["setting"] if "setting" in cell else cell["method"]["name"]
    return f"{cell['policy']['name']} {cell['task']['name']} {name}{pool} seed {cell['seed']}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _result(cell: Cell) -> str:
    records = read_records(record_file(cell)) if record_file(cell).exists() else []
    if not records:
        return "no records"
    right = sum(record["correct"] for record in records)
    return f"{100 * right / len(records):.1f} % of {len(records)}"


def failures(cells: Sequence[Cell]) -> dict[Path, int]:
    """Number of failed records per file that has any."""
    paths = [path for path in map(record_file, cells) if path.exists()]
    counts = {path: sum(record["status"] == "failed" for record in read_records(path)) for path in paths}
    return {path: count for path, count in counts.items() if count}
