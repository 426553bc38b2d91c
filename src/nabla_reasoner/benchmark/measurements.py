"""Measurements of ∇-Reasoner beside the plain engine, Best-of-N and bare passes: a function for each case."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..cost import Cost
from ..reporting.method_names import BEST_OF_N, NABLA_REASONER, PREFIX
from ..types import Problem, Solution
from . import memory, profile
from .context import BenchContext, Comparison, Variant, mean, mean_cost
from .timing import WARM_UP, interleaved

REFERENCE = "method.engine=reference"
UNCACHED = "method.gradient_caching=false"


class EnginePair(NamedTuple):
    """Solutions of the same problems by both engines.

    Attributes:
        by_engine: solutions by engine, "reference" first.
        note: number of equal responses, for the table of points.
        same: whether all responses are equal.
    """

    by_engine: dict[str, list[Solution]]
    note: str
    same: bool


def engines(
    bench: BenchContext,
    point: str,
    count: int,
    *overrides: str,
    method: str = NABLA_REASONER,
    shared: Sequence[str] = (),
) -> EnginePair:
    """Solve the same problems by both engines.

    Args:
        count: number of problems.
        overrides: further settings of the reference engine.
        method: form of ∇-Reasoner.
        shared: settings of both engines.
    """
    policy, task = point.split("__")
    reference = bench.solutions(policy, task, count, method, *shared, REFERENCE, *overrides)
    fast = bench.solutions(policy, task, count, method, *shared)
    same = sum(a.token_ids == b.token_ids for a, b in zip(reference, fast, strict=True))
    note = f"{same} of {count} responses are the same tokens"
    return EnginePair({"reference": reference, "fast": fast}, note, same == count)


def gradient_flops(bench: BenchContext, point: str) -> Comparison:
    """Compare FLOPs of gradient evaluations alone, including the forward passes that fill their caches.

    The reference engine keeps the gradient within a DTO call until a token flips (Alg. 4).
    """
    return _gradient_flops(engines(bench, point, bench.settings.num_problems))


def prefix_gradient_flops(bench: BenchContext, point: str) -> Comparison:
    """Compare the same FLOPs for the prefix form under Table 1's reward.

    The reference engine reads the whole text at every evaluation; the fast one reads one token on a cache.
    """
    shared = (bench.main_reward(point.split("__")[0]),)
    return _gradient_flops(engines(bench, point, bench.settings.num_problems, method=PREFIX, shared=shared))


def printed_gradient_flops(bench: BenchContext, point: str) -> Comparison:
    """Compare the same FLOPs if the reference engine evaluates a gradient at each of T steps (Alg. 2 as printed)."""
    return _gradient_flops(engines(bench, point, bench.settings.printed_problems, UNCACHED))


def _gradient_flops(pair: EnginePair) -> Comparison:
    costs = {name: mean_cost(solutions) for name, solutions in pair.by_engine.items()}
    variants = (
        Variant(name, [spent.seconds], spent._replace(flops=spent.gradient_flops)) for name, spent in costs.items()
    )
    return Comparison(*variants, note=pair.note, valid=pair.same)


def lookup_and_gradient_flops(bench: BenchContext, point: str) -> Comparison:
    """Compare FLOPs of every pass other than a rollout's or the scoring of a response; a look-up's of the layers only.

    These are gradient evaluations, and the forward passes in which the reference engine looks for uncertain positions.
    """
    pair = engines(bench, point, bench.settings.num_problems)
    policy, _ = bench.models(point.split("__")[0])
    variants = []
    for name, solutions in pair.by_engine.items():
        spent = mean_cost(solutions)
        flops = spent.gradient_flops + 2 * policy.size.layers * lookup_tokens(spent, name)
        variants.append(Variant(name, [spent.seconds], spent._replace(flops=flops)))
    return Comparison(*variants, note=pair.note, valid=pair.same)


def lookup_tokens(spent: Cost, engine: str) -> int | float:
    """Return the number of tokens that the policy read outside rollouts and gradient evaluations.

    In the reference engine an evaluation runs backward over all tokens that it reads, so tokens that were only read
    forward are the rest. The fast engine has no such passes: decoding itself yields the policy's uncertainty.
    """
    return spent.policy_forward_tokens - spent.policy_backward_tokens if engine == "reference" else 0


def best_of_n_flops(bench: BenchContext, point: str) -> Comparison:
    """Compare all FLOPs of a problem: prefill, decoding, gradients and scores."""
    return _best_of_n_flops(bench, point, NABLA_REASONER)


def prefix_best_of_n_flops(bench: BenchContext, point: str) -> Comparison:
    """Compare the same FLOPs of the prefix form, under Table 1's reward."""
    return _best_of_n_flops(bench, point, PREFIX, bench.main_reward(point.split("__")[0]))


def _best_of_n_flops(bench: BenchContext, point: str, method: str, *shared: str) -> Comparison:
    policy, task = point.split("__")
    variants = []
    for name in (BEST_OF_N, method):
        spent = mean_cost(bench.solutions(policy, task, bench.settings.batch_problems, name, *shared))
        variants.append(Variant(name, [spent.seconds], spent))
    return Comparison(*variants)


def best_of_n_seconds(bench: BenchContext, point: str) -> Comparison:
    """Compare seconds per problem, one batch of problems solved together by each method."""
    return _best_of_n_seconds(bench, point, NABLA_REASONER)


def prefix_best_of_n_seconds(bench: BenchContext, point: str) -> Comparison:
    """Compare the same seconds of the prefix form, under Table 1's reward."""
    return _best_of_n_seconds(bench, point, PREFIX, bench.main_reward(point.split("__")[0]))


def _best_of_n_seconds(bench: BenchContext, point: str, method: str, *shared: str) -> Comparison:
    policy, task = point.split("__")
    count = bench.settings.batch_problems
    problems = bench.problems(task, count)
    solvers = {name: bench.solver(policy, task, name, *shared) for name in (BEST_OF_N, method)}
    solutions: dict[str, list[Solution]] = {}

    def timed_run(name: str) -> Callable[[int], None]:
        def run(repeat: int) -> None:
            solutions[name] = solvers[name](problems)

        return run

    seconds = interleaved({name: timed_run(name) for name in solvers}, bench.settings.repeats, bench.device)
    variants = (
        Variant(
            name=name,
            seconds=[value / count for value in timings],
            spent=mean_cost(solutions[name]),
            parts=profile.parts(lambda solve=solvers[name]: solve(problems)),
        )
        for name, timings in seconds.items()
    )
    return Comparison(*variants)


def engine_seconds(bench: BenchContext, point: str) -> Comparison:
    """Compare seconds per problem: fast engine on a batch, reference engine on a few of its problems, one by one.

    Every repeat takes the next few problems, so that the reference engine's median covers different ones.
    """
    policy, task = point.split("__")
    batch, few = bench.settings.batch_size, bench.settings.reference_problems
    problems = bench.problems(task, batch)
    spent: dict[str, list[Cost]] = {"reference": [], "fast": []}

    def timed_run(name: str, solve: Callable[[Sequence[Problem]], list[Solution]], count: int) -> Callable[[int], None]:
        def run(repeat: int) -> None:
            if repeat == WARM_UP:  # only a few: all of them can take minutes
                solve(problems[: min(few, 2)])
                return
            selected = [problems[(repeat * few + i) % batch] for i in range(count)]
            spent[name] += [solution.cost for solution in solve(selected)]

        return run

    counts = {"reference": few, "fast": batch}
    solvers = {
        "reference": bench.solver(policy, task, NABLA_REASONER, REFERENCE),
        "fast": bench.solver(policy, task, NABLA_REASONER),
    }
    runs = {name: timed_run(name, solve, counts[name]) for name, solve in solvers.items()}
    seconds = interleaved(runs, bench.settings.repeats, bench.device)
    reference, fast = (
        Variant(name, [value / counts[name] for value in timings], mean(spent[name]))
        for name, timings in seconds.items()
    )
    return Comparison(reference, fast._replace(parts=profile.parts(lambda: solvers["fast"](problems))))


def dto_memory(bench: BenchContext, point: str) -> Comparison:
    """Compare the peak bytes that one DTO call adds with bare passes of the same models over the same tokens."""
    cell = bench.cell(bench.settings.policies[0], bench.settings.tasks[0], NABLA_REASONER)
    shape = bench.settings.memory.shape.model_dump()
    settings = {
        "policy_shape": shape,
        "reward_shape": shape,
        "vocab_size": bench.settings.memory.vocab_size,
        "length": bench.settings.memory.length,
        "num_iterations": cell.method.keywords()["num_iterations"],
        "step_size": cell.method.keywords()["step_size"],
        "device": bench.settings.device,
        "threads": cell.threads,
    }
    variants = []
    for name in memory.VARIANTS:
        result = memory.measure_in_new_process(name, settings)
        spent = Cost(**{field: result[field] for field in Cost._fields})
        variants.append(Variant(name, [result["seconds"]], spent, int(result["peak_bytes"])))
    return Comparison(*variants)
