"""Measurements of gradient passes by models of the paper's size with random weights, in bfloat16 on a GPU."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from ..cost import Cost
from ..dto import gradient_passes
from ..engine.sequences import TokenSequence
from ..models.language_models import Policy, RewardModel
from . import memory, plain_passes
from .context import BenchContext, Comparison, Variant
from .evaluations import WEIGHTS, against_evaluation, evaluation
from .timing import interleaved

DTYPE = torch.bfloat16


def utilisation(bench: BenchContext, point: str) -> Comparison:
    """Compare FLOP/s of one gradient evaluation of `point` sequences with those of a large matrix product."""
    policy, reward, sequences = _inputs(bench, point)
    size = bench.settings.paper_size.matrix_size
    product = plain_passes.matrix_product(size, bench.device, DTYPE)
    return against_evaluation(bench, policy, reward, sequences, "matmul", product, Cost(flops=2.0 * size**3))


def seconds_and_memory(bench: BenchContext, point: str) -> Comparison:
    """Compare seconds and memory of one gradient evaluation of `point` sequences with bare passes."""
    policy, reward, sequences = _inputs(bench, point)
    comparison = evaluation(bench, policy, reward, sequences)
    bare = plain_passes.bare_passes(policy, reward, sequences)
    calls: Mapping[str, Callable[[], object]] = {
        "bare": bare,
        "evaluate": lambda: gradient_passes.evaluate(policy, reward, sequences, **WEIGHTS),
    }
    peaks = {name: memory.peak_of(call, bench.device)[0] for name, call in calls.items()}
    return Comparison(*(variant._replace(peak_bytes=peaks[variant.name]) for variant in comparison.variants))


def compiled_passes(bench: BenchContext, point: str) -> Comparison:
    """Compare seconds of bare passes with and without `torch.compile` of every layer.

    Layers share their code, so that one of each model is compiled. The evaluation itself keeps a cache of keys and
    values, whose layer numbers would make torch compile every layer anew.
    """
    policy, reward, sequences = _inputs(bench, point)
    bare = plain_passes.bare_passes(policy, reward, sequences)
    layers = [layer for model in (policy, reward) for layer in model.model.base_model.layers]
    calls = [torch.compile(layer.forward, dynamic=False) for layer in layers]

    def run_compiled(repeat: int) -> None:
        with _replaced(layers, calls):
            bare()

    runs = {"eager": lambda repeat: bare(), "compiled": run_compiled}
    timings = interleaved(runs, bench.settings.repeats, bench.device)
    spent = plain_passes.bare_cost(policy, reward, sequences)
    return Comparison(*(Variant(name, timings[name], spent) for name in runs))


@contextmanager
def _replaced(modules: Sequence[torch.nn.Module], calls: Sequence[Callable[..., object]]) -> Iterator[None]:
    """Let each module compute by its call within the block."""
    for module, call in zip(modules, calls, strict=True):
        module.forward = call
    try:
        yield
    finally:
        for module in modules:
            del module.forward  # the class's method again


def _inputs(bench: BenchContext, point: str) -> tuple[Policy, RewardModel, list[TokenSequence]]:
    """Return the models, made once per run, and random sequences; `point` is their number."""
    policy, reward = bench.paper_size_models
    sequences = plain_passes.random_sequences(policy, reward, bench.settings.paper_size.length, int(point))
    return policy, reward, sequences
