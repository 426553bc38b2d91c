"""Rows of a benchmark: their question and reference answer as text, checked where they are read."""

import math
from collections.abc import Mapping

import numpy as np

from ..json_text import parse_json
from ..types import check_unicode
from .notation import GROUPING


def row_of_line(line: str, place: str) -> dict[str, str]:
    """Return `id`, `problem` and `answer` of a line of JSON as text.

    Args:
        line: one JSON object.
        place: file and line, for messages.

    Raises:
        ValueError: a malformed line or field; the message names place, field and remedy.
    """
    try:
        row = parse_json(line, names_once=True)
    except ValueError as error:  # ValueError also for an integer of thousands of digits
        raise ValueError(
            f"{place}: every line must be one JSON object; got {_short(line)} ({error}). Correct the line; if it is "
            "the last one, the file may have been cut off."
        ) from error
    if not isinstance(row, dict):
        raise ValueError(f'{place}: every line must be one JSON object; got {_short(row)}. Write {{"id": …, …}}.')
    identifier = _text(row, "id", place, (int,))
    return {
        "id": identifier,
        "problem": question_text(row, "problem", place),
        "answer": answer_text(row, "answer", place),
    }


def question_text(row: Mapping[str, object], field: str, place: str) -> str:
    """Return the question in a field of a row; raise ValueError unless it is text."""
    return _text(row, field, place, ())


def answer_text(row: Mapping[str, object], field: str, place: str, *, decimals: bool = False) -> str:
    """Return the reference answer in a field of a row; raise ValueError if there is none.

    Args:
        row, field: where it is.
        place: file and line, or data set and row, for messages.
        decimals: whether 142.0 is accepted beside text and integers, as in data sets with a column of numbers.
    """
    answer = reference_answer(_text(row, field, place, (int, float) if decimals else (int,)))
    if not answer:
        raise ValueError(f'{place}: an answer must follow "####" in field {field!r}; nothing does. Write it there.')
    return answer


def reference_answer(text: str) -> str:
    """Return the reference answer in a field: what follows the last "####" of a solution written as in GSM8K, or all.

    A comma between groups of three digits is removed there.
    """
    _, mark, after = text.rpartition("####")
    return GROUPING.sub("", after.strip()) if mark else text


def at_own_precision(value: object, precision: str) -> object:
    """Return a number of a column of half or single precision as it was written: 0.1, not 0.10000000149011612.

    Args:
        value: what the column holds; anything but a float is returned as it is.
        precision: "float16" or "float32"; any other type changes nothing.
    """
    if not isinstance(value, float) or precision not in ("float16", "float32"):
        return value
    return float(str(np.dtype(precision).type(value)))


def _text(row: Mapping[str, object], field: str, place: str, numbers: tuple[type, ...]) -> str:
    """Return a field as text; a number of the types `numbers` is accepted."""
    if field not in row:
        raise ValueError(f"{place}: field {field!r} must be there; it is missing. Add it or rename the field meant.")
    value = row[field]
    is_infinite = isinstance(value, float) and not math.isfinite(value)
    if isinstance(value, numbers) and not isinstance(value, bool) and not is_infinite:
        return str(value)
    kinds = " or ".join(["a non-empty string", *({int: "an integer", float: "a decimal"}[kind] for kind in numbers)])
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place}: field {field!r} must be {kinds}; got {_short(value)}. Write it as text.")
    check_unicode(f"{place}: field {field!r}", value)
    return value


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
