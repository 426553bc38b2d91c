"""Records: one JSON line per problem and repeat, from which every table is computed.

Only whole lines are appended. A line left unfinished by a kill is dropped when the file is next read or appended to.
"""

import errno
import fcntl
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..cost import Cost
from ..json_text import parse_json
from ..tasks.grading import Grade
from ..types import Problem, Solution
from .record_shape import complaint

EXACT = ("flops", "seconds")  # floats of a trajectory that are not rounded
BLOCK_BYTES = 65536  # read at a time from the end of a file


class CellKey(NamedTuple):
    """Names of a cell, its seeds together."""

    policy: str
    task: str
    method: str


def record_name(key: CellKey, seed: int) -> str:
    """Return the name of a cell's record file."""
    return f"{'__'.join(key)}__s{seed}.jsonl"


def settings_path(path: Path) -> Path:
    """Return the file of the settings that made a record file."""
    return path.with_suffix(".settings.json")


def record_path(folder: Path, policy: str, task: str, method: str, seed: int) -> Path:
    """Return `<folder>/<policy>__<task>__<method>__s<seed>.jsonl`.

    Raises:
        ValueError: a name with which two cells could share a file, or that cannot be printed.
    """
    check_names(policy, task, method)
    return Path(folder) / record_name(CellKey(policy, task, method), seed)


def check_names(*names: str) -> None:
    """Raise ValueError on a name with which two cells could share a file, or that cannot be printed."""
    for name in names:
        wrong = "__" in name or "/" in name or name.strip("_ ") != name or name.startswith(".")
        if not name or wrong or not name.isprintable():
            raise ValueError(
                "names of cells must be non-empty and printable, without '/' and '__', without '_' or a blank at an "
                f"end and '.' at the start; got {name!r}. Rename it."
            )


def make_record(
    problem: Problem,
    solution: Solution,
    *,
    policy: str,
    method: str,
    seed: int,
    repeat: int,
    grade: Callable[[Problem, str, bool], Grade],
) -> dict[str, Any]:
    """Grade a solution and return its record.

    In `search`, the responses of `trajectory` and `samples` are replaced by whether they are correct; each distinct
    text is graded once. Floats are rounded to six digits, except costs. A solution with an error, or whose reward is
    not a finite number, becomes a failed record.

    Args:
        problem: the problem asked.
        solution: the method's solution of it.
        policy, method: names in the record.
        seed: the run's seed.
        repeat: index of the repeat of the problem, >= 0.
        grade: `grading.grade`, or a function like it, of problem, response, and whether it is finished.
    """
    names = {"policy": policy, "method": method, "seed": seed, "repeat": repeat}
    if solution.error is not None:
        return failed_record(problem, solution.error, cost=solution.cost, **names)
    if solution.reward is not None and not math.isfinite(solution.reward):
        reason = f"the reward must be a finite number; got {solution.reward}"
        return failed_record(problem, reason, cost=solution.cost, **names)
    grades: dict[tuple[str, bool], Grade] = {}

    def graded(response: str, finished: bool) -> Grade:
        if (response, finished) not in grades:
            grades[response, finished] = grade(problem, response, finished)
        return grades[response, finished]

    finished = solution.search.get("finished", True)
    verdict = graded(solution.response, finished)
    search = dict(solution.search)
    for key in ("trajectory", "samples"):
        if key in search:
            search[key] = [_entry(entry, graded, solution.response, finished) for entry in search[key]]
    if verdict.note is not None:
        search["grading_note"] = verdict.note
    outcome = {
        "response": solution.response,
        "extracted": verdict.extracted,
        "correct": verdict.correct,
        "reward": _rounded(solution.reward),
        "status": "ok",
        "error": None,
    }
    record = _record(problem, names, outcome, solution.cost, _rounded(search))
    if (wrong := complaint(record)) is None:
        return record
    failed = failed_record(problem, f"TypeError: {wrong}", cost=solution.cost, **names)
    return failed if complaint(failed) is None else failed_record(problem, f"TypeError: {wrong}", **names)


def failed_record(
    problem: Problem, error: str, *, policy: str, method: str, seed: int, repeat: int, cost: Cost | None = None
) -> dict[str, Any]:
    """Return the record of a problem that could not be solved: not graded, counted wrong.

    Args:
        problem: the problem asked.
        error: the reason, "Type: message".
        policy, method, seed, repeat: as in `make_record`.
        cost: cost up to the failure, if known.
    """
    names = {"policy": policy, "method": method, "seed": seed, "repeat": repeat}
    outcome = {"response": "", "extracted": None, "correct": False, "reward": None, "status": "failed", "error": error}
    return _record(problem, names, outcome, cost or Cost(), {})


def _record(problem: Problem, names: dict, outcome: dict, cost: Cost, search: dict) -> dict[str, Any]:
    return {
        "problem_id": problem.id,
        "policy": names["policy"],
        "task": problem.task,
        "method": names["method"],
        "seed": names["seed"],
        "repeat": names["repeat"],
        "response": outcome["response"],
        "extracted": outcome["extracted"],
        "answer": problem.answer,
        **{key: outcome[key] for key in ("correct", "reward", "status", "error")},
        "cost": cost._asdict(),
        "search": search,
    }


def _entry(entry: dict, graded: Callable[[str, bool], Grade], final: str, finished: bool) -> dict[str, Any]:
    """Replace the response of an entry of `trajectory` or `samples` by whether it is correct."""
    entry_finished = entry.get("finished", finished if entry["response"] == final else True)
    other = {key: value for key, value in entry.items() if key not in ("response", "finished")}
    return {**other, "correct": graded(entry["response"], entry_finished).correct}


def _rounded(value: Any, name: str = "") -> Any:
    """Round floats to six significant digits, which hide numerical noise; JSON has no infinities, so they are null."""
    if isinstance(value, dict):
        return {key: _rounded(item, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item, name) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if name in EXACT else float(f"{value:.6g}")
    return value


def append_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Append records in one write that is on disk when this returns; several processes may share the file.

    An unfinished last line, left by a kill, is cut off first.

    Raises:
        OSError: not everything could be written; the file is as it was before.
    """
    if not records:
        return
    lines = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # no other process may write between the repair and the append
        start = _repair_end(descriptor)
        written = os.write(descriptor, lines)
        if written != len(lines):
            os.ftruncate(descriptor, start)
            raise OSError(errno.ENOSPC, f"only {written} of {len(lines)} bytes could be written", str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sort_records(path: Path, order: Sequence[tuple[str, int]]) -> None:
    """Put the records of a file into the order in which one process would have written them; nothing else changes.

    The new file replaces the old one as a whole. No process may append at the same time.

    Args:
        order: (problem id, repeat) of all records; those of a file may be fewer.
    """
    places = {key: place for place, key in enumerate(order)}
    lines = [line for line in Path(path).read_bytes().split(b"\n") if _parsed(line) is not None]
    keys = [(record["problem_id"], record["repeat"]) for record in map(json.loads, lines)]
    placed = sorted(range(len(lines)), key=lambda index: places.get(keys[index], len(order)))
    if placed == list(range(len(lines))):
        return
    temporary = Path(path).with_suffix(".sorting")
    with temporary.open("wb") as stream:
        stream.writelines(lines[index] + b"\n" for index in placed)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _repair_end(descriptor: int) -> int:
    """Make the file end with a whole line, and return its size."""
    size = os.fstat(descriptor).st_size
    if not size or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    start = size
    while start > 0:  # search backwards for the end of the line before
        low = max(0, start - BLOCK_BYTES)
        newline = os.pread(descriptor, start - low, low).rfind(b"\n")
        if newline >= 0:
            start = low + newline + 1
            break
        start = low
    if _parsed(os.pread(descriptor, size - start, start)) is not None:
        return size + os.write(descriptor, b"\n")  # a whole record without its newline
    os.ftruncate(descriptor, start)
    return start


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return the object on a line; None if it is not one (a proper prefix of an object never parses)."""
    try:
        value = parse_json(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return all records of a file, in order; an unfinished last line is left out.

    Raises:
        ValueError: a corrupt line, a record of another shape (see `record_shape`) or of another cell than the first, or
            two records of one problem and repeat. The message names file and line.
    """
    *lines, tail = Path(path).read_bytes().split(b"\n")
    records, seen = [], {}
    if _parsed(tail) is not None:
        lines.append(tail)
    for number, line in enumerate(lines, start=1):
        record = _parsed(line)
        if record is None:
            start = line[:60].decode(errors="replace")
            raise ValueError(
                f"{path}, line {number}: every line must be one JSON object; got {start!r}. "
                "Delete the line (its problem is run again) or the file."
            )
        if wrong := complaint(record):
            raise ValueError(f"{path}, line {number}: {wrong}. Delete the line (its problem is run again).")
        names = [record[name] for name in ("policy", "task", "method", "seed")]
        first = [records[0][name] for name in ("policy", "task", "method", "seed")] if records else names
        if names != first:
            raise ValueError(
                f"{path}, line {number}: all records of a file must be of one cell; got {names} after {first}. "
                "Delete the line or the file."
            )
        key = (record["problem_id"], record["seed"], record["repeat"])
        if key in seen:
            raise ValueError(
                f"{path}, line {number}: problem {key[0]!r}, repeat {key[2]} is a duplicate of line "
                f"{seen[key]}. Delete one of the two; was the same command started twice at once?"
            )
        seen[key] = number
        records.append(record)
    return records
