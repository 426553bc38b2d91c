"""The list of the benchmark's cases: what each compares, at which points, and what is hoped for."""

from collections.abc import Callable
from typing import Any, NamedTuple

from . import measurements
from .context import BenchContext, Comparison


class Case(NamedTuple):
    """One case; its measurement is a function of `measurements`.

    Attributes:
        measure: the measurement at one point.
        kind: what is compared (see `verdicts.quantity`).
        title: what is divided by what.
        points: names the points, given the settings.
        weight: seconds on two idle cores at scale=tiny; for the time left only.
        targets: by scale, the largest ratio hoped for.
        small: whether scale=small has this case too.
    """

    measure: Callable[[BenchContext, str], Comparison]
    kind: str
    title: str
    points: Callable[[dict[str, Any]], list[str]]
    weight: float
    targets: dict[str, float]
    small: bool = False


def once(settings: dict[str, Any]) -> list[str]:
    """A case of a single point."""
    return [""]


def cells(settings: dict[str, Any]) -> list[str]:
    """Every policy and task."""
    return [f"{policy}__{task}" for policy in settings["policies"] for task in settings["tasks"]]


def first_policy(settings: dict[str, Any]) -> list[str]:
    """Every task, one policy."""
    return [f"{settings['policies'][0]}__{task}" for task in settings["tasks"]]


def listed(key: str) -> Callable[[dict[str, Any]], list[str]]:
    """The numbers of a setting."""
    return lambda settings: [str(value) for value in settings[key]]


CASES = {
    "gradient_flops": Case(
        measurements.gradient_flops,
        "flops",
        "FLOPs of gradient evaluations: fast / plain engine with a cache within each DTO call (Alg. 4)",
        cells,
        weight=35,
        targets={"tiny": 1 / 8, "small": 1 / 8},
        small=True,
    ),
    "printed_gradient_flops": Case(
        measurements.printed_gradient_flops,
        "flops",
        "FLOPs of gradient evaluations: fast / plain engine with one at each of T steps (Alg. 2 as printed)",
        first_policy,
        weight=50,
        targets={"tiny": 1 / 8},
    ),
    "lookup_and_gradient_flops": Case(
        measurements.lookup_and_gradient_flops,
        "flops",
        "FLOPs besides rollouts and scores: fast / plain engine (Alg. 4), its look-up passes included",
        cells,
        weight=1,  # the solutions of the case before
        targets={"tiny": 1 / 8, "small": 1 / 8},
        small=True,
    ),
    "best_of_n_flops": Case(
        measurements.best_of_n_flops,
        "flops",
        "all FLOPs: ∇-Reasoner, N_max = 8, one pass / Best-of-8 (paper: 25.8)",
        cells,
        weight=25,
        targets={"tiny": 1.5, "small": 1.5},
        small=True,
    ),
    "best_of_n_seconds": Case(
        measurements.best_of_n_seconds,
        "seconds",
        "seconds: ∇-Reasoner, N_max = 8, one pass / Best-of-8, one batch",
        cells,
        weight=165,
        targets={"tiny": 1.5},
    ),
    "engine_seconds": Case(
        measurements.engine_seconds,
        "seconds",
        "seconds per problem: fast engine on a batch / plain engine, one by one",
        first_policy,
        weight=52,
        targets={"tiny": 1 / 15, "small": 1 / 6},
        small=True,
    ),
    "evaluation_seconds": Case(
        measurements.evaluation_seconds,
        "seconds",
        "seconds: one gradient evaluation of a batch / bare passes",
        once,
        weight=5,
        targets={"tiny": 1.3, "small": 1.3},
        small=True,
    ),
    "dto_memory": Case(
        measurements.dto_memory,
        "peak_bytes",
        "peak bytes besides weights: one DTO call / bare passes",
        once,
        weight=55,
        targets={"tiny": 1.25},
    ),
    "evaluation_against_decoding": Case(
        measurements.evaluation_against_decoding,
        "seconds",
        "seconds: one gradient evaluation / decoding the same sequence token by token",
        listed("decoded_lengths"),
        weight=22,
        targets={},
    ),
    "evaluation_by_length": Case(
        measurements.evaluation_by_length,
        "seconds",
        "growth of the seconds with length: one gradient evaluation / bare passes",
        listed("growth_lengths"),
        weight=15,
        targets={"tiny": 1.0},
    ),
    "evaluation_by_batch": Case(
        measurements.evaluation_by_batch,
        "seconds",
        "growth of the seconds with the batch: one gradient evaluation / bare passes",
        listed("growth_batches"),
        weight=18,
        targets={"tiny": 1.0},
    ),
    "utilisation": Case(
        measurements.utilisation,
        "rate",
        "FLOP/s: one gradient evaluation by models of 7 B and 4 B / a large matrix product",
        once,
        weight=1,
        targets={},
    ),
}
