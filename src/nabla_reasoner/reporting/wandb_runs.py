"""Copies of results in Weights & Biases: one run per cell, and one of an experiment's tables and models.

Runs are written after the work, from its result files, which do not depend on them. A run's id is a digest of
experiment, scale, cell and settings, so that the same command writes the same runs: an unchanged run is kept, a changed
one is replaced. A run takes hundredths of a second: nothing about the machine is collected, in a single process.
"""

import csv
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..config import build, fingerprint
from ..config.cell import Cell
from ..config.schema import WANDB_MODES, locate
from ..evaluation import provenance
from ..evaluation.outcomes import correct_array, outcome_of
from ..evaluation.records import read_records
from ..evaluation.statistics import accuracy_interval

if TYPE_CHECKING:
    import wandb

PROJECT = "nabla-reasoner"
SAMPLES = 5  # records of a cell that are uploaded as text
SAMPLE_COLUMNS = ("question", "response", "extracted", "answer", "correct", "reward", "status")
COSTS = ("model_calls", "decode_tokens", "gradient_evaluations", "flops", "gradient_flops", "seconds")
SMALL_BYTES = 64 * 2**20  # model folders up to this size are stored with the run; others by their address
STATE = "mirrored.json"


class Table(NamedTuple):
    """Rows under named columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class WandbRun(NamedTuple):
    """Content of one W&B run.

    Attributes:
        identity: id of the run, the same for the same work; at most 64 characters.
        name: display name.
        job_type: method, or "tables".
        config: settings.
        metrics: numbers, by the names in docs/outputs.md.
        tables: by name.
        models: model folders or hub names, by artifact name.
        figures: PNG files, by name.
    """

    identity: str
    name: str
    job_type: str
    config: Mapping[str, Any]
    metrics: Mapping[str, float | int] = {}
    tables: Mapping[str, Table] = {}
    models: Mapping[str, str] = {}
    figures: Mapping[str, Path] = {}


def identity(names: Sequence[str], settings: object) -> str:
    """Return a run's id: its names, cut, and a digest of names and settings."""
    digest = hashlib.sha256(json.dumps([names, settings], sort_keys=True).encode()).hexdigest()
    return f"{'-'.join(names)[:50]}-{digest[:12]}"


def cell_entry(cell: Cell, path: Path) -> WandbRun:
    """Return the run of one cell: accuracy, mean costs, and a few records as text.

    Args:
        cell: settings.
        path: record file with at least one record.
    """
    records = read_records(path)
    settings = fingerprint.fingerprint(cell)
    groups = [getattr(cell, group).name for group in ("policy", "task", "method")]
    pool = ["pool"] if cell.budget else []
    below = Path(cell.records).relative_to(cell.folder).parts  # Table 2: the reward
    names = [*groups, f"s{cell.seed}", *below, *pool]
    return WandbRun(
        identity=identity([cell.experiment_name, cell.scale_name, *names], settings),
        name="-".join(names),
        job_type="-".join([cell.method.name, *pool]),
        config={
            **settings,
            "experiment": cell.experiment_name,
            "scale": cell.scale_name,
            "variant": cell.variant.name,
            "budget": cell.budget,
        },
        metrics=_cell_metrics(records),
        tables={"samples": _samples(cell, records[:SAMPLES])},
    )


def _cell_metrics(records: Sequence[Mapping[str, Any]]) -> dict[str, float | int]:
    """Return accuracy with its interval, counts, and mean costs over the problems that did not fail."""
    outcomes = [outcome_of(record) for record in records]
    solved = [outcome for outcome in outcomes if outcome.ok]
    correct = correct_array([outcome.key for outcome in outcomes], (outcome.correct for outcome in outcomes))
    counts = {"num_problems": len(correct), "num_failed": len(outcomes) - len(solved)}
    costs = {name: float(np.mean([outcome.cost[name] for outcome in solved])) for name in COSTS} if solved else {}
    return {**accuracy_interval(correct).columns(), **counts, **costs}


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
        with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
            columns, *rows = csv.reader(stream)
        tables[name] = Table(columns, list(zip(*map(_typed, zip(*rows, strict=True)), strict=True)))
    run_names = [experiment, scale, "tables"]
    return WandbRun(
        identity=identity(run_names, str(folder)),
        name="-".join(run_names),
        job_type="tables",
        config=config,
        metrics=metrics or {},
        tables=tables,
        models=models or {},
        figures={path.stem: path for path in sorted(folder.glob("*.png"))},
    )


def _typed(column: Sequence[str]) -> list[float | None] | list[str]:
    """Return a column of a CSV file as numbers if every cell is one or empty, otherwise as text."""
    try:
        return [float(cell) if cell else None for cell in column]
    except ValueError:
        return list(column)


def check_mode(mode: object) -> None:
    """Raise ValueError if the setting `wandb` is none of the modes."""
    if mode not in WANDB_MODES:
        raise ValueError(f"wandb must be one of {', '.join(WANDB_MODES)}; got {mode!r}.")


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
        folder: results of the experiment; offline runs are written to its folder `wandb`.
        make: returns the runs; not called if W&B is disabled.
        experiment, scale: group and tag of the runs.
        mode: offline, online or disabled; the variable WANDB_MODE overrides it.
    """
    mode = os.environ.get("WANDB_MODE", mode)
    if mode == "disabled":
        return
    try:
        state = folder / "wandb" / STATE
        known = json.loads(state.read_text(encoding="utf-8")) if state.exists() else {}
        changed = {entry.identity: entry for entry in make() if known.get(entry.identity) != _state(entry, mode)}
        for entry in changed.values():
            for old in folder.glob(f"wandb/*run-*-{entry.identity}"):
                shutil.rmtree(old)
            log(entry, folder, experiment=experiment, scale=scale, mode=mode)
            known[entry.identity] = _state(entry, mode)
        state.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(f"warning: no copy in W&B ({reason}); the files in {folder} are complete.", file=sys.stderr)


def _state(entry: WandbRun, mode: str) -> list[str]:
    """Return the mode and a digest of a run's content."""
    figures = {name: path.read_bytes().hex() for name, path in entry.figures.items()}
    content = json.dumps(entry._replace(figures=figures)._asdict(), sort_keys=True, default=str)
    return [mode, hashlib.sha256(content.encode()).hexdigest()]


def log(entry: WandbRun, folder: Path, *, experiment: str, scale: str, mode: str) -> None:
    """Write one W&B run."""
    import wandb

    version = provenance.commit()
    tags = [scale, experiment]
    if version["commit"]:
        tags.append(version["commit"][:8] + ("-dirty" if version["dirty"] else ""))
    # Settings named x_… are private to the pinned wandb. They leave out what takes most of a run's time and says
    # nothing about the results: system statistics, metadata, machine facts and the list of installed packages.
    settings = wandb.Settings(
        silent=True,
        console="off",
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        disable_git=True,
        disable_job_creation=True,
        save_code=False,
    )
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        run = wandb.init(
            project=PROJECT,
            id=entry.identity,
            name=entry.name,
            group=experiment,
            job_type=entry.job_type,
            tags=tags,
            config=dict(entry.config),
            mode=mode,
            dir=str(folder),
            resume="allow",
            settings=settings,
        )
        logged: dict[str, Any] = dict(entry.metrics)
        for name, table in entry.tables.items():
            logged[name] = wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
        for name, path in entry.figures.items():
            logged[f"figures/{name}"] = wandb.Image(str(path), caption=name)
        run.log(logged)
        for name, path in entry.models.items():
            run.log_artifact(_model_artifact(name, locate(path)))
    finally:
        wandb.finish()


def _model_artifact(name: str, path: str) -> "wandb.Artifact":
    """Return a model as an artifact: the files of a small folder, otherwise a reference to its address."""
    import wandb

    artifact, folder = wandb.Artifact(name, type="model"), Path(path)
    if not folder.is_dir():
        artifact.add_reference(f"https://huggingface.co/{path}", checksum=False)
    elif sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= SMALL_BYTES:
        artifact.add_dir(str(folder), policy="immutable")  # not copied into wandb's own folder
    else:
        artifact.add_reference(folder.resolve().as_uri(), checksum=False)
    return artifact
