r"""Intervals written in other ways, in the notation of `notation.standard`: ]1,2[, \{x \mid x>2\}, x>2 and x<5."""

import re

from .exact_numbers import rational

PIECE = r"[\[\](][^\[\](){}]*[,;][^\[\](){}]*[\[\])]"
UNION = re.compile(rf"{PIECE}(?:\s*\\cup\s*{PIECE})*")
BUILDER = re.compile(
    r"\\\{\s*(?P<name>[a-z])\s*(?:\\in\s*(?:\\mathbb\s*\{R\}|\\mathbb R|\\R|R)\s*)?"
    r"(?:\\(?:mid|vert)(?![A-Za-z])|[:|])\s*(?P<condition>(?:[^{}|:]|\\text\{[^{}]*\})*)\\\}"
)
BOUND = r"(?P<name{0}>[a-z])\s*(?P<sign{0}><|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))\s*(?P<value{0}>[^<>=]+?)"
BOTH = re.compile(rf"{BOUND.format(1)}\s*(?:\\text\{{\s*and\s*\}}|\band\b|\\land(?![A-Za-z]))\s*{BOUND.format(2)}")
RELATION = re.compile(r"<|>|\\(?:le|ge)(?![A-Za-z])")
GREATER = r"(>|\\ge(?![A-Za-z]))"
DESCENDING = re.compile(rf"([^<>=]+?)\s*{GREATER}\s*([A-Za-z]\w*|\\[a-z]+)\s*{GREATER}\s*([^<>=]+)")  # 3 > x > 1
ABSOLUTE = re.compile(r"(?:\||\\lvert\s*)\s*([A-Za-z])\s*(?:\||\\rvert)\s*(<|\\le(?![A-Za-z]))\s*([^<>=]+)")
ASCENDING_SIGNS = {">": "<", r"\ge": r"\le"}


def as_inequality(text: str) -> str:
    """Return an interval or a condition in the usual notation; every other answer as it is.

    The brackets ]1,2[ become (1,2). A set of the numbers that fulfil an inequality becomes the inequality. Two bounds
    become one chain, if some number fulfils both. A descending chain, as 3 > x > 1, becomes an ascending one.
    """
    if UNION.fullmatch(text):
        return re.sub(PIECE, lambda match: _with_round_brackets(match[0]), text)
    builder = BUILDER.fullmatch(text)
    if builder and RELATION.search(builder["condition"]) and re.search(rf"\b{builder['name']}\b", builder["condition"]):
        text = builder["condition"].strip()
    if descending := DESCENDING.fullmatch(text):
        high, upper, name, lower, low = descending.groups()
        return f"{low} {ASCENDING_SIGNS[lower]} {name} {ASCENDING_SIGNS[upper]} {high}"
    if absolute := ABSOLUTE.fullmatch(text):
        name, sign, bound = absolute.groups()
        size = rational(bound)
        return f"-{bound} {sign} {name} {sign} {bound}" if size is not None and size > 0 else text
    bounds = BOTH.fullmatch(text)
    return _chain(bounds) or text if bounds else text


def _with_round_brackets(piece: str) -> str:
    if piece[0] != "]" and piece[-1] != "[":
        return piece
    return ("(" if piece[0] == "]" else piece[0]) + piece[1:-1] + (")" if piece[-1] == "[" else piece[-1])


def _chain(match: re.Match[str]) -> str | None:
    """Return 2 < x < 5 for x > 2 and x < 5; None if these are no lower and upper bound of one name."""
    bounds = [(match[f"sign{index}"], match[f"value{index}"]) for index in (1, 2)]
    lower, upper = sorted(bounds, key=lambda bound: bound[0] in {"<", r"\le"})
    low, high = rational(lower[1]), rational(upper[1])
    if (
        match["name1"] != match["name2"]
        or lower[0] not in ASCENDING_SIGNS
        or upper[0] in ASCENDING_SIGNS
        or None in (low, high)
    ):
        return None
    return rf"{lower[1]} {ASCENDING_SIGNS[lower[0]]} {match['name1']} {upper[0]} {upper[1]}" if low < high else None
