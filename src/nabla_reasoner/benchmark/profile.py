"""Where the time of a method goes: seconds of its parts under Python's own profiler."""

import cProfile
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from ..decoding.gradient_reuse import GradientReuse
from ..dto import batched, gradient_passes
from ..engine import generation, scoring
from ..engine.decoding_cache import DecodingCache
from ..engine.sequences import ModelCaches


class Part(NamedTuple):
    """One kind of work.

    Attributes:
        seconds: spent on it; the profiler's own overhead, which falls on Python and not on arithmetic, included.
        share: of the seconds of everything, in [0, 1].
        calls: how often: decoding steps, passes, copies, or rounds of DTO; 0 for the rest.
    """

    seconds: float
    share: float
    calls: int


class _Kind(NamedTuple):
    """Functions whose seconds are added, functions within them that count elsewhere, and the one whose calls count."""

    functions: tuple[Callable, ...]
    without: tuple[Callable, ...]
    counted: Callable


KINDS = {
    "rollouts": _Kind((generation.sample,), (), DecodingCache.open_column),
    "gradient passes": _Kind((gradient_passes.evaluate,), (), gradient_passes.evaluate),
    "scores": _Kind((scoring.rewards,), (), scoring.rewards),
    "DTO rows": _Kind(
        (batched.BatchedDescent.start, batched.BatchedDescent.proceed),
        (GradientReuse.evaluate_flips,),
        batched.BatchedDescent.proceed,
    ),
    "cache copies": _Kind((ModelCaches.copy,), (), ModelCaches.copy),
}
REST = "the rest"


def parts(function: Callable[[], Any]) -> dict[str, Part]:
    """Call a function that solves problems; its parts by name, those of `KINDS` and the rest."""
    profiler = cProfile.Profile()
    profiler.runcall(_whole, function)
    entries = {entry.code: entry for entry in profiler.getstats()}

    def seconds(each: Callable) -> float:
        entry = entries.get(inspect.unwrap(each).__code__)
        return entry.totaltime if entry else 0.0

    def calls(each: Callable) -> int:
        entry = entries.get(inspect.unwrap(each).__code__)
        return entry.callcount if entry else 0

    whole, found = seconds(_whole), {}
    for name, kind in KINDS.items():
        spent = sum(map(seconds, kind.functions)) - sum(map(seconds, kind.without))
        found[name] = Part(spent, spent / whole, calls(kind.counted))
    rest = whole - sum(part.seconds for part in found.values())
    return {**found, REST: Part(rest, rest / whole, 0)}


def _whole(function: Callable[[], Any]) -> None:
    function()
