"""Record files of an experiment: which count, and the settings that made them.

A file counts if its name is the one that its records ask for; copies and leftovers of editors do not.
"""

import re
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

from ..config.schema import choice_file
from ..json_text import parse_json
from .json_files import StoredSettings, read_object, warn_once
from .record_shape import complaint
from .records import CellKey, read_records, record_name, settings_path

Settings = dict[str, Any]
NAME = re.compile(r"[^.].*__s\d+\.jsonl")


class RecordFile(NamedTuple):
    """A record file, or the file that a cell will have.

    Attributes:
        names: names in its records.
        settings: what made it, as in its `.settings.json`; None if that is missing or damaged.
    """

    path: Path
    names: CellKey
    seed: int
    settings: Settings | None


def whole_size(settings: Settings, task: str) -> int | None:
    """Return the number of problems of a whole file, or of a whole benchmark of the hub; None if it is not known.

    Args:
        settings: those of a cell's records.
    """
    if "sha256" in settings.get("task", {}):
        return settings.get("rows")
    return choice_file("task", task).get("size" if settings.get("split", "test") == "test" else "training_size")


def read_settings(path: Path) -> Settings | None:
    """Return the settings that made a record file; None if they are unknown, with a line if their file is damaged."""
    sidecar = settings_path(path)
    settings = read_object(sidecar, StoredSettings)
    if settings is None and sidecar.exists():
        warn_once(f"{sidecar} is damaged, so the settings of {path.name} are unknown. Restore it or repeat the cell.")
    return settings


def record_files(folder: Path) -> list[RecordFile]:
    """Return the record files of a folder that have records, by path; nothing if there is no folder.

    Other files named like records are ignored, with a line that names them.

    Raises:
        ValueError: a first record that cannot be read.
    """
    files, ignored = [], []
    for path in sorted(Path(folder).glob("*.jsonl*")):
        if NAME.fullmatch(path.name) is None or not path.is_file():
            ignored += [path.name] if path.suffix != ".lock" else []
            continue
        first = _first_record(path)
        if first is None:
            continue
        names, seed = CellKey(first["policy"], first["task"], first["method"]), first["seed"]
        if unicodedata.normalize("NFC", path.name) == unicodedata.normalize("NFC", record_name(names, seed)):
            files.append(RecordFile(path, names, seed, read_settings(path)))
        else:
            ignored.append(path.name)
    if ignored:
        warn_once(f"{folder}: ignored, because these are not the record files of a cell: {', '.join(ignored)}")
    return files


def _first_record(path: Path) -> dict[str, Any] | None:
    with path.open("rb") as stream:
        line = stream.readline()
    try:
        record = parse_json(line)
        if isinstance(record, dict) and complaint(record) is None:
            return record
    except ValueError:
        pass
    records = read_records(path)  # names the line that cannot be read, unless it is an unfinished one
    return records[0] if records else None
