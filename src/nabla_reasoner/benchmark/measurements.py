"""The cases of the benchmark: what is measured, beside which yardstick, and at which points."""

from collections.abc import Callable, Sequence

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
from .context import BEST_OF_N, NABLA, BenchContext, Comparison, Variant, mean
from .timing import WARM_UP, interleaved

REFERENCE = "method.engine=reference"
UNCACHED = "method.gradient_caching=false"
WEIGHTS = {"reward_weight": 1.0, "nll_weight": 0.001}  # the release's; no time depends on them


def engines(
    bench: BenchContext, place: str, count: int, *overrides: str
) -> tuple[dict[str, list[Solution]], str, bool]:
    """The same problems by both engines; whether they answered alike, in words and as a truth value.

    Args:
        count: number of problems.
        overrides: further settings of the plain engine.
    """
    policy, task = place.split("__")
    by_engine = {
        "reference": bench.solutions(policy, task, count, NABLA, REFERENCE, *overrides),
        "fast": bench.solutions(policy, task, count, NABLA),
    }
    same = sum(a.token_ids == b.token_ids for a, b in zip(*by_engine.values(), strict=True))
    return by_engine, f"{same} of {count} responses are the same tokens", same == count


def gradient_flops(bench: BenchContext, place: str) -> Comparison:
    """FLOPs of gradient evaluations alone, the reading that fills their caches included; the plain engine keeps the
    gradient within a DTO call until a token flips (Alg. 4)."""
    return _gradient_flops(*engines(bench, place, bench.settings["num_problems"]))


def printed_gradient_flops(bench: BenchContext, place: str) -> Comparison:
    """The same where the plain engine evaluates the gradient at each of T steps, as Alg. 2 is printed."""
    return _gradient_flops(*engines(bench, place, bench.settings["printed_problems"], UNCACHED))


def _gradient_flops(by_engine: dict[str, list[Solution]], note: str, valid: bool) -> Comparison:
    spent = {name: mean([s.cost for s in own], len(own)) for name, own in by_engine.items()}
    sides = (Variant(name, [own.seconds], own._replace(flops=own.gradient_flops)) for name, own in spent.items())
    return Comparison(tuple(sides), note, valid)


def lookup_and_gradient_flops(bench: BenchContext, place: str) -> Comparison:
    """FLOPs of every pass that is neither a rollout's nor the scoring of a response: gradient evaluations, and the
    forward passes in which the plain engine looks for uncertain positions."""
    by_engine, note, valid = engines(bench, place, bench.settings["num_problems"])
    policy, _ = bench.models(place.split("__")[0])
    sides = []
    for name, own in by_engine.items():
        spent = mean([s.cost for s in own], len(own))
        flops = spent.gradient_flops + 2 * policy.parameters * lookup_tokens(spent, name)
        sides.append(Variant(name, [spent.seconds], spent._replace(flops=flops)))
    return Comparison(tuple(sides), note, valid)


def lookup_tokens(spent: Cost, engine: str) -> int | float:
    """Tokens that the policy read outside rollouts and gradient evaluations.

    In the plain engine an evaluation goes back over all that it reads, so what was only read forward is the rest. The
    fast engine has no such passes: decoding itself tells where the policy was uncertain.
    """
    return spent.policy_forward_tokens - spent.policy_backward_tokens if engine == "reference" else 0


def best_of_n_flops(bench: BenchContext, place: str) -> Comparison:
    """All FLOPs of a problem: prefill, decoding, gradients and scores."""
    policy, task = place.split("__")
    sides = []
    for name in (BEST_OF_N, NABLA):
        own = bench.solutions(policy, task, bench.settings["batch_problems"], name)
        spent = mean([s.cost for s in own], len(own))
        sides.append(Variant(name, [spent.seconds], spent))
    return Comparison(tuple(sides))


def best_of_n_seconds(bench: BenchContext, place: str) -> Comparison:
    """Seconds per problem, one batch of problems solved together by each method."""
    policy, task = place.split("__")
    count = bench.settings["batch_problems"]
    problems, solved = bench.problems(task, count), {}
    solvers = {name: bench.solver(policy, task, name) for name in (BEST_OF_N, NABLA)}

    def side(name: str) -> Callable[[int], None]:
        def solve(repeat: int) -> None:
            solved[name] = solvers[name](problems)

        return solve

    seconds = interleaved({name: side(name) for name in solvers}, bench.settings["repeats"], bench.device)
    return Comparison(
        tuple(
            Variant(
                name,
                [s / count for s in own],
                mean([s.cost for s in solved[name]], count),
                parts=profile.parts(lambda solve=solvers[name]: solve(problems)),
            )
            for name, own in seconds.items()
        )
    )


def engine_seconds(bench: BenchContext, place: str) -> Comparison:
    """Seconds per problem: the fast engine on a batch, the plain one on a few of its problems, one by one.

    Every repeat takes the next few problems, so that the plain engine's median is of more than one handful.
    """
    policy, task = place.split("__")
    batch, few = bench.settings["batch_size"], bench.settings["reference_problems"]
    problems = bench.problems(task, batch)
    counts: dict[str, list[int]] = {"reference": [], "fast": []}
    spent: dict[str, list[Cost]] = {"reference": [], "fast": []}

    def side(name: str, solve: Callable[[Sequence[Problem]], list], take: int) -> Callable[[int], None]:
        def run(repeat: int) -> None:
            if repeat == WARM_UP:  # a few, since all of them can take minutes
                solve(problems[: min(few, 2)])
                return
            chosen = [problems[(repeat * few + i) % batch] for i in range(take)]
            counts[name].append(take)
            spent[name] += [s.cost for s in solve(chosen)]

        return run

    fast = bench.solver(policy, task, NABLA)
    sides = {
        "reference": side("reference", bench.solver(policy, task, NABLA, REFERENCE), few),
        "fast": side("fast", fast, batch),
    }
    seconds = interleaved(sides, bench.settings["repeats"], bench.device)
    plain, own = (
        Variant(name, [s / n for s, n in zip(own, counts[name], strict=True)], mean(spent[name], len(spent[name])))
        for name, own in seconds.items()
    )
    return Comparison((plain, own._replace(parts=profile.parts(lambda: fast(problems)))))


def evaluation(bench: BenchContext, policy: Policy, reward: RewardModel, sequences: list[TokenSequence]) -> Comparison:
    """One gradient evaluation of whole sequences, nothing cached, beside bare passes of the same models."""
    bare, spent = plain_passes.bare_passes(policy, reward, sequences), []

    def evaluate(repeat: int) -> None:
        spent[:] = [g.cost for g in gradient_passes.evaluate(policy, reward, sequences, **WEIGHTS)]

    sides = {"bare": lambda repeat: bare(), "evaluate": evaluate}
    seconds = interleaved(sides, bench.settings["repeats"], bench.device)
    return Comparison(
        (
            Variant("bare", seconds["bare"], plain_passes.bare_cost(policy, reward, sequences)),
            Variant("evaluate", seconds["evaluate"], cost.total(spent)),
        )
    )


def evaluation_seconds(bench: BenchContext, place: str) -> Comparison:
    """Seconds of one evaluation of a batch of answers."""
    return evaluation(bench, *bench.sequences(bench.settings["sequences"]))


def evaluation_by_length(bench: BenchContext, place: str) -> Comparison:
    """Seconds of one evaluation of one sequence of a given length."""
    policy, reward = bench.models(bench.settings["policies"][0])
    return evaluation(bench, policy, reward, plain_passes.random_sequences(policy, reward, int(place), 1))


def evaluation_by_batch(bench: BenchContext, place: str) -> Comparison:
    """Seconds of one evaluation of a given number of sequences of one length."""
    policy, reward = bench.models(bench.settings["policies"][0])
    length = bench.settings["growth_length"]
    return evaluation(bench, policy, reward, plain_passes.random_sequences(policy, reward, length, int(place)))


def evaluation_against_decoding(bench: BenchContext, place: str) -> Comparison:
    """Seconds of one evaluation of a whole sequence, beside decoding that sequence token by token."""
    settings = bench.settings
    policy, reward = bench.models(settings["policies"][0])
    problem, length = bench.problems(settings["tasks"][0], 1)[0], int(place)
    prompts = policy.prompt_ids(problem.messages), reward.prompt_ids(problem.messages)
    method = build.build_method(bench.cell(settings["policies"][0], settings["tasks"][0], NABLA))
    # no end token: an answer of exactly this length, whatever it says; no context limit is checked here
    endless = Policy(policy.model, policy.tokenizer, policy.name, eos_ids=[])
    noise, drawn, spent = keyed_uniforms(0, problem.id, 0, "rollout 0", length), [], []

    def decode(repeat: int) -> None:
        (rollout,) = generation.sample(endless, [prompts[0]], [noise], method.rollout_sampling, [length])
        drawn[:] = rollout.token_ids

    def evaluate(repeat: int) -> None:
        (gradient,) = gradient_passes.evaluate(policy, reward, [TokenSequence(*prompts, [], list(drawn))], **WEIGHTS)
        spent[:] = [gradient.cost]

    seconds = interleaved({"decoding": decode, "evaluate": evaluate}, settings["repeats"], bench.device)
    read = [cost.prefill(policy.parameters, len(prompts[0])), cost.decoding(policy.parameters, length)]
    return Comparison(
        (
            Variant("decoding", seconds["decoding"], cost.total(read)),
            Variant("evaluate", seconds["evaluate"], cost.total(spent)),
        )
    )


def dto_memory(bench: BenchContext, place: str) -> Comparison:
    """Bytes that one DTO call adds at its peak, beside bare passes of the same models over the same tokens."""
    cell = bench.cell(bench.settings["policies"][0], bench.settings["tasks"][0], NABLA)
    shape = bench.settings["memory"]["shape"]
    given = {
        "policy_shape": shape,
        "reward_shape": shape,
        "vocab_size": bench.settings["memory"]["vocab_size"],
        "length": bench.settings["memory"]["length"],
        "num_iterations": cell["method"]["num_iterations"],
        "step_size": cell["method"]["step_size"],
        "device": bench.settings["device"],
        "threads": cell["threads"],
    }
    sides = []
    for name in memory.SIDES:
        result = memory.in_own_process(name, given)
        spent = Cost(**{field: result[field] for field in Cost._fields})
        sides.append(Variant(name, [result["seconds"]], spent, int(result["peak_bytes"])))
    return Comparison(tuple(sides))


def utilisation(bench: BenchContext, place: str) -> Comparison:
    """FLOP/s of one gradient evaluation by models of the paper's size, beside a large matrix product's."""
    own, half = bench.settings["utilisation"], torch.bfloat16
    policy, reward = random_init.random_models(
        own["policy_shape"], own["reward_shape"], own["vocab_size"], "classifier", bench.device, half
    )
    sequences, spent = plain_passes.random_sequences(policy, reward, own["length"], 1), []
    product = plain_passes.matrix_product(own["matrix_size"], bench.device, half)

    def evaluate(repeat: int) -> None:
        spent[:] = [g.cost for g in gradient_passes.evaluate(policy, reward, sequences, **WEIGHTS)]

    sides = {"matmul": lambda repeat: product(), "evaluate": evaluate}
    seconds = interleaved(sides, bench.settings["repeats"], bench.device)
    return Comparison(
        (
            Variant("matmul", seconds["matmul"], Cost(flops=2.0 * own["matrix_size"] ** 3)),
            Variant("evaluate", seconds["evaluate"], cost.total(spent)),
        )
    )
