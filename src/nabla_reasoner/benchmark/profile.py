"""Profile of a method: seconds of its parts under Python's own profiler."""

import cProfile
import inspect
from collections.abc import Callable
from typing import NamedTuple

from ..decoding.gradient_reuse import GradientReuse
from ..dto import batched, gradient_passes
from ..engine import generation, scoring
from ..engine.decoding_cache import DecodingCache
from ..engine.sequences import ModelCaches


class Part(NamedTuple):
    """One kind of work.

    Attributes:
        seconds: time spent, including the profiler's overhead, which slows Python down and not arithmetic.
        share: fraction of the total seconds, in [0, 1].
        calls: number of decoding steps, passes, copies, or rounds of DTO; 0 for the rest.
    """

    seconds: float
    share: float
    calls: int


class _Kind(NamedTuple):
    """Functions of one kind of work.

    Attributes:
        functions: functions whose seconds are added.
        without: functions called within them whose seconds are subtracted, because another kind counts them.
        counted: function whose calls are counted.
    """

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


def parts(function: Callable[[], object]) -> dict[str, Part]:
    """Call a function that solves problems and return its parts by name: those of `KINDS` and the rest."""
    profiler = cProfile.Profile()
    profiler.runcall(_whole, function)
    entries = {entry.code: entry for entry in profiler.getstats()}

    def seconds(function: Callable) -> float:
        entry = entries.get(inspect.unwrap(function).__code__)
        return entry.totaltime if entry else 0.0

    def calls(function: Callable) -> int:
        entry = entries.get(inspect.unwrap(function).__code__)
        return entry.callcount if entry else 0

    total = seconds(_whole)
    by_kind = {}
    for name, kind in KINDS.items():
        spent = sum(map(seconds, kind.functions)) - sum(map(seconds, kind.without))
        by_kind[name] = Part(spent, spent / total, calls(kind.counted))
    rest = total - sum(part.seconds for part in by_kind.values())
    return {**by_kind, REST: Part(rest, rest / total, 0)}


def _whole(function: Callable[[], object]) -> None:
    function()
