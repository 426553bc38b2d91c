"""Plan for reading many texts such that no prefix that some of them share is read twice."""

from collections.abc import Sequence
from typing import NamedTuple


class PlannedText(NamedTuple):
    """How one of several texts is read.

    Attributes:
        source: index of the first text that has the longest prefix shared with an earlier text; None if none has.
        shared: length of that prefix in tokens.
        stored: number of leading tokens that later texts take from this one.
        wave: 0 for a text without a source, otherwise one more than its source's; texts of a wave are read together.
    """

    source: int | None
    shared: int
    stored: int
    wave: int


def plan(texts: Sequence[Sequence[int]]) -> list[PlannedText]:
    """Plan the reading of distinct texts: each takes its longest shared prefix from an earlier text.

    The plan for the first n texts does not depend on the texts after them, except for `stored`.
    """
    # a tree of prefixes: by token, the first text with this prefix, and the branches after it
    root: dict[int, tuple[int, dict]] = {}
    planned: list[PlannedText] = []
    for index, text in enumerate(texts):
        branches, source, shared = root, None, 0
        while shared < len(text) and text[shared] in branches:
            source, branches = branches[text[shared]]
            shared += 1
        for token in text[shared:]:
            branches[token] = (index, {})
            branches = branches[token][1]
        wave = 0 if source is None else planned[source].wave + 1
        planned.append(PlannedText(source, shared, 0, wave))
        if source is not None:
            planned[source] = planned[source]._replace(stored=max(planned[source].stored, shared))
    return planned
