"""Settings and files that decide a cell's records."""

import copy
import functools
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..file_tree import files_below
from ..json_text import parse_json
from . import hub_cache
from .cell import Cell
from .data_folder import locate
from .schema import SHIPPED_METHODS

# Keys of policies, rewards and tasks that change no record.
NOT_SETTINGS = {
    "paper",
    "base",
    "trained_by",
    "training",
    "size",
    "training_size",
    "prepare",
    "revision",
    "download_gb",
    "skywork",
    "manifest",
}

# Versions, by group and key, that may be unknown: a hub name's before its first download.
VERSIONS = (
    ("policy", "weights"),
    ("reward", "weights"),
    ("reward", "reference_weights"),
    ("task", "commit"),
    ("method", "class"),  # of a method that is not shipped; older records do not have it
)

# Settings that say where files lie, with the versions that count in their place where they are known.
PLACES = (
    ("policy", "path", "weights"),
    ("reward", "path", "weights"),
    ("reward", "reference", "reference_weights"),
)

MERGED = "adapter.json"  # in a folder that `models.conversion.merge` wrote: what it was made of

# Settings that may change between a run and its resumption: they change no record. The file's digest implies `rows`;
# only older records have `num_nodes`.
FREE = ("threads", "devices", "rows", "num_nodes")
LIMITS = ("decode_rows", "tokens_per_pass")  # of batches; older records do not have them
ROUNDING = ("batch_size", "device", *LIMITS)  # may change too, but in bfloat16, whose rounding moves tokens


def fingerprint(cell: Cell) -> dict[str, Any]:
    """Return everything that decides the records of a cell: settings, and digests of the files they name."""
    groups = ("policy", "reward", "task")
    parts = {
        group: {k: v for k, v in getattr(cell, group).content().items() if k not in NOT_SETTINGS} for group in groups
    }
    parts["method"] = {"name": cell.method.name, **cell.method.keywords()}  # an own one's may have any names
    if cell.method.name not in SHIPPED_METHODS:
        parts["method"]["class"] = cell.method.target
    parts["task"].pop("step_marks", None)  # a setting of the methods that take it
    if parts["method"].get("reward_form") == "outcome":  # records made before there was a choice have no form
        parts["method"].pop("reward_form")
    for group in ("policy", "reward"):
        parts[group]["weights"] = model_version(getattr(cell, group).source)
    if parts["reward"].get("reference"):
        parts["reward"]["reference_weights"] = model_version(parts["reward"]["reference"])
    if parts["task"].get("path"):
        content = Path(parts["task"].pop("path")).read_bytes()
        parts["task"]["sha256"] = hashlib.sha256(content).hexdigest()
        parts["rows"] = sum(bool(line.strip()) for line in content.split(b"\n"))  # for "partial: N of ROWS"
    elif parts["task"].get("hub"):
        hub = parts["task"]["hub"]
        pinned = hub.pop("revision", None)  # counts as the commit: a pin to what was read changes nothing
        name = hub["repository"]
        parts["task"]["commit"] = pinned or data_digest(name) or hub_cache.commit(name, "datasets")
    if cell.split != "test":  # left out for test: records made before there was a choice have no split
        parts["split"] = cell.split
    if cell.rollouts != "hf":  # left out for hf: records made before there was a choice have no engine
        parts["rollouts"] = cell.rollouts
    if cell.reward_place == "cpu" and cell.device != "cpu":  # a CPU's scores differ from a GPU's by rounding
        parts["reward_device"] = "cpu"
    if cell.reward_server is not None:  # the server's scores differ from our own by rounding
        parts["reward_scores"] = "vllm"
    kept = ("seed", "num_problems", "batch_size", *LIMITS, "threads", "device", "dtype", "devices")
    return {**parts, **{key: getattr(cell, key) for key in kept}}


def model_version(path: str) -> str | None:
    """Return the digest of a model's folder, or the commit of a hub name; None if the local cache does not know it."""
    source = locate(path)
    return folder_digest(source) or hub_cache.commit(source, "models")


def data_digest(path: str) -> str | None:
    """Return a digest of every byte of a file, or of a data set's folder; None for a hub name."""
    place, digest = Path(path), hashlib.sha256()
    if not place.exists():
        return None
    for file in files_below(place) if place.is_dir() else [place]:
        digest.update(f"{file.relative_to(place).as_posix()} {_content_digest(file)}\n".encode())
    return digest.hexdigest()


def folder_digest(path: str) -> str | None:
    """Return a digest of every byte that a model folder's loading reads, or None for a hub name.

    Weights, configuration, tokenizer and chat templates count, those in subfolders too; other files do not. Weights as
    merged count by what they were made of: the sums differ in their last bits between processors.

    Raises:
        ValueError: a damaged note of what was merged.
    """
    if not Path(path).is_dir():
        return None
    from ..models.folder_files import MODEL_SUFFIXES  # here, because the folder imports torch

    digest, stamp, merged = hashlib.sha256(), Path(path, MERGED), {}
    if stamp.is_file():
        made_of = _made_of(stamp)
        merged = made_of.get("weights", {})
        digest.update(json.dumps(made_of.get("origin"), sort_keys=True).encode())
    for file in files_below(Path(path)):
        if file.suffix in MODEL_SUFFIXES and file != stamp:
            name, content = file.relative_to(path).as_posix(), _content_digest(file)
            if merged.get(name) != content:
                digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()[:16]


def _content_digest(file: Path) -> str:
    """Return the digest of a file, which is read again only if its size or time has changed."""
    state = file.stat()
    return _file_digest(str(file.resolve()), state.st_size, state.st_mtime_ns)


def _made_of(stamp: Path) -> dict[str, Any]:
    """Return the note that `models.conversion.merge` left in a folder.

    Raises:
        ValueError: it is empty, cut or something else.
    """
    try:
        content = parse_json(stamp.read_text(encoding="utf-8"))
    except ValueError as error:  # json's, and that of bytes that are no UTF-8
        reason = str(error)
    else:
        if isinstance(content, dict) and isinstance(content.get("weights", {}), dict):
            return content
        reason = f"its content is {json.dumps(content)[:40]}"
    raise ValueError(
        f"{stamp} must say as JSON what its folder was merged from, as written by the merge; it cannot be read: "
        f"{reason}. Remove this file; the next command with the adapter merges again."
    )


@functools.lru_cache(maxsize=1024)
def _file_digest(path: str, size: int, modified: int) -> str:
    """Return the sha256 of a file; size and time of its last change make an edited file a new entry of the cache."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the settings that differ, e.g. "method.step_size: 0.1 -> 0.2".

    `_target_`, which older records name, is ignored.
    """
    before, after = dict(flattened(old)), dict(flattened(new))
    keys = sorted(before.keys() | after.keys())
    return [f"{k}: {before.get(k)} -> {after.get(k)}" for k in keys if before.get(k) != after.get(k)]


def differing(one: Mapping[str, Any], other: Mapping[str, Any], *, but: Collection[str]) -> list[str]:
    """Return the settings that both have with different values, except those that may differ."""
    return sorted(name for name in (one.keys() & other.keys()) - set(but) if one[name] != other[name])


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the settings by which records of a cell may no longer be continued or compared; see `differences`.

    The commit of a hub name counts if it was known then and is known now, and so do `LIMITS`.
    """
    free = FREE if "bfloat16" in (old.get("dtype"), new.get("dtype")) else (*FREE, *ROUNDING)
    free = (*free, *(name for name in LIMITS if old.get(name) is None or new.get(name) is None))
    before, after = ({key: value for key, value in side.items() if key not in free} for side in (old, new))
    return differences(*map(without_places, without_unknown_versions(before, after)))


def without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without the paths of models whose version is known: a folder has several names, and moves."""
    kept = copy.deepcopy(dict(settings))
    for group, place, version in PLACES:
        if kept.get(group, {}).get(version) is not None:
            kept[group].pop(place, None)
    return kept


def without_unknown_versions(old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two fingerprints without the versions of hub names that either of them does not know.

    A version is unknown before the first download, and in records made before versions were noted.
    """
    before, after = copy.deepcopy(old), copy.deepcopy(new)
    for group, key in VERSIONS:
        parts = [side.get(group, {}) for side in (before, after)]
        if any(part.get(key) is None for part in parts):
            for part in parts:
                part.pop(key, None)
    return before, after


def flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by dotted name, without those that name classes."""
    for key, value in tree.items():
        if key == "_target_":
            continue
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
