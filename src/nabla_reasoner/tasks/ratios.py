"""Ratios and times of day, which have the same sign between their numbers: 2:3 and 2:30."""

import itertools
import re
from collections.abc import Callable

from .exact_numbers import rational

CLOCK = re.compile(r"0?(\d|1\d|2[0-4])((?::[0-5]\d){1,2})")
OTHER_SIGNS = re.compile(r"[<>={}\[\],;]|\\(?:text|le|ge|neq|mid|to|in)(?![A-Za-z])")
PARTS = re.compile(r"\\frac\{[^{}]*\}\{[^{}]*\}|\\sqrt\{[^{}]*\}")  # braces that a term may have


def same_time(first: str, second: str) -> bool:
    """Compare two times with a.m. or p.m. after them, which are taken off: 6:00 is 6, and 6:30 is nothing else."""
    return _time(first) == _time(second)


def _time(text: str) -> str:
    plain = re.sub(r"\s", "", text).removesuffix(":00")
    return plain.lstrip("0") or plain


def same_ratio(first: str, second: str, same: Callable[[str, str], bool]) -> bool | None:
    """Compare ratios of three or more terms, and times; None if neither answer is one.

    Ratios of two terms are quotients.

    Args:
        first: an answer in the notation of `notation.standard`.
        second: another one.
        same: compares two terms.
    """
    times = CLOCK.fullmatch(first), CLOCK.fullmatch(second)
    if None not in times:
        return times[0].groups() == times[1].groups()
    left, right = _terms(first), _terms(second)
    if max(len(left), len(right)) < 3:
        return None
    if len(left) != len(right):
        return False
    numbers = [[rational(term) for term in terms] for terms in (left, right)]
    if None in numbers[0] or None in numbers[1]:
        pairs = zip(left[1:], right[1:], strict=True)
        return all(same(rf"({a}) \cdot ({right[0]})", rf"({b}) \cdot ({left[0]})") for a, b in pairs)
    if not any(numbers[0]) or not any(numbers[1]):
        return False
    pairs = itertools.combinations(zip(*numbers, strict=True), 2)
    return all(a * d == b * c for (a, b), (c, d) in pairs)


def _terms(text: str) -> list[str]:
    """Return what stands between the colons of an answer, or the answer alone if it is no ratio."""
    terms = [term.strip() for term in text.split(":")]
    return terms if all(terms) and not OTHER_SIGNS.search(PARTS.sub("", text)) else [text]
