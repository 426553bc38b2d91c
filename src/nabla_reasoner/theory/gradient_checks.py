"""Checks of Prop. C.1 and Eq. 25."""

import importlib.util
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float

from ..config import build, compose
from ..config.cell import Cell
from ..config.data_folder import locate
from ..engine import generation
from ..engine.sampling import Sampling, keyed_uniforms
from ..models.language_models import Policy, RewardModel
from ..types import Problem
from . import gradient_terms
from .check import Check, Point

ROUNDING = 1e-10  # float64 sums over some hundred thousand terms, relative to the largest


class TermRow(NamedTuple):
    """One row of terms.csv: norms of the three terms at one position of one response, and their shares of the sum.

    Attributes:
        length, position: number of tokens of the response, and the token's index from 0.
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


class SampledResponses(NamedTuple):
    """A policy, a reward model and sampled responses of the policy."""

    policy: Policy
    reward: RewardModel
    responses: list[tuple[Problem, list[int]]]


def missing(cell: Cell) -> str | None:
    """Return why a cell's models cannot be loaded or prepared here, or None; damaged weights are not missing."""
    for group in ("policy", "reward"):
        preparation = getattr(cell, group).prepare
        prepare = preparation.keywords() if preparation else {}
        if Path(locate(getattr(cell, group).path), "config.json").is_file():
            continue
        modules = ["gguf", prepare["module"]] if "module" in prepare else ["peft"]
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        if absent:
            return (
                f"no {getattr(cell, group).path} and no Python module {' or '.join(absent)}; "
                './reproduce.sh theorem "prop_c1.models=[smollm2/smollm2]" installs it'
            )
    return None


def sample_responses(cell: Cell, count: int, seed: int) -> SampledResponses:
    """Load a cell's models in float64 and sample a response to each of `count` test problems of its task."""
    build.prepare_models(cell)
    policy, reward = build.load_models(cell.changed(dtype="float64", device="cpu", threads=None))
    problems = build.build_problems(cell.changed(num_problems=count))[:count]
    prompts = [policy.prompt_ids(problem.messages) for problem in problems]
    limit = cell.task.max_new_tokens
    noise = [keyed_uniforms(seed, problem.id, 0, "theorem", limit) for problem in problems]
    sampled = generation.sample(policy, prompts, noise, Sampling(0.7), [limit] * count)
    responses = [(problem, list(response.token_ids)) for problem, response in zip(problems, sampled, strict=True)]
    return SampledResponses(policy, reward, responses)


def cells(policy: str, reward: str, tasks: Sequence[str]) -> Iterator[tuple[str, Cell]]:
    """Yield each task with its composed cell; smollm2 needs scale=small."""
    scale = ["scale=small"] if policy == "smollm2" else []
    for task in tasks:
        overrides = [*scale, f"policy={policy}", f"reward={reward}", f"task={task}", "seed=0", "method=greedy"]
        yield task, compose.compose_cells(overrides)[0]


def decompositions(
    policy: str,
    reward: str,
    tasks: Sequence[str],
    *,
    count: int,
    seed: int,
    summed: Sequence[str] = gradient_terms.TERMS,
    claimed_reward_weight: float | None = None,
) -> tuple[list[Check], list[TermRow]]:
    """Check Prop. C.1 on `count` sampled responses per task, in float64.

    The residuals of single terms are against independent sources: Hugging Face's logits, and autograd of one part of
    L. The tolerance is rounding. δ_postfix at the last token must be 0, not small.

    Args:
        summed, claimed_reward_weight: as in `gradient_terms.decomposition`; others than the defaults must fail.
    """
    suffix = f"__{policy}__{reward}"
    decomposed: list[gradient_terms.Decomposition] = []
    rows: list[TermRow] = []
    for task, cell in cells(policy, reward, tasks):
        if reason := missing(cell):
            names = ("sum_is_autograd", "each_term_is_its_own_part", "postfix_is_zero_at_last_token")
            return [Check(f"prop_c1_{name}{suffix}", math.nan, ROUNDING, skipped=reason) for name in names], []
        models = sample_responses(cell, count, seed)
        for problem, response in models.responses:
            for name, weights in WEIGHTS.items():
                decomposition = gradient_terms.decomposition(
                    models.policy,
                    models.reward,
                    problem.messages,
                    response,
                    **weights,
                    summed=summed,
                    claimed_reward_weight=claimed_reward_weight,
                )
                decomposed.append(decomposition)
                labels = {"policy": policy, "reward": reward, "task": task, "problem_id": problem.id, "weights": name}
                rows += _term_rows(decomposition.norms, labels)
    parts = [max(row.prefix_residual, row.likelihood_residual, row.reward_residual) for row in decomposed]
    return [
        Check(f"prop_c1_sum_is_autograd{suffix}", max(row.residual for row in decomposed), ROUNDING),
        Check(f"prop_c1_each_term_is_its_own_part{suffix}", max(parts), ROUNDING),
        Check(f"prop_c1_postfix_is_zero_at_last_token{suffix}", max(row.last_postfix for row in decomposed), 0.0),
    ], rows


def _term_rows(norms: Float[torch.Tensor, "length 3 2"], labels: dict[str, str]) -> list[TermRow]:
    """Return the rows of one response, given their first columns."""
    rows = []
    for number, space in enumerate("yz"):
        for position, (prefix, postfix, reward_norm) in enumerate(norms[:, :, number].tolist()):
            total = sum((prefix, postfix, reward_norm)) or 1.0
            rows.append(
                TermRow(
                    **labels,
                    space=space,
                    length=len(norms),
                    position=position,
                    prefix=prefix,
                    postfix=postfix,
                    reward_norm=reward_norm,
                    prefix_share=prefix / total,
                    postfix_share=postfix / total,
                    reward_share=reward_norm / total,
                )
            )
    return rows


def equation_25(
    vocab_sizes: Sequence[int], *, temperatures: Sequence[float], directions: int, points: int, seed: int
) -> tuple[list[Check], list[Point]]:
    """Check Eq. 25 against autograd, and the gradient's norm from uniform to confident rows.

    At the uniform end p = 1/V for all tokens, so the norm must be ‖g - mean g‖ / V: it falls as 1/√V, and is not 0 for
    a small vocabulary. At the confident end it must vanish; Σ|∂L/∂z| is at most 2 (1 - max p) range(g) everywhere. The
    peak between the ends is drawn, not checked.

    Args:
        vocab_sizes: values of V.
        temperatures: values of τ.
        directions: number of random directions of rows per V.
        points: number of sharpness values along each direction, besides the uniform row.
    """
    checks, curve = [], []
    sharpness = [0.0, *torch.logspace(-1, 3, points, dtype=torch.float64).tolist()]
    for size in vocab_sizes:
        residuals = [
            gradient_terms.logits_residual(size, temperature=tau, rows=2, seed=seed, jacobian_temperature=tau)
            for tau in temperatures
        ]
        ends, bounds, uniforms = [], [], []
        for prefix_term in (False, True):
            for direction in range(directions):
                sweep = gradient_terms.entropy_sweep(
                    size, sharpness=sharpness, prefix_term=prefix_term, seed=seed + direction
                )
                name = f"V{size}{' with -log p' if prefix_term else ''} #{direction}"
                coordinates = zip(sweep.entropy.tolist(), sweep.norm.tolist(), strict=True)
                curve += [Point("eq25", name, entropy, norm) for entropy, norm in coordinates]
                ends.append((sweep.norm[-1] / sweep.norm.max()).item())
                bounds.append(sweep.share.max().item())
                uniforms.append(abs(sweep.norm[0].item() / sweep.uniform - 1))
        checks += [
            Check(f"eq25_is_autograd__V{size}", max(residuals), ROUNDING),
            Check(f"eq25_vanishes_where_confident__V{size}", max(ends), 1e-6),
            Check(f"eq25_uniform_end_is_1_over_V__V{size}", max(uniforms), ROUNDING),
            Check(f"eq25_below_2_one_minus_p_range__V{size}", max(bounds), 1.0),
        ]
    return checks, curve
