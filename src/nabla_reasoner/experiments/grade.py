"""Grades of a file of completions, written beside it, and their accuracy."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from ..config.schema import choice_file, choices
from ..config.settings import GradeSettings
from ..evaluation.completion_files import FileRow, field, has_column, read_rows, shortened
from ..evaluation.completions import Columns, Graded, grade_rows, notes, scores
from ..tasks.generated_tasks import is_generated
from .command import DONE, FAILED, Command, refusing


def run(command: Command, settings: GradeSettings) -> int:
    """Grade the file, write the output and print the accuracy of each task; return the exit status."""
    source = Path(command.argument)
    output = Path(settings.output or f"{source}.graded.jsonl")
    with refusing():
        if output.exists() and not settings.overwrite:
            raise ValueError(f"the output file must be new; {output} exists. Write output=FILE or overwrite=true.")
        if output.exists() and not output.is_file() and not output.is_dir():
            raise ValueError(f"the output must be an ordinary file; {output} is a device or pipe. Write output=FILE.")
        if output.is_dir():
            raise ValueError(f"the output must be a file; {output} is a folder. Write output=FILE.")
        if output.resolve() == source.resolve():
            raise ValueError(f"the output file must not be the file that is graded; got {output}. Write output=FILE.")
        rows = read_rows(source)
        columns, task = _columns(source, rows, settings)
        graded = grade_rows(source, rows, columns, task)
        _write(output, graded)
    for score in scores(graded):
        accuracy = score.accuracy
        print(
            f"{score.task}: {accuracy.mean:.1f} % correct (95 % interval {accuracy.low:.1f} to {accuracy.high:.1f}), "
            f"{score.completions} completions of {score.problems} problems; compared by {score.grader}"
        )
    for note in notes(graded):
        print(f"  {note}")
    print(f"Grades in {output}")
    return FAILED if any(item.grade is not None and item.grade.note is not None for item in graded) else DONE


def _columns(source: Path, rows: list[FileRow], settings: GradeSettings) -> tuple[Columns, str]:
    """Return the names of the columns, and the task of every row if there is no column for it.

    Raises:
        ValueError: `task` is neither a column nor the name of a task, or the column has a name that is none.
    """
    columns = Columns(**settings.model_dump(include=set(Columns._fields)))
    name = settings.task
    if has_column(rows, name):
        _check_names(source, rows, name)
        return columns, ""
    if not _is_task(name):
        raise ValueError(
            f"task must be a column of {source} or the name of a task; got {name!r}. Columns: "
            f"{', '.join(rows[0].values)}. {_names()} Write task=NAME, e.g. task=math500 for answers that are compared "
            "as mathematics."
        )
    return columns._replace(task=None), choice_file("task", name).get("dataset") or name


def _check_names(source: Path, rows: list[FileRow], column: str) -> None:
    """Raise ValueError if a row names no task; a misspelt generated task would be graded as mathematics."""
    known: set[str] = set()
    for row in rows:
        value = field(row, column)
        name = "" if value is None else str(value)
        if not name.strip() or name in known:
            continue  # a missing name is refused where the row is graded
        if not _is_task(name):
            raise ValueError(
                f"{source}, {row.place}, column {column!r}: a task must be one of those that can be graded; got "
                f"{shortened(name)}. {_names()} Correct the name, or write math500 for answers that are compared as "
                "mathematics."
            )
        known.add(name)


def _is_task(name: str) -> bool:
    return name in choices("task") or is_generated(name)


def _names() -> str:
    return f"Tasks: {', '.join(choices('task'))}, or a data set of reasoning-gym."


def _write(output: Path, graded: list[Graded]) -> None:
    """Write one JSON object per row, in the order of the file; the output appears when it is complete.

    Raises:
        ValueError: the output cannot be written.
    """
    lines = [_line(item.values()) for item in graded]
    output = output.resolve()  # a link stays one
    temporary = output.with_name(f"{output.name}.unfinished")
    try:
        temporary.write_text("".join(lines), encoding="utf-8")
        os.replace(temporary, output)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ValueError(f"{output} cannot be written: {error.strerror}. Write output=FILE.") from error


def _line(values: Mapping[str, object]) -> str:
    """Return a row as JSON; half a surrogate pair, which UTF-8 cannot hold, stays escaped.

    NaN and infinities, which JSON lacks, become null.
    """
    values = _finite(values)
    line = json.dumps(values, ensure_ascii=False, default=str, allow_nan=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(values, default=str, allow_nan=False)
    return line + "\n"


def _finite(value: object) -> object:
    """Return a value of a row with None for numbers that are not finite, at any depth."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
