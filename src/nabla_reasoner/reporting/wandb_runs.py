"""The mirror of results in Weights & Biases: one run per cell, and one of an experiment's tables and models.

Runs are written after the work, from the files it left: the files stand without them. A run's id is made of what it
shows (experiment, scale, cell and settings), so that the same command leaves the same runs: an unchanged run is left
as it is, a changed one is written anew in its place. Opening a run costs hundredths of a second, because nothing about
the machine is collected and one process writes all of them.
"""

import csv
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config import build, fingerprint
from ..config.schema import WANDB_MODES, Cell
from ..evaluation import provenance, records, statistics

PROJECT = "nabla-reasoner"
SAMPLES = 5  # records of a cell that are shown as text
SAMPLE_COLUMNS = ("question", "response", "extracted", "answer", "correct", "reward", "status")
COSTS = ("model_calls", "decode_tokens", "gradient_evaluations", "flops", "gradient_flops", "seconds")
SMALL_BYTES = 64 * 2**20  # model folders up to this size are stored with the run; others by their address
STATE = "mirrored.json"


class Table(NamedTuple):
    """Rows under named columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class WandbRun(NamedTuple):
    """What one W&B run shows.

    Attributes:
        identity: the run's id, the same for the same work; at most 64 characters.
        name: for people, by what varies.
        job_type: the method, or "tables".
        config: settings.
        metrics: numbers, by the names in README's glossary.
        tables: by name.
        models: model folders or hub names, by artifact name.
        figures: PNG files, by name.
    """

    identity: str
    name: str
    job_type: str
    config: Mapping[str, Any]
    metrics: Mapping[str, float | int]
    tables: Mapping[str, Table]
    models: Mapping[str, str]
    figures: Mapping[str, Path]


def identity(names: Sequence[str], settings: Any) -> str:
    """A run's id: its names, cut, and a digest of names and settings."""
    digest = hashlib.sha256(json.dumps([names, settings], sort_keys=True).encode()).hexdigest()
    return f"{'-'.join(names)[:50]}-{digest[:12]}"


def cell_entry(cell: Cell, path: Path) -> WandbRun:
    """The run of one cell, from its record file: accuracy, means of what was spent, and a few records as text.

    Args:
        cell: its settings.
        path: its records; at least one.
    """
    outcomes = records.read_outcomes(path)
    problems = sorted({outcome.key[0] for outcome in outcomes})
    repeats = sorted({outcome.key[1:] for outcome in outcomes})
    correct = np.full((len(problems), len(repeats)), np.nan)
    for outcome in outcomes:
        correct[problems.index(outcome.key[0]), repeats.index(outcome.key[1:])] = outcome.correct
    interval, solved = statistics.accuracy_interval(correct), [outcome for outcome in outcomes if outcome.ok]
    metrics = {
        "accuracy": interval.mean,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "num_problems": len(problems),
        "num_failed": len(outcomes) - len(solved),
    }
    if solved:
        metrics |= {name: float(np.mean([outcome.cost[name] for outcome in solved])) for name in COSTS}
    questions = {problem.id: problem.question for problem in build.build_problems(cell)}
    with path.open(encoding="utf-8") as lines:
        shown = [json.loads(line) for line in itertools.islice(lines, SAMPLES)]
    rows = [[questions[one["problem_id"]], *(_text(one[name]) for name in SAMPLE_COLUMNS[1:])] for one in shown]
    settings = fingerprint.fingerprint(cell)
    groups = [cell[group]["name"] for group in ("policy", "task", "method")]
    seed, pool = f"s{cell['seed']}", ["pool"] if cell["budget"] else []
    scope = [cell["experiment_name"], cell["scale_name"]]
    config = {
        **settings,
        "experiment": scope[0],
        "scale": scope[1],
        "variant": cell["variant"]["name"],
        "budget": cell["budget"],
    }
    varied = Path(cell["records"]).relative_to(cell["folder"]).parts  # the reward of Table 2, for one
    return WandbRun(
        identity([*scope, *groups, seed, *varied, *pool], settings),
        "-".join([*groups, seed, *varied, *pool]),
        "-".join([cell["method"]["name"], *pool]),
        config,
        metrics,
        {"samples": Table(SAMPLE_COLUMNS, rows)},
        {},
        {},
    )


def _text(value: Any) -> Any:
    """What a table's column can hold: one type, so numbers stay and everything else is text."""
    return value if isinstance(value, int | float) or value is None else str(value)


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
    """The summarising run of an experiment: its CSV tables, figures and models.

    Args:
        folder: results of the experiment.
        experiment, scale: names.
        config: its settings.
        names: tables, `NAME.csv` in the folder.
        metrics: numbers that stand for the whole.
        models: model folders or hub names, by artifact name.
    """
    tables = {}
    for name in names:
        with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
            columns, *rows = csv.reader(stream)
        tables[name] = Table(columns, list(zip(*map(_typed, zip(*rows, strict=True)), strict=True)))
    figures = {path.stem: path for path in sorted(folder.glob("*.png"))}
    scope = [experiment, scale]
    return WandbRun(
        identity([*scope, "tables"], str(folder)),
        "-".join([*scope, "tables"]),
        "tables",
        config,
        metrics or {},
        tables,
        models or {},
        figures,
    )


def _typed(column: Sequence[str]) -> list[Any]:
    """A column of a CSV file: numbers where every cell is one or empty, otherwise text."""
    try:
        return [float(cell) if cell else None for cell in column]
    except ValueError:
        return list(column)


def models_of(cells: Iterable[Cell]) -> dict[str, str]:
    """Policies and rewards of cells: where they lie, by artifact name."""
    return {f"{group}-{cell[group]['name']}": cell[group]["path"] for cell in cells for group in ("policy", "reward")}


def check_mode(mode: Any) -> None:
    """Raise ValueError when the setting `wandb` is none of the modes."""
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
    """Mirror an experiment that has no cells: one run of its tables, figures and numbers."""
    scope = {"experiment": experiment, "scale": scale}

    def entries() -> list[WandbRun]:
        return [tables_entry(folder, **scope, config=settings, names=names, metrics=metrics)]

    write(folder, entries, mode=settings["wandb"], **scope)


def mirror_cells(cells: Sequence[Cell], paths: Sequence[Path], *, sweep: Mapping[str, Any]) -> None:
    """Mirror an experiment: a run per cell that has records, and one of its tables and models."""
    first = cells[0]
    folder, scope = Path(first["folder"]), {"experiment": first["experiment_name"], "scale": first["scale_name"]}

    def entries() -> list[WandbRun]:
        done = [cell_entry(cell, path) for cell, path in zip(cells, paths, strict=True) if path.exists()]
        names = [name for name in ("table", "comparisons") if (folder / f"{name}.csv").exists()]
        models = models_of(cells)
        return [*done, tables_entry(folder, **scope, config={"sweep": sweep, **first}, names=names, models=models)]

    write(folder, entries, mode=first["wandb"], **scope)


def write(folder: Path, make: Callable[[], Sequence[WandbRun]], *, experiment: str, scale: str, mode: str) -> None:
    """Write entries as W&B runs; trouble there is a warning, since the files stand without it.

    Args:
        folder: the experiment's results; the runs are left in its folder `wandb`.
        make: returns the entries; called only where there is a mirror.
        experiment, scale: group and tag of the runs.
        mode: offline, online or disabled; the variable WANDB_MODE goes before it.
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
        print(f"warning: no W&B mirror ({reason}); the files in {folder} are complete.", file=sys.stderr)


def _state(entry: WandbRun, mode: str) -> list[str]:
    """The mode and a digest of what a run shows."""
    figures = {name: path.read_bytes().hex() for name, path in entry.figures.items()}
    shown = json.dumps(entry._replace(figures=figures)._asdict(), sort_keys=True, default=str)
    return [mode, hashlib.sha256(shown.encode()).hexdigest()]


def log(entry: WandbRun, folder: Path, *, experiment: str, scale: str, mode: str) -> None:
    """Write one W&B run."""
    import wandb

    state = provenance.commit()
    tags = [scale, experiment]
    if state["commit"]:
        tags.append(state["commit"][:8] + ("-dirty" if state["dirty"] else ""))
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
        for name, place in entry.models.items():
            run.log_artifact(_model_artifact(name, build.locate(place)))
    finally:
        wandb.finish()


def _model_artifact(name: str, place: str) -> Any:
    """A model as an artifact: the files of a small folder, otherwise a reference to where it lies."""
    import wandb

    artifact, folder = wandb.Artifact(name, type="model"), Path(place)
    if not folder.is_dir():
        artifact.add_reference(f"https://huggingface.co/{place}", checksum=False)
    elif sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= SMALL_BYTES:
        artifact.add_dir(str(folder), policy="immutable")  # not copied: the folder stays where it is
    else:
        artifact.add_reference(folder.resolve().as_uri(), checksum=False)
    return artifact
