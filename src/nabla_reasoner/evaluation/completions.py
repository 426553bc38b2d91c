"""Grades of completions that another program stored: each row by our graders, accuracy by task with its interval."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..json_text import parse_json
from ..tasks.generated_tasks import is_generated
from ..tasks.grading import Grade, grade
from ..tasks.problems import reference_answer
from ..types import Problem
from .completion_files import FileRow, check_columns, field, shortened
from .statistics import Interval, accuracy_interval

RESULTS = ("extracted", "correct", "grading_note")  # columns that grading adds
SHOWN_PLACES = 5  # in a note


class Columns(NamedTuple):
    """Names of the columns; None where a file has none.

    Attributes:
        answer: the right answer.
        response: the completion.
        task: the task of each row; its name selects the grader.
        problem: the problem's id; rows of one problem are repeats.
        finished: whether the completion ended by itself; false: only a complete, explicit answer counts.
        metadata: of generated tasks, where the verifier reads more than the answer.
    """

    answer: str
    response: str
    task: str | None
    problem: str | None = None
    finished: str | None = None
    metadata: str | None = None


class Graded(NamedTuple):
    """A graded row.

    Attributes:
        row: the row.
        task: its task.
        problem: id of its problem.
        answer: the right answer as it is compared; None without one.
        grade: the verdict; None without a right answer to compare with.
        empty: whether there is no completion.
    """

    row: FileRow
    task: str
    problem: str
    answer: str | None
    grade: Grade | None
    empty: bool

    def values(self) -> dict[str, object]:
        """Return the row's fields with the verdict; columns of these names are replaced."""
        verdict = self.grade
        graded_fields = (verdict.extracted, verdict.correct, verdict.note) if verdict else (None, None, None)
        return {**self.row.values, **dict(zip(RESULTS, graded_fields, strict=True))}


class Score(NamedTuple):
    """The accuracy of a task, over the rows that have a right answer."""

    task: str
    accuracy: Interval
    completions: int
    problems: int

    @property
    def grader(self) -> str:
        """What compares the answers."""
        return "verifier of reasoning-gym" if is_generated(self.task) else "mathematical equality"


class MissingMetadata(dict[str, object]):
    """Metadata of a row that has none; remembers whether the verifier asked for any, without which it cannot judge."""

    was_needed = False

    def __getitem__(self, key: str) -> object:
        self.was_needed = True
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        self.was_needed = True
        return False

    def get(self, key: str, default: object = None) -> object:
        self.was_needed = True
        return default


def grade_rows(path: Path, rows: Sequence[FileRow], columns: Columns, task: str = "") -> list[Graded]:
    """Grade every row.

    Args:
        path: the file, for messages.
        columns: names of the columns.
        task: the task of every row, if `columns.task` is None.

    Raises:
        ValueError: a missing column, a field of the wrong type, metadata that a verifier needs, or no right answer in
            any row; the message names line and column.
    """
    check_columns(path, rows, {name: column for name, column in columns._asdict().items() if column is not None})
    graded = [_graded(path, row, columns, task) for row in rows]
    if all(item.grade is None for item in graded):
        raise ValueError(f"{path} must have a right answer in column {columns.answer!r}; no row has one.")
    if columns.problem is not None:
        _check_answers(path, [item for item in graded if item.answer is not None])
    return graded


def _check_answers(path: Path, graded: Sequence[Graded]) -> None:
    """Raise ValueError if graded rows of a problem have different right answers: they repeat no question."""
    first: dict[tuple[str, str], Graded] = {}
    for item in graded:
        other = first.setdefault((item.task, item.problem), item)
        if other.answer != item.answer:
            raise ValueError(
                f"{path}, {item.row.place}: problem {item.problem!r} must have one right answer; got "
                f"{shortened(item.answer)} here and {shortened(other.answer)} in {other.row.place}. Give each question "
                "its own id, or leave out problem=COLUMN."
            )


def _graded(path: Path, row: FileRow, columns: Columns, task: str) -> Graded:
    def text(column: str) -> str | None:
        return _text(field(row, column), f"{path}, {row.place}, column {column!r}")

    answer, response = text(columns.answer), text(columns.response)
    if answer is not None and not (answer := reference_answer(answer)):
        raise ValueError(f'{path}, {row.place}, column {columns.answer!r}: an answer must follow "####"; nothing does.')
    if columns.task is not None:
        task = text(columns.task) or ""
        if not task:
            raise ValueError(f"{path}, {row.place}, column {columns.task!r}: a task is missing. Write its name.")
    problem = row.place if columns.problem is None else text(columns.problem)
    if problem is None:
        raise ValueError(f"{path}, {row.place}, column {columns.problem!r}: the problem's id is missing. Write one.")
    if answer is None:
        return Graded(row, task, problem, None, None, response is None)
    metadata = _metadata(path, row, columns.metadata) if is_generated(task) else None
    finished = response is None or _finished(path, row, columns)  # a failed record has no such field
    verdict = grade(Problem(row.place, "", answer, task, metadata), response or "", finished)
    if isinstance(metadata, MissingMetadata) and metadata.was_needed:
        raise ValueError(
            f"{path}, {row.place}: the verifier of task {task} needs the problem's metadata; there is none. "
            "Write metadata=COLUMN."
        )
    return Graded(row, task, problem, answer, verdict, response is None)


def _text(value: object, place: str) -> str | None:
    """Return a field as text; None if it is empty. Whole numbers are written without a decimal point."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        raise ValueError(f"{place}: a field must be text or a number; got {shortened(value)}. Write it as text.")
    return str(value)


def _finished(path: Path, row: FileRow, columns: Columns) -> bool:
    value = True if columns.finished is None else field(row, columns.finished)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        value = value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise ValueError(
            f"{path}, {row.place}, column {columns.finished!r}: it must be true or false; got {shortened(value)}. "
            "Write one of the two, or leave finished= out."
        )
    return value


def _metadata(path: Path, row: FileRow, column: str | None) -> dict[str, object]:
    value = None if column is None else field(row, column)
    if value is None or value == "":
        return MissingMetadata()
    try:
        value = parse_json(value) if isinstance(value, str) else value
    except ValueError:
        pass
    if not isinstance(value, dict):
        raise ValueError(
            f"{path}, {row.place}, column {column!r}: metadata must be a JSON object; got {shortened(value)}."
        )
    return value


def scores(graded: Iterable[Graded]) -> list[Score]:
    """Return the accuracy of each task, in the order of the file; rows without a right answer are left out."""
    tasks: dict[str, dict[str, list[bool]]] = {}
    for item in graded:
        if item.grade is not None:
            tasks.setdefault(item.task, {}).setdefault(item.problem, []).append(item.grade.correct)
    results = []
    for task, problems in tasks.items():
        repeats = max(map(len, problems.values()))
        table = np.full((len(problems), repeats), np.nan)
        for index, verdicts in enumerate(problems.values()):
            table[index, : len(verdicts)] = verdicts
        count = sum(map(len, problems.values()))
        results.append(Score(task, accuracy_interval(table), count, len(problems)))
    return results


def notes(graded: Sequence[Graded]) -> list[str]:
    """Return sentences on rows that could not be graded, and on those that are wrong for want of an answer."""
    judged = [item for item in graded if item.grade is not None]
    silent = [item for item in judged if item.grade and item.grade.extracted is None and not item.empty]
    broken = [item for item in judged if item.grade and item.grade.note is not None]
    kinds = [
        ("without a right answer, not graded", [item for item in graded if item.grade is None]),
        ("without a completion, counted wrong", [item for item in judged if item.empty]),
        ("whose completion states no answer, counted wrong", silent),
        ("whose comparison failed, counted wrong", broken),
    ]
    return [f"{_count(items)} {kind}: {_places(items)}." for kind, items in kinds if items]


def _count(items: Sequence[Graded]) -> str:
    return "1 row" if len(items) == 1 else f"{len(items)} rows"


def _places(items: Sequence[Graded]) -> str:
    places = [item.row.place for item in items[:SHOWN_PLACES]]
    return ", ".join(places) + (", …" if len(items) > SHOWN_PLACES else "")
