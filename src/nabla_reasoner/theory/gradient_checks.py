"""The checks of the gradient facts as rows: Prop. C.1, Eq. 25, and the straight-through estimator's bias."""

import importlib.util
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..config import build, compose
from ..engine import generation
from ..engine.sampling import Sampling, keyed_uniforms
from ..models import random_init
from ..models.language_models import Policy, RewardModel
from ..models.tokenizers import load_tokenizer
from ..types import Problem
from . import estimators as estimator_samples
from . import gradient_terms
from .check import Check, Point, seen

ROUNDING = 1e-10  # of float64 sums over some hundred thousand terms, relative to the largest


class TermRow(NamedTuple):
    """One row of terms.csv: norms of the three terms at one position of one response, and their shares of the sum.

    Attributes:
        position: from 0.
        weights: "eq2" (λ = ν = 1) or "released" (λ = 1, ν = 0.001).
        space: "y" for ∂L/∂y, "z" for its part in ∂L/∂z (Eq. 25).
    """

    policy: str
    reward: str
    task: str
    problem_id: str
    weights: str
    space: str
    length: int
    position: int
    prefix: float
    postfix: float
    reward_norm: float
    prefix_share: float
    postfix_share: float
    reward_share: float


WEIGHTS = {
    "eq2": {"reward_weight": 1.0, "nll_weight": 1.0},
    "released": {"reward_weight": 1.0, "nll_weight": 0.001},
}


class Material(NamedTuple):
    """A policy, a reward model and responses of the policy."""

    policy: Policy
    reward: RewardModel
    responses: list[tuple[Problem, list[int]]]


def missing(cell: dict[str, Any]) -> str | None:
    """Why a cell's models cannot be had here; None when they can. Damaged weights are not missing: they raise."""
    for group in ("policy", "reward"):
        prepare = cell[group].get("prepare", {})
        if Path(build.locate(cell[group]["path"]), "config.json").is_file():
            continue
        modules = ["gguf", prepare["module"]] if "module" in prepare else ["peft"]
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        if absent:
            return (
                f"no {cell[group]['path']} and no Python module {' or '.join(absent)}; "
                './reproduce.sh theorem "prop_c1.models=[smollm2/smollm2]" installs it'
            )
    return None


def material(cell: dict[str, Any], task: dict[str, Any], count: int, seed: int) -> Material:
    """Load a cell's models in float64 and sample `count` responses to its task's test problems."""
    build.prepare_models(cell)
    policy, reward = build.load_models({**cell, "dtype": "float64", "device": "cpu", "threads": None})
    problems = build.build_problems({**cell, "num_problems": count})[:count]
    prompts = [policy.prompt_ids(problem.messages) for problem in problems]
    limit = task["max_new_tokens"]
    noise = [keyed_uniforms(seed, problem.id, 0, "theorem", limit) for problem in problems]
    drawn = generation.sample(policy, prompts, noise, Sampling(0.7), [limit] * count)
    return Material(policy, reward, [(p, list(r.token_ids)) for p, r in zip(problems, drawn, strict=True)])


def cells(policy: str, reward: str, tasks: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A grid's cell for each task; smollm2 brings its own scale."""
    scale = ["scale=small"] if policy == "smollm2" else []
    for task in tasks:
        words = [*scale, f"policy={policy}", f"reward={reward}", f"task={task}", "seed=0", "method=greedy"]
        yield task, compose.compose_cells(words)[0]


def decompositions(
    policy: str,
    reward: str,
    tasks: Sequence[str],
    *,
    count: int,
    seed: int,
    kept: Sequence[str] = gradient_terms.TERMS,
    claimed_reward_weight: float | None = None,
) -> tuple[list[Check], list[TermRow]]:
    """Prop. C.1 on `count` sampled responses per task, in float64.

    The three residuals of single terms are against sources of their own: Hugging Face's logits, and autograd of one
    part of L. Tolerance: rounding. δ_postfix at the last token must be 0, not small.
    """
    place, found, rows = f"__{policy}__{reward}", [], []
    for task, cell in cells(policy, reward, tasks):
        if reason := missing(cell):
            names = ("sum_is_autograd", "each_term_is_its_own_part", "postfix_is_zero_at_last_token")
            return [Check(f"prop_c1_{name}{place}", math.nan, ROUNDING, skipped=reason) for name in names], []
        models = material(cell, cell["task"], count, seed)
        for problem, response in models.responses:
            for name, weights in WEIGHTS.items():
                one = gradient_terms.decomposition(
                    models.policy,
                    models.reward,
                    problem.messages,
                    response,
                    **weights,
                    kept=kept,
                    claimed_reward_weight=claimed_reward_weight,
                )
                found.append(one)
                rows += _term_rows(policy, reward, task, problem.id, name, one.norms)
    parts = [max(one.prefix_residual, one.likelihood_residual, one.reward_residual) for one in found]
    return [
        Check(f"prop_c1_sum_is_autograd{place}", max(one.residual for one in found), ROUNDING),
        Check(f"prop_c1_each_term_is_its_own_part{place}", max(parts), ROUNDING),
        Check(f"prop_c1_postfix_is_zero_at_last_token{place}", max(one.last_postfix for one in found), 0.0),
    ], rows


def _term_rows(policy: str, reward: str, task: str, problem_id: str, weights: str, norms: torch.Tensor) -> list:
    rows = []
    for number, space in enumerate("yz"):
        for position, values in enumerate(norms[:, :, number].tolist()):
            total = sum(values) or 1.0
            shares = [value / total for value in values]
            rows.append(
                TermRow(policy, reward, task, problem_id, weights, space, len(norms), position, *values, *shares)
            )
    return rows


def equation_25(
    vocab_sizes: Sequence[int], *, temperatures: Sequence[float], directions: int, points: int, seed: int
) -> tuple[list[Check], list[Point]]:
    """Eq. 25 against autograd, and the gradient's norm from uniform to confident rows.

    At the uniform end p = 1/V for all, so the norm must be ‖g - mean g‖ / V: it falls as 1/√V, and is not 0 for a
    small vocabulary. At the confident end it must vanish, everywhere below 2 (1 - max p) range(g). The peak lies
    between; it is a figure, not a check.
    """
    checks, curve = [], []
    for size in vocab_sizes:
        wrong = [
            gradient_terms.logits_residual(size, temperature=tau, rows=2, seed=seed, jacobian_temperature=tau)
            for tau in temperatures
        ]
        checks.append(Check(f"eq25_is_autograd__V{size}", max(wrong), ROUNDING))
        sharpness = [0.0, *torch.logspace(-1, 3, points, dtype=torch.float64).tolist()]
        ends, bounds, uniforms = [], [], []
        for own_term in (False, True):
            for direction in range(directions):
                sweep = gradient_terms.entropy_sweep(
                    size, sharpness=sharpness, own_term=own_term, seed=seed + direction
                )
                name = f"V{size}{' with -log p' if own_term else ''} #{direction}"
                curve += [
                    Point("eq25", name, h, norm)
                    for h, norm in zip(sweep.entropy.tolist(), sweep.norm.tolist(), strict=True)
                ]
                ends.append((sweep.norm[-1] / sweep.norm.max()).item())
                bounds.append(sweep.share.max().item())
                uniforms.append(abs(sweep.norm[0].item() / sweep.uniform - 1))
        checks.append(Check(f"eq25_vanishes_where_confident__V{size}", max(ends), 1e-6))
        checks.append(Check(f"eq25_uniform_end_is_1_over_V__V{size}", max(uniforms), ROUNDING))
        checks.append(Check(f"eq25_below_2_one_minus_p_range__V{size}", max(bounds), 1.0))
    return checks, curve


def random_models(folder: str, seed: int) -> tuple[Policy, RewardModel]:
    """A tiny random Llama as policy and a tiny random Qwen2 classifier as reward; shipped vocabulary, float64."""
    tokenizer = load_tokenizer(build.locate("assets/tokenizer"))
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
    }
    llama, qwen = str(Path(folder, f"llama-{seed}")), str(Path(folder, f"qwen2-{seed}"))
    random_init.write_model(llama, {"model_type": "llama", **shape}, tokenizer, seed=2 * seed)
    random_init.write_model(qwen, {"model_type": "qwen2", **shape}, tokenizer, classifier=True, seed=2 * seed + 1)
    policy = Policy.from_pretrained(llama, dtype="float64")
    return policy, RewardModel.from_pretrained(qwen, kind="classifier", dtype="float64")


def estimators(
    *,
    question: str,
    prefix: str,
    models: Sequence[int | str],
    candidates: int,
    temperatures: Sequence[float],
    samples: int,
    reward_weight: float,
    seed: int,
) -> tuple[list[Check], list[Point]]:
    """Bias and spread of the straight-through estimator against the true gradient of E_{y~softmax(z)}[L(y)].

    Everything about a two-token text with few candidates is enumerated, but for Gumbel noise. Bias and spread are
    relative to the true gradient's norm. Whether the estimator is biased is a finding; the checks are of the
    instruments, and that the bias found is not their rounding.

    Args:
        models: seeds of random models, or POLICY/REWARD of shipped ones.
    """
    checks, points = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in models:
            if isinstance(name, int):
                label, (policy, reward) = f"random{name}", random_models(folder, name)
            else:
                label = name.replace("/", "_with_")
                _, cell = next(cells(*name.split("/"), ["products"]))
                policy, reward = build.load_models({**cell, "dtype": "float64", "threads": None})
            chat = [{"role": "user", "content": question}]
            ids = policy.tokenizer.encode(prefix, add_special_tokens=False)
            own_checks, own_points = _estimators_of(
                label, policy, reward, chat, ids, candidates, temperatures, samples, reward_weight, seed
            )
            checks, points = checks + own_checks, points + own_points
    return checks, points


def _estimators_of(
    label: str,
    policy: Policy,
    reward: RewardModel,
    chat: list,
    prefix: list[int],
    candidates: int,
    temperatures: Sequence[float],
    samples: int,
    reward_weight: float,
    seed: int,
) -> tuple[list[Check], list[Point]]:
    weights = {"reward_weight": reward_weight, "nll_weight": 1.0}
    pairs, choices, sequences = estimator_samples.pairs(policy, reward, chat, prefix, candidates=candidates, **weights)
    probabilities, truth = estimator_samples.pair_probabilities(pairs.logits), estimator_samples.true_gradient(pairs)
    size = truth.norm().item()
    estimates = estimator_samples.straight_through_estimates(pairs)
    by_autograd = estimator_samples.autograd_estimates(policy, reward, pairs, choices, sequences, **weights)
    score = estimator_samples.enumerated(estimator_samples.score_estimates(pairs), probabilities)
    linear = pairs._replace(losses=pairs.slopes[0, 0, 0, :, None] + pairs.slopes[0, 0, 1, None, :])
    linear = linear._replace(slopes=pairs.slopes[0, 0].expand_as(pairs.slopes))
    on_linear = estimator_samples.enumerated(estimator_samples.straight_through_estimates(linear), probabilities)
    linear_truth = estimator_samples.true_gradient(linear)

    def bias(estimator: estimator_samples.Estimator) -> float:
        return (estimator.mean - truth).norm().item() / size

    sampled = estimator_samples.enumerated(estimates, probabilities)
    greedy = estimator_samples.Estimator(estimates[0, 0], 0.0)
    found = {"STE, sampled": sampled, "STE, argmax": greedy, "REINFORCE": score}
    frequencies = []
    for temperature in temperatures:
        name = f"Gumbel STE, τ = {temperature:g}"
        found[name], apart = estimator_samples.gumbel_estimator(
            pairs, temperature=temperature, samples=samples, seed=seed
        )
        frequencies.append(apart)
    points = []
    for name, estimator in found.items():
        points.append(Point("bias", f"{label}: {name}", math.nan, bias(estimator), estimator.error / size))
        points.append(Point("spread", f"{label}: {name}", math.nan, math.sqrt(estimator.variance) / size))
    rounding = ((estimates - by_autograd).abs().max() / by_autograd.abs().max()).item()
    # mean total variation of n draws from these probabilities: Σ √(p (1 - p) / 2πn)
    floor = (probabilities * (1 - probabilities) / (2 * math.pi * samples)).sqrt().sum().item()
    return [
        Check(f"ste_by_eq25_is_autograd__{label}", rounding, ROUNDING),
        Check(f"ste_reinforce_is_unbiased__{label}", bias(score), ROUNDING),
        Check(
            f"ste_is_unbiased_where_L_is_linear__{label}",
            ((on_linear.mean - linear_truth).norm() / linear_truth.norm()).item(),
            ROUNDING,
        ),
        Check(f"ste_gumbel_draws_follow_softmax__{label}", max(frequencies), 2 * floor, floor),
        seen(f"ste_bias__{label}", bias(sampled), max(rounding, bias(score), 1e-15)),
    ], points


def describe(row: Check) -> str:
    """A check in a line, for the terminal."""
    if row.skipped:
        return f"skipped  {row.name}: {row.skipped}"
    rule = f"{row.value:.3g} <= {row.tolerance:.3g}" if row.passed else f"{row.value:.3g} > {row.tolerance:.3g}"
    floor = "" if math.isnan(row.noise_floor) else f" (noise floor {row.noise_floor:.3g})"
    seen_note = (
        f", a difference of {row.noise_floor / row.value:.3g}" if row.name.endswith("_seen") and row.value else ""
    )
    return f"{'passed' if row.passed else 'FAILED':8} {row.name}: {rule}{floor}{seen_note}"
