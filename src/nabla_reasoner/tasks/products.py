r"""Numbers side by side and quotients before a factor, for math-verify, which reads 3/4x as 3/(4x).

All functions take text in the notation of `notation.standard`.
"""

import math
import re

from .names import FUNCTIONS, GREEK

# A fraction or what looks like one after a whole number, which is no exponent, index or part of a decimal.
MIXED = re.compile(r"(?<![\w.^/}])(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}|(?<![\w.^/}])(\d+) (\d+)/(\d+)(?![\d.])")
SIDE_BY_SIDE = re.compile(r"(?<![\d.^_])\d+(?:\.\d+)?\s+\.?\d")
FACTOR = rf"[A-Za-z({{]|\\(?:sqrt|frac|pi|sec|{FUNCTIONS}|{GREEK})(?![A-Za-z])"
QUOTIENT = re.compile(rf"\s*/\s*(?:(\d+(?:\.\d+)?)|\(\s*(\d+(?:\.\d+)?)\s*\))(\s*)(?={FACTOR})")
# A numerator without letters: a number that is no exponent, pi, a root or a fraction.
CONSTANT = re.compile(
    r"(?:(?<![\w.^])(?:\d+(?:\.\d+)?|\.\d+|\(\s*\d+(?:\.\d+)?\s*\))|\\pi|(?<![\^_])\{[^{}A-Za-z]*\})$"
)
REMAINDER = re.compile(r"^\s*(\d+)\s*(?:\\bmod|\\mod)(?![A-Za-z])\s*\{?\s*(\d+)\s*\}?\s*$")
DOUBLE_FACTORIAL = re.compile(r"(?<![\d.])(\d{1,3})!!(?!\s*!)")
LONGEST_NUMBER = 40  # characters before the sign of division that are looked at


def plain_products(text: str) -> str:
    """Return an expression without the products and quotients that math-verify reads in another way."""
    text = DOUBLE_FACTORIAL.sub(lambda match: str(math.prod(range(int(match[1]), 1, -2))), with_mixed_numbers(text))
    text = REMAINDER.sub(_remainder, text)
    text = re.sub(r"\\pi\s*(?=\()", r"\\pi\\cdot", text)  # no function
    return _with_quotients(text)


def _remainder(match: re.Match[str]) -> str:
    return str(int(match[1]) % int(match[2])) if int(match[2]) else match[0]


def has_numbers_side_by_side(text: str) -> bool:
    """Return whether two numbers have only space between them: "3 4" is no product, but "1 1/2" is a number."""
    return bool(SIDE_BY_SIDE.search(with_mixed_numbers(text)))


def with_mixed_numbers(text: str) -> str:
    r"""Return a text with \frac{7}{3} for 2\frac{1}{3} and 2 1/3; 2\frac{5}{3} is a product."""

    def fraction(match: re.Match[str]) -> str:
        whole, numerator, denominator = (int(number) for number in match.groups() if number is not None)
        if not 0 < numerator < denominator:
            return match[0]
        return rf"\frac{{{whole * denominator + numerator}}}{{{denominator}}}"

    return MIXED.sub(fraction, text)


def _with_quotients(text: str) -> str:
    r"""Return a text with 3\cdot\frac{1}{4}x for 3/4x: the factor after a number is not part of the divisor.

    It is where letters are divided and no space follows: x/2y has the divisor 2y, but x/(2)y has the divisor 2.
    """

    def quotient(match: re.Match[str]) -> str:
        before = match.string[max(match.start() - LONGEST_NUMBER, 0) : match.start()]
        is_product = match[2] or match[3] or match.string[match.end()] == "(" or CONSTANT.search(before)
        return rf"\cdot\frac{{1}}{{{match[1] or match[2]}}}" if is_product else match[0]

    return QUOTIENT.sub(quotient, text)
