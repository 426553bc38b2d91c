"""Digits with a base, such as 2516_8, in the notation of `notation.standard`."""

import re

from .exact_numbers import rational

BASE = re.compile(
    r"(?P<sign>[-+]?)\s*(?P<open>\()?(?P<digits>(?:[0-9A-Za-z. ]|\\text\{[0-9A-Za-z]*\})+)(?(open)\))\s*(?:"
    r"_\s*(?:\{\s*\(?(?P<braced>(?:[^{}()]|\{[^{}]*\})*)\)?\s*\}|(?P<mark>\d))|"
    r"\\text\{\s*\(?base (?P<text>\w+)\)?\s*\}|\(?base (?P<plain>\w+)\)?)"
)
# A number with an index; x^2_1 is none, nor is x^{2}_{1}.
INDEXED = re.compile(r"(?<![\w.^])[\d.]*\d\s*_|(?<!\^)\{[\d. ]+\}\s*_|\)\s*_")


def base(text: str) -> tuple[str, int] | None:
    """Return digits, with a sign, and base of a number that states a base other than ten, or None."""
    stated = _stated_base(text)
    return None if stated is None or stated[1] == 10 else stated


def without_base_ten(text: str) -> str:
    """Return the digits of a number that states base ten, and every other text as it is."""
    stated = _stated_base(text)
    return stated[0] if stated is not None and stated[1] == 10 else text


def has_base(text: str) -> bool:
    """Return whether a number in an expression has an index, as in 12_5 + 3_5, which math-verify would drop."""
    return bool(INDEXED.search(text))


def _stated_base(text: str) -> tuple[str, int] | None:
    match = BASE.fullmatch(text.strip())
    if match is None:
        return None
    name = match["braced"] or match["mark"] or match["text"] or match["plain"] or ""
    name = re.sub(r"\\text\{([^{}]*)\}", r"\1", name).strip(" ()").removeprefix("base")
    value = rational(name.strip(" ()"))
    digits = re.sub(r"\\text\{|[} ]", "", match["digits"]).upper()
    if value is None or not 2 <= value <= 36 or value.denominator != 1 or not digits.strip("."):
        return None
    valid = all(digit == "." or int(digit, 36) < value for digit in digits)
    is_variable = len(digits) == 1 and digits.isalpha()
    return (match["sign"].removeprefix("+") + digits, int(value)) if valid and not is_variable else None
