"""Measurements of one gradient evaluation, beside passes of the same models and decoding."""

from collections.abc import Callable

from .. import cost
from ..config import build
from ..cost import Cost
from ..dto import gradient_passes
from ..engine import generation
from ..engine.sampling import keyed_uniforms
from ..engine.sequences import TokenSequence
from ..models.language_models import Policy, RewardModel
from ..reporting.method_names import NABLA_REASONER
from . import plain_passes
from .context import BenchContext, Comparison, Variant
from .timing import interleaved

WEIGHTS = {"reward_weight": 1.0, "nll_weight": 0.001}  # the released code's; timings do not depend on them


def evaluation(bench: BenchContext, policy: Policy, reward: RewardModel, sequences: list[TokenSequence]) -> Comparison:
    """Compare seconds of one gradient evaluation, without caches, with bare passes of the same models."""
    bare = plain_passes.bare_passes(policy, reward, sequences)
    bare_cost = plain_passes.bare_cost(policy, reward, sequences)
    return against_evaluation(bench, policy, reward, sequences, "bare", bare, bare_cost)


def against_evaluation(
    bench: BenchContext,
    policy: Policy,
    reward: RewardModel,
    sequences: list[TokenSequence],
    name: str,
    baseline: Callable[[], object],
    baseline_cost: Cost,
) -> Comparison:
    """Time a baseline and one gradient evaluation of the sequences in turns."""
    spent: list[Cost] = []

    def evaluate(repeat: int) -> None:
        spent[:] = [gradient.cost for gradient in gradient_passes.evaluate(policy, reward, sequences, **WEIGHTS)]

    runs = {name: lambda repeat: baseline(), "evaluate": evaluate}
    seconds = interleaved(runs, bench.settings.repeats, bench.device)
    return Comparison(
        Variant(name, seconds[name], baseline_cost),
        Variant("evaluate", seconds["evaluate"], cost.total(spent)),
    )


def evaluation_seconds(bench: BenchContext, point: str) -> Comparison:
    """Compare one evaluation of a batch of answers with bare passes."""
    return evaluation(bench, *bench.sequences(bench.settings.sequences))


def evaluation_by_length(bench: BenchContext, point: str) -> Comparison:
    """Compare one evaluation of one sequence of a given length with bare passes."""
    policy, reward = bench.models(bench.settings.policies[0])
    return evaluation(bench, policy, reward, plain_passes.random_sequences(policy, reward, int(point), 1))


def evaluation_by_batch(bench: BenchContext, point: str) -> Comparison:
    """Compare one evaluation of a given number of sequences of one length with bare passes."""
    policy, reward = bench.models(bench.settings.policies[0])
    length = bench.settings.growth_length
    return evaluation(bench, policy, reward, plain_passes.random_sequences(policy, reward, length, int(point)))


def evaluation_against_decoding(bench: BenchContext, point: str) -> Comparison:
    """Compare seconds of one evaluation of a whole sequence with decoding that sequence token by token."""
    settings = bench.settings
    policy, reward = bench.models(settings.policies[0])
    problem, length = bench.problems(settings.tasks[0], 1)[0], int(point)
    policy_prompt, reward_prompt = policy.prompt_ids(problem.messages), reward.prompt_ids(problem.messages)
    method = build.build_method(bench.cell(settings.policies[0], settings.tasks[0], NABLA_REASONER))
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

    seconds = interleaved({"decoding": decode, "evaluate": evaluate}, settings.repeats, bench.device)
    decoding_cost = [
        cost.prefill(policy.size, cost.one_pass(0, len(policy_prompt))),
        cost.decoding(policy.size, cost.decoded(len(policy_prompt), length)),
    ]
    return Comparison(
        Variant("decoding", seconds["decoding"], cost.total(decoding_cost)),
        Variant("evaluate", seconds["evaluate"], cost.total(spent)),
    )
