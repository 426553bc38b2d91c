"""The benchmark's cases: measurement, compared quantity, points, and target ratios."""

from collections.abc import Callable
from typing import NamedTuple

from ..config.settings import BenchSettings
from . import evaluations, measurements, paper_size, served_sampling
from .context import BenchContext, Comparison


class Case(NamedTuple):
    """One case of the benchmark.

    Attributes:
        measure: measurement at one point, a function of `measurements`.
        kind: quantity that is compared (see `results.quantity`).
        title: description of the ratio.
        points: function from the settings to the names of the points.
        weight: seconds on two idle cores at scale=tiny; used for the estimate of the time left only.
        targets: largest acceptable ratio, by scale.
        small: whether scale=small has this case too.
        tiny: whether scale=tiny has it.
        gpu: whether it needs an NVIDIA GPU.
    """

    measure: Callable[[BenchContext, str], Comparison]
    kind: str
    title: str
    points: Callable[[BenchSettings], list[str]]
    weight: float
    targets: dict[str, float]
    small: bool = False
    tiny: bool = True
    gpu: bool = False


def single_point(settings: BenchSettings) -> list[str]:
    """Return the one, unnamed point."""
    return [""]


def cells(settings: BenchSettings) -> list[str]:
    """Return one point per policy and task."""
    return [f"{policy}__{task}" for policy in settings.policies for task in settings.tasks]


def first_policy(settings: BenchSettings) -> list[str]:
    """Return one point per task, with the first policy."""
    return [f"{settings.policies[0]}__{task}" for task in settings.tasks]


def values_of(key: str) -> Callable[[BenchSettings], list[str]]:
    """Return a function that gives one point per value of a setting."""
    return lambda settings: [str(value) for value in getattr(settings, key)]


def paper_size_batches(settings: BenchSettings) -> list[str]:
    """Return the numbers of sequences that models of the paper's size read at once."""
    return [str(count) for count in settings.paper_size.batches]


CASES = {
    "gradient_flops": Case(
        measurements.gradient_flops,
        "flops",
        "FLOPs of gradient evaluations: fast / reference engine with a cache within each DTO call (Alg. 4)",
        cells,
        weight=35,
        targets={"tiny": 1 / 8, "small": 1 / 8},
        small=True,
    ),
    "printed_gradient_flops": Case(
        measurements.printed_gradient_flops,
        "flops",
        "FLOPs of gradient evaluations: fast / reference engine with one at each of T steps (Alg. 2 as printed)",
        first_policy,
        weight=50,
        targets={"tiny": 1 / 8},
    ),
    "lookup_and_gradient_flops": Case(
        measurements.lookup_and_gradient_flops,
        "flops",
        "FLOPs without rollouts and scores: fast / reference engine (Alg. 4), its look-up passes included",
        cells,
        weight=1,  # reuses the solutions of gradient_flops
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
    "prefix_gradient_flops": Case(
        measurements.prefix_gradient_flops,
        "flops",
        "FLOPs of gradient evaluations in prefix form, Table 1's reward: fast / reference engine",
        cells,
        weight=60,
        targets={"tiny": 1 / 8},
    ),
    "prefix_best_of_n_flops": Case(
        measurements.prefix_best_of_n_flops,
        "flops",
        "all FLOPs, Table 1's reward: ∇-Reasoner in prefix form / Best-of-8",
        cells,
        weight=25,
        targets={"tiny": 0.6},
    ),
    "prefix_best_of_n_seconds": Case(
        measurements.prefix_best_of_n_seconds,
        "seconds",
        "seconds, Table 1's reward: ∇-Reasoner in prefix form / Best-of-8, one batch",
        cells,
        weight=165,
        targets={"tiny": 0.7},
    ),
    "engine_seconds": Case(
        measurements.engine_seconds,
        "seconds",
        "seconds per problem: fast engine on a batch / reference engine, one by one",
        first_policy,
        weight=52,
        targets={"tiny": 1 / 15, "small": 1 / 6},
        small=True,
    ),
    "evaluation_seconds": Case(
        evaluations.evaluation_seconds,
        "seconds",
        "seconds: one gradient evaluation of a batch / bare passes",
        single_point,
        weight=5,
        targets={"tiny": 1.3, "small": 1.3},
        small=True,
    ),
    "sampling_rate": Case(
        served_sampling.sampling_rate,
        "tokens",
        "tokens per second of rollouts: vLLM / Hugging Face's engine, the same prompts and lengths",
        first_policy,
        weight=120,
        targets={},
        small=True,
        tiny=False,  # vLLM takes no heads of 28
    ),
    "dto_memory": Case(
        measurements.dto_memory,
        "peak_bytes",
        "peak bytes without weights: one DTO call / bare passes",
        single_point,
        weight=55,
        targets={"tiny": 1.25},
    ),
    "evaluation_against_decoding": Case(
        evaluations.evaluation_against_decoding,
        "seconds",
        "seconds: one gradient evaluation / decoding the same sequence token by token",
        values_of("decoded_lengths"),
        weight=22,
        targets={},
    ),
    "evaluation_by_length": Case(
        evaluations.evaluation_by_length,
        "seconds",
        "growth of the seconds with length: one gradient evaluation / bare passes",
        values_of("growth_lengths"),
        weight=15,
        targets={"tiny": 1.0},
    ),
    "evaluation_by_batch": Case(
        evaluations.evaluation_by_batch,
        "seconds",
        "growth of the seconds with the batch: one gradient evaluation / bare passes",
        values_of("growth_batches"),
        weight=18,
        targets={"tiny": 1.0},
    ),
    "utilisation": Case(
        paper_size.utilisation,
        "rate",
        "FLOP/s: one gradient evaluation by models of 7 B and 4 B / a large matrix product",
        paper_size_batches,
        weight=1,
        targets={},
        gpu=True,
    ),
    "paper_size_seconds": Case(
        paper_size.seconds_and_memory,
        "seconds",
        "seconds: one gradient evaluation / bare passes, models of 7 B and 4 B",
        paper_size_batches,
        weight=1,
        targets={},
        gpu=True,
    ),
    "paper_size_memory": Case(
        paper_size.seconds_and_memory,
        "peak_bytes",
        "peak bytes without weights: one gradient evaluation / bare passes, models of 7 B and 4 B",
        lambda settings: paper_size_batches(settings)[:1],
        weight=1,
        targets={},
        gpu=True,
    ),
    "compiled_passes": Case(
        paper_size.compiled_passes,
        "seconds",
        "seconds: bare passes with torch.compile of every layer / without, models of 7 B and 4 B",
        lambda settings: paper_size_batches(settings)[:1],
        weight=1,
        targets={},
        gpu=True,
    ),
}
