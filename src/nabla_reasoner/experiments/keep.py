"""Committed evidence: rows and figures copied to `figures/`, only where `keep=true` asks for it.

What is kept comes from a complete run of a scale's default settings: every cell of the target, all its problems.
Anything else stays in the results folder. Rows of another scale than `tiny` have its name at their end; no figures.
Launchers, threads and the number of devices are free, and what a default run fetches from the hub may be read from a
folder or file instead (policy.path, reward.path, task.path).
"""

import importlib
import json
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.utils import get_method

from ..config import fingerprint
from ..config.data_folder import data_folder, needs_repository, repository
from ..config.hub_cache import is_hub_name
from ..config.overrides import parse, quoted
from ..config.sweeps import Sweep, compose_sweeps
from ..config.targets import RECORDS, Target, find, kept_rows, targets
from ..evaluation.provenance import read_summary
from ..evaluation.record_files import read_settings, whole_size
from ..evaluation.records import read_records
from ..file_tree import files_below
from ..reporting.frames import read_frame
from .command import DONE, FAILED, HOW, Command

GALLERY = data_folder() / "figures"
UNCHANGING_SETTINGS = ("keep", "docs", *HOW)  # settings that change no result
PATH_SETTINGS = ("policy.path", "reward.path", "task.path")  # where a model or a benchmark lies
LAUNCHING = ("hydra/launcher", "hydra.launcher.", "hydra.sweeper.")  # beginnings of the settings of a launcher


def wants_keep(command: Command) -> bool:
    """Return whether the command line has `keep=true`."""
    return any(word.lower() == "keep=true" for word in command.overrides)


def setting(command: Command, name: str, default: str) -> str:
    """Return a text setting as it was typed last; the default if it was not."""
    words = [word for word in command.overrides if word.startswith(f"{name}=")]
    return str(parse(words[-1:])[0].value()) if words else default


def scale_of(command: Command) -> str:
    """Return the scale."""
    return setting(command, "scale", "tiny")


def results_folder(command: Command) -> Path:
    """Return the folder of all results."""
    return Path(setting(command, "results_dir", "results"))


def check(command: Command) -> None:
    """Refuse `keep=true` where nothing can be kept.

    Raises:
        ValueError: other settings than the default ones, a target without rows in figures/data/, results that it
            reads and that are not complete, or no checkout to keep them in.
    """
    if not wants_keep(command):
        return
    needs_repository("keep=true")
    target = command.target
    if not target.keeps and not target.keeps_itself:
        keepers = [name for name, other in targets().items() if other.keeps or other.keeps_itself]
        raise ValueError(
            f"{target.name} has no rows in figures/data/; keep=true is for {', '.join(keepers)}. Leave it out."
        )
    scale = scale_of(command)
    changed = _changed(target, scale, command.overrides)
    if changed:
        raise ValueError(
            f"keep=true needs a complete run of the default settings; got {' '.join(changed)}. "
            "Leave these out, or leave out keep=true: the results then stay in results_dir."
        )
    if not target.keeps_itself:
        reasons = [gap for name in target.reads for gap in gaps(find(name), results_folder(command), scale)]
        if reasons:
            raise ValueError(f"keep=true needs complete results; got: {'; '.join(reasons)}.")


def finish(command: Command, status: int) -> int:
    """Keep a finished command's rows and figures if that was asked for, or say how; returns the exit status."""
    target, results = command.target, results_folder(command)
    if not target.keeps or target.keeps_itself:
        return status
    if not wants_keep(command):
        if repository() is None:
            return status
        print("Nothing was copied to figures/: that takes keep=true and a complete run of the default settings.")
        return status
    scale = scale_of(command)
    reasons = ["it did not finish"] if status != DONE else gaps(target, results, scale)
    if reasons:
        print(f"Not kept in figures/: {'; '.join(reasons)}.")
        return FAILED
    print(f"Kept in {GALLERY}: {', '.join(keep(target, results, scale))}")
    return status


def keep(target: Target, results: Path, scale: str = "tiny") -> list[str]:
    """Copy a target's rows to figures/data/ and at scale=tiny its figures to figures/; returns their names."""
    kept = keep_rows(results, GALLERY / "data", [target], scale)
    if scale != "tiny":
        return kept
    folder = results / target.path(scale)
    if target.kept_figure:
        get_method(target.kept_figure)(folder / "table.csv", GALLERY)
    pictures = sorted(path.stem for path in folder.glob("*.png"))
    for path in [folder / f"{stem}.{kind}" for stem in pictures for kind in ("png", "pdf", "md")]:
        if path.is_file():
            shutil.copyfile(path, GALLERY / path.name)
    return [*kept, *pictures]


def row_suffix(scale: str) -> str:
    """Return the end of the names that a scale's rows have in figures/data/."""
    return "" if scale == "tiny" else f"_{scale}"


def result_file(results: Path, scale: str, target: Target, file: str) -> Path:
    """Return a target's file; of another scale than tiny, its name may have the scale."""
    if target.scale_in_names and scale != "tiny" and file.startswith(target.name):
        file = file.replace(target.name, f"{target.name}-{scale}", 1)
    return results / target.path(scale) / file


def keep_rows(results: Path, data: Path, chosen: Iterable[Target] | None = None, scale: str = "tiny") -> list[str]:
    """Copy the rows that targets left to `data`; returns their names there.

    Args:
        chosen: targets; None takes all.
    """
    names = {target.name for target in chosen} if chosen is not None else set(targets())
    data.mkdir(parents=True, exist_ok=True)
    kept = []
    for name, (target, file) in kept_rows().items():
        source = result_file(results, scale, target, file)
        if target.name not in names or not source.is_file():
            continue
        kept.append(f"{name}{row_suffix(scale)}")
        copy = data / f"{kept[-1]}.csv"
        if name in target.condensed:
            rows = get_method(target.condensed[name])(read_frame(source))
            rows.to_csv(copy, index=False, float_format="%.4g")
        else:
            shutil.copyfile(source, copy)
    return kept


def keep_complete(results: Path, chosen: Sequence[Target], scale: str = "tiny") -> list[str]:
    """Keep the targets whose runs are complete; returns why others were not kept.

    Targets without scales belong to scale=tiny.
    """
    reasons = []
    for target in chosen:
        if scale != "tiny" and scale not in target.scales:
            continue
        missing = gaps(target, results, scale)
        if missing:
            reasons += missing
        else:
            keep(target, results, scale)
    return reasons


def gaps(target: Target, results: Path, scale: str = "tiny") -> list[str]:
    """Return why a target's results are no complete run of a scale's default settings; nothing if they are."""
    if target.has_records:
        reasons = _cell_gaps(target, results, scale)
    else:
        reasons = _command_gaps(target, results, scale)
    return reasons or _absent(target, results, scale) or _stale(target, results, scale)


def _command_gaps(target: Target, results: Path, scale: str) -> list[str]:
    """Look at the summary of a target without records."""
    summary = read_summary(results / target.path(scale))
    if summary is None:
        return [f"{target.name} was not run"]
    changed = _changed(target, scale, shlex.split(summary["command"])[2:])
    reasons = [f"{target.name} was run with {' '.join(changed)}"] if changed else []
    reasons += [f"{target.name} ended with the status {summary['status']}"] if summary["status"] != "finished" else []
    return [*reasons, *(gap for name in target.reads for gap in gaps(find(name), results, scale))]


def _cell_gaps(target: Target, results: Path, scale: str) -> list[str]:
    """Compare the records of every default cell with its settings and its number of problems."""
    from ..evaluation.cell_records import record_file

    missing, known = [], set()
    overrides = [f"results_dir={quoted(str(results))}", *([f"scale={scale}"] if target.scales else [])]
    summary = read_summary(results / target.path(scale))
    if summary is not None:
        overrides += _stand_ins(target, scale, shlex.split(summary["command"])[2:])
    sweeps = compose_sweeps(target.name, overrides)
    cells = [cell for part in sweeps for cell in part.cells]
    for cell in cells:
        path = record_file(cell)
        known.add(path)
        settings = read_settings(path) or {}
        count = whole_size(settings, cell.task.name) if cell.num_problems is None else cell.num_problems
        if count is None or not path.exists() or len(read_records(path)) < count * cell.task.repeats:
            missing.append(f"{path.stem} is not complete")
        elif fingerprint.changes(settings, json.loads(json.dumps(fingerprint.fingerprint(cell)))):
            missing.append(f"{path.stem} has other settings")
    if missing:
        return [f"{len(missing)} of {len(cells)} cells of {target.name}, e.g. {missing[0]}"]
    others = sorted(set(_record_files(target, results, scale)) - known)
    if others:
        return [f"records of other cells, which have rows too, e.g. {others[0]}"]
    return _side_gaps(target, results, scale, sweeps[0])


def _side_gaps(target: Target, results: Path, scale: str, sweep: Sweep) -> list[str]:
    """Look at the tables that a target measures beside its records.

    Args:
        sweep: the default one.
    """
    if not target.side_rows:
        return []
    from . import side_tables

    folder = results / target.path(scale)
    modules = [importlib.import_module(name) for name in target.side_rows.values()]  # they import torch
    return [gap for module in modules for gap in side_tables.gaps(module.TABLE, folder, module.wanted(sweep))]


def _absent(target: Target, results: Path, scale: str) -> list[str]:
    """Name the first file to be kept that is not there; of a side table, `_side_gaps` says which rows there must be."""
    files = [
        result_file(results, scale, target, name) for name in target.keeps.values() if name not in target.side_rows
    ]
    lost = [path for path in files if not path.is_file()]
    return [f"{lost[0]} is not there: run ./reproduce.sh {target.name} again"] if lost else []


def _stale(target: Target, results: Path, scale: str) -> list[str]:
    """Name the first file to be kept that is older than the records it is made from."""
    sources = [target, *(find(name) for name in target.reads)]
    records = [path for source in sources for path in _record_files(source, results, scale)]
    newest = max((path.stat().st_mtime_ns for path in records), default=0)
    files = [result_file(results, scale, target, name) for name in target.keeps.values()]
    old = [path for path in files if path.is_file() and path.stat().st_mtime_ns < newest]
    return [f"{old[0]} is older than the records: run ./reproduce.sh {target.name} again"] if old else []


def _record_files(target: Target, results: Path, scale: str) -> list[Path]:
    """Return the record files in a target's folder."""
    files = files_below(results / target.path(scale))
    return [path for path in files if path.suffix == ".jsonl" and path.parent.name in RECORDS]


def _stand_ins(target: Target, scale: str, overrides: Sequence[str]) -> list[str]:
    """Return the settings that name a folder or file where the default run reads the hub."""
    words = [word for word in overrides if word.split("=")[0] in PATH_SETTINGS]
    if not words:
        return []
    cells = [cell for part in compose_sweeps(target.name, [f"scale={scale}"]) for cell in part.cells]
    fetched = {
        "policy.path": all(is_hub_name(cell.policy.path) for cell in cells),
        "reward.path": all(is_hub_name(cell.reward.path) for cell in cells),
        "task.path": all(cell.task.path is None and cell.task.hub is not None for cell in cells),
    }
    return [word for word in words if fetched[word.split("=")[0]]]


def _changed(target: Target, scale: str, overrides: Sequence[str]) -> list[str]:
    """Return the settings that decide results."""
    changed = [word for word in overrides if word.split("=")[0] not in (*UNCHANGING_SETTINGS, "scale")]
    if changed and target.settings == "cells":
        free = _stand_ins(target, scale, changed)
        free += [word for word in changed if word.split("=")[0] in fingerprint.FREE or word.startswith(LAUNCHING)]
        changed = [word for word in changed if word not in free]
    return changed
