"""Written steps of a response: chains of equations whose truth is decided by arithmetic.

"5*4 + 3*6 = 20 + 18 = 38" is a chain of three expressions of whole numbers; it is true if all have the same value. An
expression counts as a whole or not at all: of "x + 3*4 = 14", "(2+3)*4 = 20" and "1.5 + 2 = 3.5" nothing is judged.
"""

import re
from fractions import Fraction

from .notation import GROUPING
from .response_parts import outside_thinking

NUMBER = r"\d{1,400}"
EXPRESSION = re.compile(rf"-?{NUMBER}(?:[^\S\n]*[-+*/][^\S\n]*-?{NUMBER})*")
MARKS = re.compile(r"\*\*|[$`&]|\\[()\[\]]")  # Markdown and mathematics delimiters
POWER = re.compile(r"(?<=\d)\*\*(?=\d)")
TIMES = re.compile(r"×|·|⋅|\\times(?![A-Za-z])|\\cdot(?![A-Za-z])|(?<=\d)\s*[xX]\s*(?=\d)")
OVER = re.compile(r"÷|\\div(?![A-Za-z])")
EQUALS = re.compile(r"\s*=\s*")
# What stands next to an expression that is a part of a longer one: a letter of algebra, a decimal point, a bracket, …
LONGER_BEFORE = re.compile(
    r"[\w.^/)\]}!%\\]$|\d:$|[\w)\]}!%](?:\s*[-+*/^])+\s*$|\b(?:of|by|times|plus|minus|over|than)\s*$", re.IGNORECASE
)
LONGER_AFTER = re.compile(
    r"[.:]?\d|[\^%([{_]|\s*\\(?!text|math|mbox|q?quad|end|[^A-Za-z])|\s*[-+*/^]\s*(?:[(\[{\\\d.]|[A-Za-z]\b)|[A-Za-z]\b|"
    r"\s+(?:times|plus|minus|over|divided|dozen|hundred|thousand|million|r|rem|remainder|and\s+(?:a|one|\d+/)|\d+/)\b",
    re.IGNORECASE,
)
WORD_BEFORE = re.compile(r"[A-Za-z]\s*$")
LETTER_BEFORE = re.compile(r"\b[A-Za-z]\s*$")
NEAR = 40  # characters before and after an expression, on the same line, that are looked at
TASKS = ("chain_sum", "leg_counting", "products")


def steps_are_true(task: str, response: str) -> bool | None:
    """Return whether every chain of equations that a response writes is true; None for tasks without written steps.

    A response without an equation has no false one. Equations of a think block are not part of the response.
    """
    if task not in TASKS:
        return None
    said, _ = outside_thinking(response)
    return all(len({_value(expression) for expression in chain}) == 1 for chain in _chains(_plain(said)))


def _plain(response: str) -> str:
    """Return a response with one sign for each operation and without delimiters of formulas."""
    text = response.replace("−", "-").replace(r"\\", "\n")  # a row of LaTeX is a line
    text = MARKS.sub("", POWER.sub("^", text))
    return GROUPING.sub("", OVER.sub("/", TIMES.sub("*", text)))


def _chains(text: str) -> list[list[str]]:
    """Return the chains of two or more expressions joined by "=", of which one has an operation."""
    chains: list[list[str]] = [[]]
    end = 0
    for match in EXPRESSION.finditer(text):
        if not EQUALS.fullmatch(text, end, match.start()):
            chains.append([])
        if _counts(text, match, opens=not chains[-1]):
            chains[-1].append(match[0])
        else:
            chains.append([])
        end = match.end()
    return [chain for chain in chains if len(chain) > 1 and any(map(_has_operation, chain))]


def _counts(text: str, match: re.Match[str], opens: bool) -> bool:
    """Return whether an expression is a whole one; a lone number that opens a chain must not follow a word: "day 2"."""
    before = text[max(0, match.start() - NEAR) : match.start()].rpartition("\n")[2]
    after = text[match.end() : match.end() + NEAR].partition("\n")[0]
    if LONGER_BEFORE.search(before) or LONGER_AFTER.match(after):
        return False
    if match[0].startswith("-") and LETTER_BEFORE.search(before):  # y -3*4
        return False
    return not (opens and WORD_BEFORE.search(before) and not _has_operation(match[0]))


def _has_operation(expression: str) -> bool:
    return not expression.removeprefix("-").isdecimal()


def _value(expression: str) -> Fraction | None:
    """Return the value of whole numbers joined by +, -, * and /, products first; None for a division by zero."""
    total, product = Fraction(0), Fraction(0)
    for sign, number in re.findall(r"(^|[-+*/])(-?\d+)", re.sub(r"\s", "", expression)):
        if sign == "*":
            product *= int(number)
        elif sign == "/":
            if int(number) == 0:
                return None
            product /= int(number)
        else:
            total, product = total + product, Fraction(-int(number) if sign == "-" else int(number))
    return total + product
