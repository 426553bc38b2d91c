"""JSON files that commands write beside their results: what must hold of their content, and how they are read."""

import functools
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..json_text import parse_json

Content = dict[str, Any]


class _Shape(BaseModel):
    """Types of the entries that are read by name; others may be there."""

    model_config = ConfigDict(extra="allow", strict=True)


class _StoredTask(_Shape):
    repeats: int = Field(1, ge=1)
    sha256: str | None = None


class _StoredReward(_Shape):
    name: str | None = None
    kind: str | None = None


class _StoredMethod(_Shape):
    variant: str | None = None


class StoredSettings(_Shape):
    """Settings that made a record file (`config/fingerprint.py` writes them)."""

    policy: Content = {}
    reward: _StoredReward = _StoredReward()
    task: _StoredTask = _StoredTask()
    method: _StoredMethod = _StoredMethod()
    seed: int = 0
    num_problems: int | None = None
    rows: int | None = None
    batch_size: int | None = None
    decode_rows: int | None = None
    tokens_per_pass: int | None = None
    threads: int | None = None
    devices: int | None = None
    num_nodes: int | None = None
    device: str | None = None
    dtype: str | None = None


class _StoredCommand(_Shape):
    """One command of a summary."""

    command: str
    commit: str | None = None
    dirty: bool | None = None
    device: str | None = None
    packages: dict[str, str] = {}
    wall_clock_seconds: float = 0


class StoredSummary(_Shape):
    """A `summary.json` (`provenance.Summary` writes it)."""

    command: str
    started: str
    status: str
    device: str
    count: int | None
    config: Content
    python: str
    packages: dict[str, str]
    platform: str
    commit: str | None = None
    dirty: bool | None = None
    peak_bytes: int | None = None
    invocations: list[_StoredCommand] = Field(min_length=1)


@functools.lru_cache(maxsize=1000)
def warn_once(text: str) -> None:
    """Print a line on standard error, once per process: tables are rewritten after every cell."""
    print(f"warning: {text}", file=sys.stderr)


def read_object(path: Path, shape: type[_Shape] | None = None) -> Content | None:
    """Return the object in a JSON file; None if the file is missing, empty, cut or holds anything else.

    Args:
        shape: what must hold of its entries.
    """
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
        if shape is not None:
            shape.model_validate(value)
    except (OSError, ValueError):  # pydantic's ValidationError is a ValueError
        return None
    return value if isinstance(value, dict) and value else None
