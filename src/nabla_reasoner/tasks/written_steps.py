"""Written steps of a response: equations whose truth is decided by arithmetic."""

import re

from .notation import GROUPING

EQUATION = re.compile(r"(?<![\d.])(-?\d+(?:\s*[-+*]\s*-?\d+)+)\s*=\s*(-?\d+)(?!\d|\.\d)")
MARKS = re.compile(r"\*\*|[$`]|\\[()\[\]]")  # Markdown and mathematics delimiters
TIMES = re.compile(r"×|·|\\times|\\cdot|(?<=\d)\s*[xX]\s*(?=\d)")
TASKS = ("chain_sum", "leg_counting", "products")


def steps_are_true(task: str, response: str) -> bool | None:
    """Return whether every equation "a+b=c" that a response writes is true; None for tasks without written steps.

    A response without an equation has no false one.
    """
    if task not in TASKS:
        return None
    plain = GROUPING.sub("", TIMES.sub("*", MARKS.sub("", response.replace("−", "-"))))
    return all(_value(left) == int(right) for left, right in EQUATION.findall(plain))


def _value(expression: str) -> int:
    """Return the value of integers joined by +, - and *, products first."""
    compact = re.sub(r"\s", "", expression)
    total = 0
    for sign, product in re.findall(r"(^|[-+])((?:-?\d+)(?:\*-?\d+)*)", compact):
        value = 1
        for factor in product.split("*"):
            value *= int(factor)
        total += -value if sign == "-" else value
    return total
