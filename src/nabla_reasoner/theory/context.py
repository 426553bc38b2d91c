"""Settings, spaces and models that the groups of checks share."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

from ..config import build
from . import gradient_checks, landscapes
from .check import Check, Point
from .gradient_checks import TermRow
from .landscapes import Landscape
from .relaxed_text import RelaxedText

SPACES = ("line", "plane", "text")


class Findings(NamedTuple):
    """Rows of a group: checks, points of curves, and gradient terms."""

    checks: Sequence[Check]
    points: Sequence[Point] = ()
    terms: Sequence[TermRow] = ()


class TheoryContext:
    """The settings of a run and the landscapes they describe, made when first asked for."""

    def __init__(self, settings: dict[str, Any]):
        self.settings, self.seed, self.threads = settings, settings["seed"], settings["threads"]

    @cached_property
    def relaxed_text(self) -> RelaxedText:
        """The two-token text with its models, in float64."""
        text = self.settings["text"]
        _, cell = next(gradient_checks.cells(text["policy"], text["reward"], ["chain_sum"]))
        policy, reward = build.load_models({**cell, "dtype": "float64", "threads": None})
        return RelaxedText(
            policy,
            reward,
            [{"role": "user", "content": text["question"]}],
            prefix=text["prefix"],
            text=text["response"],
            positions=text["positions"],
            others=text["others"],
        )

    @cached_property
    def spaces(self) -> dict[str, Callable[[], Landscape]]:
        """How each landscape is had."""
        mixtures = {name: partial(landscapes.mixture, **self.settings[name]["shape"]) for name in ("line", "plane")}
        return {**mixtures, "text": lambda: self._text}

    @cached_property
    def _text(self) -> Landscape:
        return self.relaxed_text.landscape(self.settings["text"]["nodes"])

    def each(self) -> Iterator[tuple[str, Landscape, dict[str, Any]]]:
        """Name, landscape and settings of each space."""
        for name in SPACES:
            yield name, self.spaces[name](), self.settings[name]

    def stream(self, *numbers: int) -> list[int]:
        """A seed of its own for one place."""
        return [self.seed, *numbers]


def named(check: Check, place: str) -> Check:
    """The same check with its place in the name; `_seen` stays at the end."""
    stem = check.name.removesuffix("_seen")
    return check._replace(name=f"{stem}__{place}" + ("_seen" if stem != check.name else ""))


def common(lab: TheoryContext, own: dict[str, Any]) -> dict[str, Any]:
    return {
        "reward_weight": own["reward_weight"],
        "kl_weight": 1.0,
        "cells": own["cells"],
        "bins": own["bins"],
        "threads": lab.threads,
    }
