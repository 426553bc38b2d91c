"""The record file of a cell: its path, the settings that made it, and how much of it is there."""

import functools
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..config import fingerprint
from ..config.cell import Cell
from .file_locks import is_at, open_locked
from .json_files import StoredSettings, read_object
from .records import read_records, record_path, settings_path

MAX_NAME_BYTES = 230  # of a record file; 255 is the limit of most file systems, and side files have longer names


def record_file(cell: Cell) -> Path:
    """Return the path of a cell's records.

    Raises:
        ValueError: names that make no file name.
    """
    folder = Path(cell.records, "budget" if cell.budget else "records")
    path = record_path(folder, cell.policy.name, cell.task.name, cell.method.name, cell.seed)
    if len(path.name.encode()) > MAX_NAME_BYTES:
        raise ValueError(
            f"names of policy, task and method must have at most {MAX_NAME_BYTES} bytes together; got "
            f"{len(path.name.encode())} in {path.name[:40]}... Shorten policy.name, task.name or method.name."
        )
    return path


class Stored(NamedTuple):
    """Numbers of records in a file: all, with a right answer, failed; and problem id and repeat of each."""

    count: int = 0
    correct: int = 0
    failed: int = 0
    keys: frozenset[tuple[str, int]] = frozenset()


def stored(path: Path) -> Stored:
    """Count the records of a file; zeros if there is none. An unchanged file is read once.

    Raises:
        ValueError: a file that cannot be read (see `read_records`).
    """
    if not path.exists():
        return Stored()
    state = path.stat()
    return _counted(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _counted(path: Path, size: int, changed: int) -> Stored:
    records = read_records(path)
    correct, failed = (sum(map(test, records)) for test in (_is_correct, _is_failed))
    keys = frozenset((record["problem_id"], record["repeat"]) for record in records)
    return Stored(len(records), correct, failed, keys)


def _is_correct(record: dict[str, Any]) -> bool:
    return bool(record["correct"])


def _is_failed(record: dict[str, Any]) -> bool:
    return record["status"] == "failed"


def check_records(cell: Cell, wanted: Collection[tuple[str, int]] = ()) -> None:
    """Raise ValueError if the cell has records that other settings made, or that cannot be read.

    More problems than before extend the records, and fewer are right if no others were solved yet; where a cell runs
    may change (`fingerprint.changes`).

    Args:
        wanted: problem and repeat of each record of the complete cell, where they are known.
    """
    path = record_file(cell)
    if not stored(path).count:
        return
    old, new = _settings(settings_path(path)), json.loads(json.dumps(fingerprint.fingerprint(cell)))
    before, now = old.get("num_problems"), new["num_problems"]
    if (before is not None and (now is None or now > before)) or stored(path).keys <= set(wanted):
        old["num_problems"] = now
    changed = fingerprint.changes(old, new)
    if changed:
        raise ValueError(
            f"{path} was made with other settings ({'; '.join(changed[:4])}{'; ...' if len(changed) > 4 else ''}). "
            "Resume with the old settings, choose another results_dir=DIR, or pass overwrite=true."
        )


def write_settings(cell: Cell) -> None:
    """Write the settings that make the cell's records beside them."""
    text = json.dumps(fingerprint.fingerprint(cell), indent=1) + "\n"
    settings_path(record_file(cell)).write_text(text, encoding="utf-8")


def correct_size(cell: Cell) -> None:
    """Note the number of problems of a complete cell, for which more were asked before than were solved."""
    path = settings_path(record_file(cell))
    settings = read_object(path, StoredSettings)
    if settings and settings.get("num_problems") != cell.num_problems:
        text = json.dumps({**settings, "num_problems": cell.num_problems}, indent=1) + "\n"
        path.write_text(text, encoding="utf-8")


@contextmanager
def locked(cell: Cell) -> Iterator[None]:
    """Hold the cell while the block runs: the lock of its file of settings, which ends with the process.

    A results folder is locked by its command. This lock is for jobs of a cluster that outlive their command.

    Raises:
        ValueError: another process holds the cell.
    """
    path = settings_path(record_file(cell))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = open_locked(path)
    except BlockingIOError:
        raise ValueError(
            f"another process solves the problems of {record_file(cell)}, perhaps a job of an earlier command. Wait "
            "for its end or cancel it, then run the same command again."
        ) from None
    try:
        yield
    finally:
        if is_at(descriptor, path) and not os.fstat(descriptor).st_size:  # no settings were written
            path.unlink()
        os.close(descriptor)


def _settings(path: Path) -> dict[str, Any]:
    """Return the settings beside a record file.

    Raises:
        ValueError: a file that is missing or damaged: nobody knows what made the records.
    """
    settings = read_object(path, StoredSettings)
    if not settings:
        raise ValueError(
            f"{path} is missing or damaged, so the settings of the records beside it are unknown. Choose another "
            "results_dir=DIR, or pass overwrite=true to run them again."
        )
    return settings
