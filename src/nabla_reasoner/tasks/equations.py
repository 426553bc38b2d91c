r"""Sides of an equation that is an answer: its name and its exact value, in the notation of `notation.standard`.

Of x = \frac{7}{3} \approx 2.33 the exact side counts, and of A = 9\pi = 28.27 too.
"""

import re
from fractions import Fraction

from . import answer_parts
from .exact_numbers import rational
from .quantities import quantity

# Letters of formulas; not \pi, a number, nor \Omega and \mu, which may be units.
GREEK = (
    r"\\(?:var)?(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|nu|xi|rho|sigma|tau|upsilon|phi|chi|"
    r"psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Upsilon|Phi|Psi)(?![A-Za-z])"
)
NAME = (
    r"(?:(?:\\(?:hat|bar|vec|tilde|overline|widehat)\s*)?(?:\\?[A-Za-z]+|\{\s*\\?[A-Za-z]+\s*\})|\\text\{[^{}]*\})"
    r"(?:_\{?\w+\}?)?'?(?:\s*\([\w\s,\\]*\))?|(?:m\s*)?\\(?:measured)?angle\s*[A-Z]{1,3}|\|\s*[A-Z]\s*\||\\lfloor[\w\s]+\\rfloor|"
    rf"\\(?:cos|sin|tan)\s*\(?(?:(?:\\angle\s*)?[A-Z]|{GREEK})\s*\)?|"
    r"[A-Za-z]\^\s*\{\s*-1\s*\}\s*\([\w\s,\\]*\)|\([\w\s,\\{}]+\)"
)
RELATION = re.compile(r"<|>|\\(?:le|ge|neq|lt|gt)(?![A-Za-z])")
APPROXIMATELY = re.compile(r"\\approx(?![A-Za-z])")
EQUALS = re.compile(r"=|\\approx(?![A-Za-z])|\\in(?![A-Za-z])")
EQUALS_OR_INDEX = re.compile(rf"_\s*\{{[^{{}}]*\}}|{EQUALS.pattern}")
DECIMAL = re.compile(r"-?\d*\.(\d+)")
IRRATIONAL = re.compile(r"\\(?:pi|sqrt|ln|log|sin|cos|tan)(?![A-Za-z])|(?<![\\A-Za-z])e(?![A-Za-z])")
COMMAND = re.compile(rf"({GREEK})|\\text\{{[^{{}}]*\}}|\\[A-Za-z]+")
OPERATION = re.compile(r"\\(?:sum|prod|lim|int)(?![A-Za-z])")  # the sum in \sum_{k=1}^3 k = 6 is a name of 6


def exact(text: str) -> str:
    r"""Return what stands before the first \approx, unless it is only a name, as in x \approx 5."""
    sign = APPROXIMATELY.search(text)
    if sign is None or RELATION.search(text) or len(answer_parts.entries(text).parts) != 1:
        return text
    before = text[: sign.start()].strip()
    is_open = sum(before.count(mark) for mark in "([{") != sum(before.count(mark) for mark in ")]}")
    if not before or is_open or (re.fullmatch(NAME, before) and not _is_constant(before, text[sign.end() :])):
        return text
    return before


def named(text: str) -> tuple[str | None, str]:
    """Return name and value of an equation: ("x", "5") for x = 5; ("", text) without a name; (None, text) if none."""
    if RELATION.search(text) or len(answer_parts.entries(text).parts) != 1:
        return None, text
    sides = _sides(text)
    if len(sides) < 2 or not all(sides):
        return None, text
    if (re.fullmatch(NAME, sides[0]) and not _is_constant(sides[0], sides[1])) or OPERATION.match(sides[0]):
        return sides[0], _value(sides[1:])
    is_name = (re.fullmatch(NAME, sides[-1]) and not _is_constant(sides[-1])) or OPERATION.match(sides[-1])
    if is_name and not _letters(sides[0]):  # 5 = x
        return sides[-1], _value(sides[:-1]) if len(sides) > 2 else sides[0]
    is_swapped = len(sides) == 2 and not _letters(sides[0]) and _is_algebra(sides[1])  # 1 = x + y
    is_equation = (_is_algebra(sides[0]) and not _is_constant(*sides[:2])) or is_swapped
    return ("", text) if is_equation else (None, _value(sides))


def _sides(text: str) -> list[str]:
    r"""Return the sides of an equation; the index of \sum_{k=1} is none."""
    signs = [mark for mark in EQUALS_OR_INDEX.finditer(text) if mark[0][0] != "_"]
    starts, ends = [0, *(sign.end() for sign in signs)], [*(sign.start() for sign in signs), len(text)]
    return [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]


def _is_algebra(side: str) -> bool:
    """Return whether a side has unknowns, which are single letters, rather than a unit."""
    is_product = bool(re.search(r"\d[A-Za-z]", side)) and not quantity(side).unit
    return is_product or bool(re.search(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])", _without_commands(side)))


def _letters(side: str) -> bool:
    r"""Return whether a side has letters, which may be unknowns; those of \frac and \pi are none."""
    return bool(re.search(r"[A-Za-z]", _without_commands(side)))


def _without_commands(side: str) -> str:
    r"""Return a side without words and commands, and with x for each Greek letter but \pi."""
    return COMMAND.sub(lambda match: " x " if match[1] else " ", side)


def _is_constant(side: str, value: str = "") -> bool:
    """Return whether a side that looks like a name is a constant: pi, or e beside its decimals."""
    return side == r"\pi" or (side == "e" and value.strip().startswith("2.7"))


def _value(sides: list[str]) -> str:
    """Return the last side, or the one before it that it rounds.

    A decimal rounds a fraction if it is nearest to it among those of its length. A root, a logarithm or a multiple of
    pi is no decimal, so one beside it is taken for its rounding.
    """
    decimal = DECIMAL.fullmatch(quantity(sides[-1]).value.strip())
    if decimal is None or len(sides) < 2:
        return sides[-1]
    before = quantity(sides[-2]).value
    number, last = rational(before), rational(decimal[0])
    if number is not None and last is not None:
        return sides[-2] if abs(number - last) <= Fraction(1, 2 * 10 ** len(decimal[1])) else sides[-1]
    is_value = IRRATIONAL.search(before) and not re.search(r"[A-Za-df-z]", _without_commands(before))
    return sides[-2] if is_value else sides[-1]
