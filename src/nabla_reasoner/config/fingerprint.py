"""Settings and files that decide a cell's records."""

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .cell import Cell
from .schema import locate

# Keys that change no record; `_target_` is where a method's class lies, not what it does.
NOT_SETTINGS = {
    "_target_",
    "paper",
    "base",
    "trained_by",
    "size",
    "prepare",
    "parameters",
    "download_gb",
    "skywork",
    "budget",
    "manifest",
    "answers",
    "scored",
}


def fingerprint(cell: Cell) -> dict[str, Any]:
    """Return everything that decides the records of a cell: settings, and digests of the files they name."""
    groups = ("policy", "reward", "task", "method")
    parts = {
        group: {k: v for k, v in getattr(cell, group).content().items() if k not in NOT_SETTINGS} for group in groups
    }
    parts["task"].pop("step_marks", None)  # a setting of the methods that take it
    if parts["method"].get("reward_form") == "outcome":  # records made before there was a choice have no form
        parts["method"].pop("reward_form")
    for group in ("policy", "reward"):
        parts[group]["weights"] = folder_digest(locate(parts[group]["path"]))
    if parts["task"].get("path"):
        parts["task"]["sha256"] = hashlib.sha256(Path(parts["task"].pop("path")).read_bytes()).hexdigest()
    if cell.split != "test":  # left out for test: records made before there was a choice have no split
        parts["split"] = cell.split
    kept = ("seed", "num_problems", "batch_size", "threads", "device", "dtype", "devices", "num_nodes")
    return {**parts, **{key: getattr(cell, key) for key in kept}}


@functools.lru_cache(maxsize=64)
def folder_digest(path: str) -> str | None:
    """Return a digest of a model folder (names, sizes, first and last MiB of its files), or None for a hub name."""
    if not Path(path).is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(Path(path).iterdir()):
        if file.suffix in (".json", ".safetensors", ".gguf"):
            digest.update(f"{file.name} {file.stat().st_size} ".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(2**20))
                stream.seek(max(0, file.stat().st_size - 2**20))
                digest.update(stream.read())
    return digest.hexdigest()[:16]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the settings that differ, e.g. "method.step_size: 0.1 -> 0.2".

    `_target_`, which older records name, is ignored.
    """
    before, after = dict(_flatten(old)), dict(_flatten(new))
    keys = sorted(before.keys() | after.keys())
    return [f"{k}: {before.get(k)} -> {after.get(k)}" for k in keys if before.get(k) != after.get(k)]


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if key == "_target_":
            continue
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
