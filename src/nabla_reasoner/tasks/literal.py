r"""Answers that equal the same text only, since math-verify would calculate with them: dates, sizes, 1+2+\ldots+n."""

import re

from .answer_parts import entries, letters

# A date, a telephone number, feet and inches or degrees and minutes.
NO_FORMULA = re.compile(
    r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}/\d{1,2}/(?:19|20)\d\d|(?:\d{3}-)?\d{3}-\d{4}|"
    r".*\d\s*['\"]\s*[\d.\\].*|.*\\circ\s*\d+\s*['\"].*",
    re.DOTALL,
)
ELLIPSIS = re.compile(r"\\ldots(?![A-Za-z])|\.\.\.")
CUT_DECIMAL = re.compile(r"-?(?:\d*\.\d+|\\frac\{\d+\}\{\d+\})\s*(?:\\ldots|\.\.\.)")  # the fraction was one
REPEATED_FACTORIAL = re.compile(r"!\s*!")
SIZE = re.compile(r"[\w\s\\{}]+\\times[\w\s\\{}]+")
SHAPES = re.compile(r"(?:\w+ )?(?:matri(?:x|ce)|grid|array|board|chessboard|checkerboard|rectangle|table|box|block)")

AND = re.compile(r"(?<![A-Za-z\\])and(?![A-Za-z])|\\(?:land|wedge)(?![A-Za-z])")
OR = re.compile(r"(?<![A-Za-z\\])or(?![A-Za-z])|\\(?:lor|vee|cup)(?![A-Za-z])")
INEQUALITY = re.compile(r"<|>|\\(?:le|ge)(?![A-Za-z])")
INFINITE_END = re.compile(r"\\infty\s*\]|\[\s*-\s*\\infty")


def is_literal(text: str) -> bool:
    """Return whether a value is no formula, or one that math-verify reads without a part of it."""
    if NO_FORMULA.fullmatch(text):
        return True
    is_sum = ELLIPSIS.search(text) and not CUT_DECIMAL.fullmatch(text)
    return bool(is_sum or REPEATED_FACTORIAL.search(text))


def is_size(value: str, unit: str) -> bool:
    r"""Return whether 3 \times 4 is the size of something, such as a matrix, and no product."""
    return bool(SHAPES.fullmatch(unit) and SIZE.fullmatch(value))


def conditions_differ(first: str, second: str) -> bool:
    """Return whether two answers differ in "and" and "or" where it matters, or in an infinite end that is included.

    It matters between inequalities and words; "2 and 3" are the same solutions as "2 or 3".
    """
    if bool(INFINITE_END.search(first)) != bool(INFINITE_END.search(second)):
        return True
    joined = [(bool(AND.search(text)), bool(OR.search(text))) for text in (first, second)]
    if joined[0] == joined[1] or not all(map(any, joined)):
        return False
    parts = [part for text in (first, second) for part in entries(text).parts]
    return any(INEQUALITY.search(part) or letters(part) for part in parts)
