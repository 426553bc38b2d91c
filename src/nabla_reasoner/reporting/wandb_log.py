"""One offline run of Weights & Biases: its content, its id, and how it is written.

A run takes hundredths of a second: nothing about the machine is collected, in a single process.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config.data_folder import locate
from ..config.wandb_mode import spell_out

if TYPE_CHECKING:
    import wandb

PROJECT = "nabla-reasoner"
SMALL_BYTES = 64 * 2**20  # model folders up to this size are stored with the run; others by their address
TAG = 64  # characters of a tag


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
        metrics: numbers, by the names in docs/outputs.md; the run's summary.
        tables: by name.
        models: model folders or hub names, by artifact name.
        figures: PNG files, by name.
        step: number of records behind the metrics, which is their place on the curves; 0 for a run without curves.
        curve: earlier values of the metrics, by number of records.
    """

    identity: str
    name: str
    job_type: str
    config: Mapping[str, Any]
    metrics: Mapping[str, float | int] = {}
    tables: Mapping[str, Table] = {}
    models: Mapping[str, str] = {}
    figures: Mapping[str, Path] = {}
    step: int = 0
    curve: Mapping[int, Mapping[str, float | int]] = {}


def identity(names: Sequence[str], settings: object) -> str:
    """Return a run's id: its names, cut and without special characters, and a digest of names and settings."""
    digest = hashlib.sha256(json.dumps([names, settings], sort_keys=True).encode()).hexdigest()
    return f"{_plain('-'.join(names))[:50]}-{digest[:12]}"


def _plain(name: str) -> str:
    """Return a name with "-" for every character that ids and artifacts cannot have."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)


def import_wandb() -> ModuleType:
    """Import wandb, silent and without telemetry.

    Even an offline run would send telemetry, and wait for the server when Python exits.
    """
    for name, value in (("WANDB_SILENT", "true"), ("WANDB_ERROR_REPORTING", "false")):
        os.environ.setdefault(name, value)
    os.environ.pop("WANDB_SWEEP_ID", None)  # of an outer program: wandb would draw ids at random, one for each copy
    spell_out()
    import wandb

    return wandb


def run_settings() -> "wandb.Settings":
    """Return settings of every run: nothing is printed, and nothing about the machine is collected."""
    # Settings named x_… are private to the pinned wandb. They leave out what takes most of a run's time and says
    # nothing about the results: system statistics, metadata, machine facts and the list of installed packages.
    return import_wandb().Settings(
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


def tags(scale: str, experiment: str) -> list[str]:
    """Return the tags of a run: scale, experiment and commit."""
    from ..evaluation import provenance  # imports torch, which the process that shows cells live does without

    version, result = provenance.commit(), [scale, experiment]
    if version["commit"]:
        result.append(version["commit"][:8] + ("-dirty" if version["dirty"] else ""))
    return [tag[:TAG] for tag in result]


def open_run(
    entry: WandbRun, folder: Path, *, mode: str, group: str, tags: Sequence[str], settings: "wandb.Settings"
) -> "wandb.Run":
    """Open the W&B run of an entry below `folder`/wandb; it goes on from where the server's run of its id ends."""
    _find_data_folder(folder)
    return import_wandb().init(
        project=PROJECT,
        id=entry.identity,
        name=entry.name,
        group=group,
        job_type=entry.job_type,
        tags=tags,
        config=dict(entry.config),
        mode=mode,
        dir=str(folder),
        resume="allow",
        settings=settings,
    )


def _find_data_folder(folder: Path) -> None:
    """Let wandb keep what artifacts hold beside the runs, where there is no home folder that can be written."""
    wandb = import_wandb()
    try:
        staging = Path(wandb.env.get_data_dir(), "artifacts", "staging")
        staging.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(staging, os.W_OK)
    except OSError:
        is_writable = False
    if not is_writable:
        place = str((folder / "wandb" / "data").resolve())
        os.environ.update(WANDB_DATA_DIR=place, WANDB_CACHE_DIR=place)


def log(entry: WandbRun, folder: Path, *, experiment: str, scale: str) -> None:
    """Write one offline W&B run below `folder`/wandb."""
    wandb = import_wandb()
    try:
        words = tags(scale, experiment)
        run = open_run(entry, folder, mode="offline", group=experiment, tags=words, settings=run_settings())
        for step, metrics in entry.curve.items():
            run.log(dict(metrics), step=step)
        logged: dict[str, Any] = dict(entry.metrics)
        for name, table in entry.tables.items():
            logged[name] = wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
        for name, path in entry.figures.items():
            logged[f"figures/{name}"] = wandb.Image(str(path), caption=name)
        run.log(logged, step=entry.step)
        for name, path in entry.models.items():
            run.log_artifact(_model_artifact(name, locate(path)))
    finally:
        wandb.finish()


def model_bytes(models: Mapping[str, str]) -> int:
    """Return the size of the model folders that are stored with a run; models as in `WandbRun`."""
    sizes = [_folder_bytes(Path(locate(path))) for path in models.values()]
    return sum(size for size in sizes if size is not None and size <= SMALL_BYTES)


def _folder_bytes(folder: Path) -> int | None:
    """Return the size of a folder's files; None if it is no folder."""
    if not folder.is_dir():
        return None
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _model_artifact(name: str, path: str) -> "wandb.Artifact":
    """Return a model as an artifact: the files of a small folder, otherwise a reference to its address."""
    wandb = import_wandb()
    artifact, folder = wandb.Artifact(_plain(name), type="model"), Path(path)
    size = _folder_bytes(folder)
    if size is None:
        artifact.add_reference(f"https://huggingface.co/{path}", checksum=False)
    elif size <= SMALL_BYTES:
        artifact.add_dir(str(folder), policy="immutable")  # not copied into wandb's own folder
    else:
        artifact.add_reference(folder.resolve().as_uri(), checksum=False)
    return artifact
