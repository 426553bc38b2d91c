"""Copies of results in Weights & Biases: one run per cell, and one of an experiment's tables and models.

Runs are written after the work, from its result files, which do not depend on them. A run's id is a digest of
experiment, scale, cell and settings, so that the same command writes the same runs: an unchanged run is kept, a changed
one is replaced. Every run is written offline; with mode online those that the server does not have are then uploaded.
A server never replaces points of a curve but adds to them, so a run leaves out those that it was sent before.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import build, fingerprint
from ..config.cell import Cell
from ..config.wandb_mode import chosen_mode
from ..evaluation.error_text import error_text
from ..evaluation.json_files import read_object, warn_once
from ..evaluation.outcomes import correct_array, outcome_of
from ..evaluation.records import read_records
from ..evaluation.statistics import accuracy_interval
from .running_metrics import RunningMetrics, curve
from .tables import read_rows, replace_file, text_columns
from .wandb_log import Table, WandbRun, identity, log, model_bytes
from .wandb_upload import UploadError, is_uploaded, upload

SAMPLES = 5  # records of a cell that are uploaded as text
SAMPLE_COLUMNS = ("question", "response", "extracted", "answer", "correct", "reward", "status")
# By run id: where the run is, a digest of its content, and the last steps that a server has before and with this copy.
STATE = "mirrored.json"
LIVE = "live.json"  # by run id: the last step that was sent while the cell ran
OFFLINE, ONLINE = "offline", "online"


def cell_names(cell: Cell) -> list[str]:
    """Return the names of a cell's run, which its id and display name are made of."""
    groups = [getattr(cell, group).name for group in ("policy", "task", "method")]
    below = Path(cell.records).relative_to(cell.folder).parts  # Table 2: the reward
    return [*groups, f"s{cell.seed}", *below, *(["pool"] if cell.budget else [])]


def cell_run(cell: Cell, settings: Mapping[str, Any]) -> WandbRun:
    """Return a cell's run without results.

    Args:
        cell: settings as typed.
        settings: what decides its records (`fingerprint`), or the content of the file of settings beside them.
    """
    names = cell_names(cell)
    return WandbRun(
        identity=identity([cell.experiment_name, cell.scale_name, *names], lasting(settings)),
        name="-".join(names),
        job_type="-".join([cell.method.name, *(["pool"] if cell.budget else [])]),
        config={
            **settings,
            "experiment": cell.experiment_name,
            "scale": cell.scale_name,
            "variant": cell.variant.name,
            "budget": cell.budget,
        },
    )


def lasting(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a cell keeps while its records grow: with them its run stays the same one."""
    changing = ("num_problems", *fingerprint.FREE, *fingerprint.ROUNDING)
    return {name: value for name, value in settings.items() if name not in changing}


def cell_entry(cell: Cell, path: Path) -> WandbRun:
    """Return the run of one cell: accuracy, mean costs, their curves, and a few records as text.

    Args:
        cell: settings.
        path: record file with at least one record.
    """
    records = read_records(path)
    return cell_run(cell, fingerprint.fingerprint(cell))._replace(
        metrics=_cell_metrics(records),
        tables={"samples": _samples(cell, records[:SAMPLES])},
        step=len(records),
        curve=curve(records),
    )


def _cell_metrics(records: Sequence[Mapping[str, Any]]) -> dict[str, float | int]:
    """Return accuracy with its interval, counts, and mean costs over the problems that did not fail."""
    running = RunningMetrics()
    for record in records:
        running.add(record)
    outcomes = [outcome_of(record) for record in records]
    correct = correct_array([outcome.key for outcome in outcomes], (outcome.correct for outcome in outcomes))
    return {**running.metrics(), **accuracy_interval(correct).columns()}


def _samples(cell: Cell, records: Sequence[Mapping[str, Any]]) -> Table:
    """Return records as rows of `SAMPLE_COLUMNS`; a column has one type, so all but numbers is text."""
    questions = {problem.id: problem.question for problem in build.build_problems(cell)}
    rows = []
    for record in records:
        values = [record[name] for name in SAMPLE_COLUMNS[1:]]
        texts = [value if isinstance(value, int | float) or value is None else str(value) for value in values]
        rows.append([questions[record["problem_id"]], *texts])
    return Table(SAMPLE_COLUMNS, rows)


def tables_entry(
    folder: Path,
    *,
    experiment: str,
    scale: str,
    config: Mapping[str, Any],
    names: Sequence[str],
    metrics: Mapping[str, float | int] | None = None,
    models: Mapping[str, str] | None = None,
) -> WandbRun:
    """Return the summarising run of an experiment: its CSV tables, figures and models.

    Args:
        folder: results of the experiment.
        experiment, scale: names.
        config: settings.
        names: tables, `NAME.csv` in the folder.
        metrics: numbers of the whole experiment.
        models: model folders or hub names, by artifact name.
    """
    tables = {}
    for name in names:
        columns, rows = read_rows(folder / f"{name}.csv")
        texts = text_columns(columns)
        values = [
            cells if column in texts else _typed(cells)
            for column, cells in zip(columns, zip(*rows, strict=True), strict=False)  # no cells without rows
        ]
        if columns:
            tables[name] = Table(columns, list(zip(*values, strict=True)))
    run_names = [experiment, scale, "tables"]
    return WandbRun(
        identity=identity(run_names, _written(folder)),
        name="-".join(run_names),
        job_type="tables",
        config=config,
        metrics=metrics or {},
        tables=tables,
        models=models or {},
        figures={path.stem: path for path in sorted(folder.glob("*.png"))},
    )


def _written(folder: Path) -> str:
    """Return one way to write a folder: relative to the working directory, or absolute if it is not below it."""
    path = Path(os.path.abspath(folder))  # `resolve` would follow links
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _typed(column: Sequence[str]) -> list[float | None] | list[str]:
    """Return a column of a CSV file as numbers if every cell is one or empty, otherwise as text."""
    try:
        return [float(cell) if cell else None for cell in column]
    except ValueError:
        return list(column)


def mirror_tables(
    folder: Path,
    settings: Mapping[str, Any],
    *,
    experiment: str,
    scale: str,
    names: Sequence[str],
    metrics: Mapping[str, float | int],
) -> None:
    """Write an experiment that has no cells: one run of its tables, figures and numbers."""
    scope = {"experiment": experiment, "scale": scale}
    content = {**scope, "config": settings, "names": names, "metrics": metrics}
    write(folder, lambda: [tables_entry(folder, **content)], mode=settings["wandb"], **scope)


def mirror_cells(cells: Sequence[Cell], paths: Sequence[Path], *, sweep: Mapping[str, Any]) -> None:
    """Write an experiment: a run per cell that has records, and one of its tables and models."""
    first = cells[0]
    folder, scope = Path(first.folder), {"experiment": first.experiment_name, "scale": first.scale_name}

    def entries() -> list[WandbRun]:
        done = [cell_entry(cell, path) for cell, path in zip(cells, paths, strict=True) if path.exists()]
        names = [name for name in ("table", "comparisons") if (folder / f"{name}.csv").exists()]
        groups = [(group, getattr(cell, group)) for cell in cells for group in ("policy", "reward")]
        models = {f"{group}-{model.name}": model.path for group, model in groups}
        return [
            *done,
            tables_entry(folder, **scope, config={"sweep": sweep, **first.content()}, names=names, models=models),
        ]

    write(folder, entries, mode=first.wandb, **scope)


def write(folder: Path, make: Callable[[], Sequence[WandbRun]], *, experiment: str, scale: str, mode: str) -> None:
    """Write W&B runs; an error there is a warning, because the result files do not depend on them.

    Args:
        folder: results of the experiment; runs are written to its folder `wandb`.
        make: returns the runs; not called if W&B is disabled.
        experiment, scale: group and tag of the runs.
        mode: offline, online (upload too) or disabled; the variable WANDB_MODE overrides it.
    """
    mode = chosen_mode(mode)
    if mode == "disabled":
        return
    state = folder / "wandb" / STATE
    known = read_object(state) or {}
    if state.exists() and not known:
        warn_once(f"{state} is damaged: the runs in {state.parent} are written again.")
    try:
        entries = [(entry, _digest(entry)) for entry in make()]
        live = read_object(state.with_name(LIVE)) or {}
        for entry, digest in entries:
            told = _list(known.get(entry.identity))
            is_gone = mode == ONLINE and told[:2] == [OFFLINE, digest] and not run_folders(entry, folder)
            if told[:2] not in ([OFFLINE, digest], [ONLINE, digest]) or is_gone:
                sent = _sent(entry, folder, told, live)
                rest = {step: metrics for step, metrics in entry.curve.items() if step > sent}
                replace_run(entry._replace(curve=rest), folder, experiment=experiment, scale=scale)
                known[entry.identity] = [OFFLINE, digest, sent, max(sent, entry.step)]
        if mode == ONLINE:
            _upload_new(entries, known, folder)
    except Exception as error:
        print(f"warning: no copy in W&B ({error_text(error)}); the files in {folder} are complete.", file=sys.stderr)
    if known and state.parent.is_dir():
        replace_file(state, json.dumps(known, indent=1) + "\n")


def _sent(entry: WandbRun, folder: Path, told: Sequence[Any], live: Mapping[str, Any]) -> int:
    """Return the last step of a run that the server has: it would take the same points of a curve a second time.

    Args:
        entry: the run.
        folder: results of the experiment.
        told: the run's entry of `STATE`; empty if it was never written.
        live: content of `LIVE`.
    """
    uploaded = told[:1] == [ONLINE] or any(map(is_uploaded, run_folders(entry, folder)))
    steps = [*told[3:4], live.get(entry.identity)] if uploaded else [*told[2:3], live.get(entry.identity)]
    return max((step for step in steps if isinstance(step, int)), default=0)


def _list(value: object) -> list:
    """Return a value of a state file, or an empty list for anything that is none."""
    return value if isinstance(value, list) else []


def _upload_new(entries: Sequence[tuple[WandbRun, str]], known: dict[str, Any], folder: Path) -> None:
    """Upload the runs that the server does not have, and note them; if that fails, say how to send them later.

    Args:
        entries: runs with their digests.
        known: state by id; changed in place.
    """
    missing = [(entry, digest) for entry, digest in entries if _list(known[entry.identity])[:2] != [ONLINE, digest]]
    folders = {entry.identity: run_folders(entry, folder) for entry, _ in missing}
    try:
        if missing:
            size = sum(model_bytes(entry.models) for entry, _ in missing)
            upload([run for runs in folders.values() for run in runs], model_bytes=size)
    except UploadError as error:
        pattern = folder / "wandb" / "offline-run-*"
        print(
            f"warning: not uploaded to W&B: {error}. The copies are complete; send them later: wandb sync {pattern}",
            file=sys.stderr,
        )
    for entry, digest in missing:
        if all(map(is_uploaded, folders[entry.identity])):
            known[entry.identity] = [ONLINE, digest, *known[entry.identity][2:]]


def replace_run(entry: WandbRun, folder: Path, *, experiment: str, scale: str) -> None:
    """Write a run, then remove the files of earlier ones with its id; if writing fails, they stay."""
    old = set(run_folders(entry, folder))
    try:
        log(entry, folder, experiment=experiment, scale=scale)
    except BaseException:
        for part in set(run_folders(entry, folder)) - old:
            shutil.rmtree(part, ignore_errors=True)
        raise
    if set(run_folders(entry, folder)) - old:
        for path in old:
            shutil.rmtree(path)


def run_folders(entry: WandbRun, folder: Path) -> list[Path]:
    """Return the folders of the runs with an id; W&B appends a number to the second run of one second."""
    return sorted(folder.glob(f"wandb/*run-*-{entry.identity}*"))


def _digest(entry: WandbRun) -> str:
    """Return a digest of a run's content."""
    figures = {name: path.read_bytes().hex() for name, path in entry.figures.items()}
    content = json.dumps(entry._replace(figures=figures)._asdict(), sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()
