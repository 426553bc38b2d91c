"""Records: one JSON line per problem and repeat, the source of every table.

Appended whole lines only; a line left unfinished by a kill is dropped when the file is next read or appended to.
"""

import fcntl
import functools
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..cost import Cost
from ..types import Problem, Solution

EXACT = ("flops", "seconds")  # floats of a trajectory that are kept as they are
STEP = ("rollouts", "model_calls", "flops", "seconds", "correct")  # of a recorded trajectory
REQUIRED = ("problem_id", "seed", "repeat", "correct", "status", "cost", "search")


def record_path(folder: Path, policy: str, task: str, method: str, seed: int) -> Path:
    """`<folder>/<policy>__<task>__<method>__s<seed>.jsonl`.

    Raises:
        ValueError: a name that could not be told apart in a file name.
    """
    for name in (policy, task, method):
        if not name or "__" in name or "/" in name:
            raise ValueError(f"names of cells must be non-empty, without '/' and '__'; got {name!r}. Rename it.")
    return Path(folder) / f"{policy}__{task}__{method}__s{seed}.jsonl"


def stored_cells(folder: Path) -> dict[tuple[str, str, str], list[Path]]:
    """Record files that lie in a folder: by policy, task and method, those of all seeds; empty without the folder."""
    cells: dict[tuple[str, str, str], list[Path]] = {}
    for path in sorted(Path(folder).glob("*__s*.jsonl")):
        policy, task, method, _ = path.stem.split("__")
        cells.setdefault((policy, task, method), []).append(path)
    return cells


def make_record(
    problem: Problem,
    solution: Solution,
    *,
    policy: str,
    method: str,
    seed: int,
    repeat: int,
    grade: Callable[..., Any],
) -> dict[str, Any]:
    """Grade a solution and put it into the form of a record.

    In `search`, the responses of `trajectory` and `samples` are replaced by whether they are correct; each distinct
    text is graded once. Floats are rounded to six digits (costs apart). A solution that carries an error, or whose
    reward is not a finite number, becomes a failed record.

    Args:
        problem: what was asked.
        solution: what the method returned for it.
        policy, method: names in the record.
        seed, repeat: the run's seed, and which of the repeats of the problem.
        grade: `grade(problem, response, finished)` with fields `extracted`, `correct` and `note` (see `grading.grade`).
    """
    names = {"policy": policy, "method": method, "seed": seed, "repeat": repeat}
    if solution.error is not None:
        return failed_record(problem, solution.error, cost=solution.cost, **names)
    if solution.reward is not None and not math.isfinite(solution.reward):
        reason = f"the reward must be a finite number; got {solution.reward}"
        return failed_record(problem, reason, cost=solution.cost, **names)
    grades: dict[tuple[str, bool], Any] = {}

    def graded(response: str, finished: bool) -> Any:
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
    return _record(problem, names, outcome, solution.cost, _rounded(search))


def failed_record(
    problem: Problem, error: str, *, policy: str, method: str, seed: int, repeat: int, cost: Cost | None = None
) -> dict[str, Any]:
    """The record of a problem that could not be solved: never graded, counted wrong.

    Args:
        problem: what was asked.
        error: the reason, "Type: message".
        policy, method, seed, repeat: as in `make_record`.
        cost: what was spent before the failure, where known.
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


def _entry(entry: dict, graded: Callable[[str, bool], Any], final: str, finished: bool) -> dict[str, Any]:
    """An entry of a trajectory or of the samples with its response replaced by whether it is correct."""
    own = entry.get("finished", finished if entry["response"] == final else True)
    kept = {key: value for key, value in entry.items() if key not in ("response", "finished")}
    return {**kept, "correct": graded(entry["response"], own).correct}


def _rounded(value: Any, name: str = "") -> Any:
    """Floats to six significant digits, so that files do not carry noise; JSON has no infinities, so those are null."""
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
    """Append records in one write that reaches the disk before this returns; several processes may share the file.

    A line left without its end by a kill is cut off first.

    Raises:
        OSError: the disk did not take all of it; the file is as it was before.
    """
    if not records:
        return
    lines = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # between mending and writing no other process may write
        start = _mend(descriptor)
        written = os.write(descriptor, lines)
        if written != len(lines):
            os.ftruncate(descriptor, start)
            raise OSError(f"{path}: only {written} of {len(lines)} bytes could be written. Free some disk space.")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mend(descriptor: int) -> int:
    """Make the file end with a whole line; returns its size then."""
    size = os.fstat(descriptor).st_size
    if not size or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    start, step = size, 65536
    while start > 0:  # look for the last end of a line, from the end
        low = max(0, start - step)
        found = os.pread(descriptor, start - low, low).rfind(b"\n")
        if found >= 0:
            start = low + found + 1
            break
        start = low
    if _parsed(os.pread(descriptor, size - start, start)) is not None:
        return size + os.write(descriptor, b"\n")  # a whole record that lacks only its end
    os.ftruncate(descriptor, start)
    return start


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object on a line; None when it is not one (a proper prefix of an object never parses)."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a file, in order; an unfinished last line is left out.

    Raises:
        ValueError: a corrupt line, a record without a required field, or two records of one problem and repeat; file
            and line are named.
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
        missing = [key for key in REQUIRED if key not in record]
        if missing:
            raise ValueError(f"{path}, line {number}: a record must have {', '.join(missing)}. Delete the line.")
        key = (record["problem_id"], record["seed"], record["repeat"])
        if key in seen:
            raise ValueError(
                f"{path}, line {number}: problem {key[0]!r}, repeat {key[2]} stands on line {seen[key]} already. "
                "Delete one of the two; was the same command started twice at once?"
            )
        seen[key] = number
        records.append(record)
    return records


class Outcome(NamedTuple):
    """What tables and figures need of a record.

    Attributes:
        key: problem id, seed and repeat.
        correct, ok: graded correct; solved rather than failed.
        cost: by name of the fields of `Cost`.
        steps: the anytime trajectory: (rollouts, model_calls, flops, seconds, correct), cumulative, rollouts ascending.
    """

    key: tuple[str, int, int]
    correct: bool
    ok: bool
    cost: dict[str, float]
    steps: list[tuple[int, int, float, float, bool]]


def read_outcomes(path: Path) -> list[Outcome]:
    """The outcomes of a file; read again only when it has changed, since tables are rewritten many times in a run."""
    return _outcomes(path, os.stat(path).st_mtime_ns, os.stat(path).st_size)


@functools.lru_cache(maxsize=4096)
def _outcomes(path: Path, changed: int, size: int) -> list[Outcome]:
    outcomes = []
    for record in read_records(path):
        cost, correct = record["cost"], bool(record["correct"])
        steps = [tuple(step[name] for name in STEP) for step in record["search"].get("trajectory", [])]
        steps = steps or [(1, cost["model_calls"], cost["flops"], cost["seconds"], correct)]
        key = (record["problem_id"], record["seed"], record["repeat"])
        outcomes.append(Outcome(key, correct, record["status"] == "ok", cost, steps))
    return outcomes
