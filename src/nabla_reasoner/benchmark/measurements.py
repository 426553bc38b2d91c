"""Measurements of the benchmark's cases: one function each, from a point to a comparison with a baseline."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .. import cost
from ..config import build
from ..cost import Cost
from ..dto import gradient_passes
from ..engine import generation
from ..engine.sampling import keyed_uniforms
from ..engine.sequences import TokenSequence
from ..models import random_init
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from . import memory, plain_passes, profile
from .context import BEST_OF_N, NABLA, PREFIX, BenchContext, Comparison, Variant, mean, mean_cost
from .timing import WARM_UP, interleaved

REFERENCE = "method.engine=reference"
UNCACHED = "method.gradient_caching=false"
WEIGHTS = {"reward_weight": 1.0, "nll_weight": 0.001}  # the released code's; timings do not depend on them


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
    bench: BenchContext, point: str, count: int, *overrides: str, method: str = NABLA, shared: Sequence[str] = ()
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
    return _gradient_flops(engines(bench, point, bench.settings["num_problems"]))


def prefix_gradient_flops(bench: BenchContext, point: str) -> Comparison:
    """Compare the same FLOPs for the prefix form under Table 1's reward.

    The reference engine reads the whole text at every evaluation; the fast one reads one token on a cache.
    """
    shared = (bench.main_reward(point.split("__")[0]),)
    return _gradient_flops(engines(bench, point, bench.settings["num_problems"], method=PREFIX, shared=shared))


def printed_gradient_flops(bench: BenchContext, point: str) -> Comparison:
    """Compare the same FLOPs if the reference engine evaluates a gradient at each of T steps (Alg. 2 as printed)."""
    return _gradient_flops(engines(bench, point, bench.settings["printed_problems"], UNCACHED))


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
    pair = engines(bench, point, bench.settings["num_problems"])
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
    return _best_of_n_flops(bench, point, NABLA)


def prefix_best_of_n_flops(bench: BenchContext, point: str) -> Comparison:
    """Compare the same FLOPs of the prefix form, under Table 1's reward."""
    return _best_of_n_flops(bench, point, PREFIX, bench.main_reward(point.split("__")[0]))


def _best_of_n_flops(bench: BenchContext, point: str, method: str, *shared: str) -> Comparison:
    policy, task = point.split("__")
    variants = []
    for name in (BEST_OF_N, method):
        spent = mean_cost(bench.solutions(policy, task, bench.settings["batch_problems"], name, *shared))
        variants.append(Variant(name, [spent.seconds], spent))
    return Comparison(*variants)


def best_of_n_seconds(bench: BenchContext, point: str) -> Comparison:
    """Compare seconds per problem, one batch of problems solved together by each method."""
    return _best_of_n_seconds(bench, point, NABLA)


def prefix_best_of_n_seconds(bench: BenchContext, point: str) -> Comparison:
    """Compare the same seconds of the prefix form, under Table 1's reward."""
    return _best_of_n_seconds(bench, point, PREFIX, bench.main_reward(point.split("__")[0]))


def _best_of_n_seconds(bench: BenchContext, point: str, method: str, *shared: str) -> Comparison:
    policy, task = point.split("__")
    count = bench.settings["batch_problems"]
    problems = bench.problems(task, count)
    solvers = {name: bench.solver(policy, task, name, *shared) for name in (BEST_OF_N, method)}
    solutions: dict[str, list[Solution]] = {}

    def timed_run(name: str) -> Callable[[int], None]:
        def run(repeat: int) -> None:
            solutions[name] = solvers[name](problems)

        return run

    seconds = interleaved({name: timed_run(name) for name in solvers}, bench.settings["repeats"], bench.device)
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
    batch, few = bench.settings["batch_size"], bench.settings["reference_problems"]
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
    solvers = {"reference": bench.solver(policy, task, NABLA, REFERENCE), "fast": bench.solver(policy, task, NABLA)}
    runs = {name: timed_run(name, solve, counts[name]) for name, solve in solvers.items()}
    seconds = interleaved(runs, bench.settings["repeats"], bench.device)
    reference, fast = (
        Variant(name, [value / counts[name] for value in timings], mean(spent[name]))
        for name, timings in seconds.items()
    )
    return Comparison(reference, fast._replace(parts=profile.parts(lambda: solvers["fast"](problems))))


def evaluation(bench: BenchContext, policy: Policy, reward: RewardModel, sequences: list[TokenSequence]) -> Comparison:
    """Compare seconds of one gradient evaluation, without caches, with bare passes of the same models."""
    bare = plain_passes.bare_passes(policy, reward, sequences)
    bare_cost = plain_passes.bare_cost(policy, reward, sequences)
    return _against_evaluation(bench, policy, reward, sequences, "bare", bare, bare_cost)


def _against_evaluation(
    bench: BenchContext,
    policy: Policy,
    reward: RewardModel,
    sequences: list[TokenSequence],
    name: str,
    baseline: Callable[[], Any],
    baseline_cost: Cost,
) -> Comparison:
    """Time a baseline and one gradient evaluation of the sequences in turns."""
    spent: list[Cost] = []

    def evaluate(repeat: int) -> None:
        spent[:] = [gradient.cost for gradient in gradient_passes.evaluate(policy, reward, sequences, **WEIGHTS)]

    runs = {name: lambda repeat: baseline(), "evaluate": evaluate}
    seconds = interleaved(runs, bench.settings["repeats"], bench.device)
    return Comparison(
        Variant(name, seconds[name], baseline_cost),
        Variant("evaluate", seconds["evaluate"], cost.total(spent)),
    )


def evaluation_seconds(bench: BenchContext, point: str) -> Comparison:
    """Compare one evaluation of a batch of answers with bare passes."""
    return evaluation(bench, *bench.sequences(bench.settings["sequences"]))


def evaluation_by_length(bench: BenchContext, point: str) -> Comparison:
    """Compare one evaluation of one sequence of a given length with bare passes."""
    policy, reward = bench.models(bench.settings["policies"][0])
    return evaluation(bench, policy, reward, plain_passes.random_sequences(policy, reward, int(point), 1))


def evaluation_by_batch(bench: BenchContext, point: str) -> Comparison:
    """Compare one evaluation of a given number of sequences of one length with bare passes."""
    policy, reward = bench.models(bench.settings["policies"][0])
    length = bench.settings["growth_length"]
    return evaluation(bench, policy, reward, plain_passes.random_sequences(policy, reward, length, int(point)))


def evaluation_against_decoding(bench: BenchContext, point: str) -> Comparison:
    """Compare seconds of one evaluation of a whole sequence with decoding that sequence token by token."""
    settings = bench.settings
    policy, reward = bench.models(settings["policies"][0])
    problem, length = bench.problems(settings["tasks"][0], 1)[0], int(point)
    policy_prompt, reward_prompt = policy.prompt_ids(problem.messages), reward.prompt_ids(problem.messages)
    method = build.build_method(bench.cell(settings["policies"][0], settings["tasks"][0], NABLA))
    # no end token: an answer of exactly this length, whatever its text; no context limit is checked here
    endless = Policy(policy.model, policy.tokenizer, policy.name, eos_ids=[])
    noise = keyed_uniforms(0, problem.id, 0, "rollout 0", length)
    response: list[int] = []
    spent: list[Cost] = []

    def decode(repeat: int) -> None:
        (rollout,) = generation.sample(endless, [policy_prompt], [noise], method.settings.rollout, [length])
        response[:] = rollout.token_ids

    def evaluate(repeat: int) -> None:
        sequence = TokenSequence(policy_prompt, reward_prompt, prefix=[], rollout=list(response))
        (gradient,) = gradient_passes.evaluate(policy, reward, [sequence], **WEIGHTS)
        spent[:] = [gradient.cost]

    seconds = interleaved({"decoding": decode, "evaluate": evaluate}, settings["repeats"], bench.device)
    decoding_cost = [
        cost.prefill(policy.size, cost.one_pass(0, len(policy_prompt))),
        cost.decoding(policy.size, cost.decoded(len(policy_prompt), length)),
    ]
    return Comparison(
        Variant("decoding", seconds["decoding"], cost.total(decoding_cost)),
        Variant("evaluate", seconds["evaluate"], cost.total(spent)),
    )


def dto_memory(bench: BenchContext, point: str) -> Comparison:
    """Compare the peak bytes that one DTO call adds with bare passes of the same models over the same tokens."""
    cell = bench.cell(bench.settings["policies"][0], bench.settings["tasks"][0], NABLA)
    shape = bench.settings["memory"]["shape"]
    settings = {
        "policy_shape": shape,
        "reward_shape": shape,
        "vocab_size": bench.settings["memory"]["vocab_size"],
        "length": bench.settings["memory"]["length"],
        "num_iterations": cell.method.keywords()["num_iterations"],
        "step_size": cell.method.keywords()["step_size"],
        "device": bench.settings["device"],
        "threads": cell.threads,
    }
    variants = []
    for name in memory.VARIANTS:
        result = memory.measure_in_new_process(name, settings)
        spent = Cost(**{field: result[field] for field in Cost._fields})
        variants.append(Variant(name, [result["seconds"]], spent, int(result["peak_bytes"])))
    return Comparison(*variants)


def utilisation(bench: BenchContext, point: str) -> Comparison:
    """Compare FLOP/s of one gradient evaluation by models of the paper's size with a large matrix product."""
    settings, dtype = bench.settings["utilisation"], torch.bfloat16
    policy, reward = random_init.random_models(
        settings["policy_shape"], settings["reward_shape"], settings["vocab_size"], "classifier", bench.device, dtype
    )
    sequences = plain_passes.random_sequences(policy, reward, settings["length"], 1)
    size = settings["matrix_size"]
    product = plain_passes.matrix_product(size, bench.device, dtype)
    return _against_evaluation(bench, policy, reward, sequences, "matmul", product, Cost(flops=2.0 * size**3))
