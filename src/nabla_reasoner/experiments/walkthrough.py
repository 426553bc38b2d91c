"""One problem token by token, for the notebook: the gradient's terms at each token, and the effect of DTO on one.

It also searches for a case in which a reward of the whole response changes a token near its beginning.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from ..config import build, compose
from ..config.cell import Cell
from ..decoding import trace
from ..decoding.settings import NablaSettings
from ..dto import objective, optimizer, reference, straight_through
from ..dto.settings import DTOSettings
from ..engine import numerics
from ..engine.sampling import draw, keyed_uniforms
from ..models.language_models import Policy, RewardModel
from ..reporting.figures import GREEN, ORANGE
from ..tasks import grading
from ..tasks.written_steps import steps_are_true
from ..types import Problem

CASES = ["reward=classifier", "policy=tiny-base", "num_problems=100", "threads=1"]  # read at the end token only
TASKS = ("chain_sum", "leg_counting", "products")
EARLY = 1 / 3  # share of the response that counts as its beginning
SHOWN = 1e-3  # smallest probability of a candidate


def token_text(policy: Policy, token: int) -> str:
    """Return a token as text."""
    return "end" if token in policy.eos_ids else policy.decode([token])


@torch.no_grad()
def own_logits(policy: Policy, reward: RewardModel, problem: Problem, tokens: Sequence[int]) -> torch.Tensor:
    """Return the policy's logits z at every token of a response; [length, vocab]."""
    sequence = objective.make_sequence(policy, reward, problem.messages, [], tokens)
    return numerics.at_least_float32(policy.logits(reference.first_latents(policy, sequence)))


def gradient_rows(
    policy: Policy, reward: RewardModel, problem: Problem, tokens: Sequence[int], **weights: float
) -> list[dict[str, Any]]:
    """Return Euclidean norms of ∂L/∂z and of its three terms at every token of a response, before any step.

    Returns:
        By position: token, confidence, and the norms `prefix`, `postfix`, `reward` and `total`.
    """
    logits = own_logits(policy, reward, problem, tokens)
    (terms,) = objective.gradient_terms(policy, reward, [problem.messages], [[]], [list(tokens)], **weights)
    parts = {name: straight_through.logits_gradient(logits, term) for name, term in terms._asdict().items()}
    parts["total"] = sum(parts.values())
    norms = {name: part.norm(dim=-1).tolist() for name, part in parts.items()}
    confidence = numerics.confidence(logits).tolist()
    return [
        {"position": i, "token": token_text(policy, token), "confidence": confidence[i]}
        | {name: values[i] for name, values in norms.items()}
        for i, token in enumerate(tokens)
    ]


def candidate_rows(
    settings: DTOSettings,
    policy: Policy,
    reward: RewardModel,
    problem: Problem,
    tokens: Sequence[int],
    position: int,
    count: int = 6,
) -> list[dict[str, Any]]:
    """Return the likeliest tokens at one position, with their gradient terms and their probability after DTO.

    Args:
        count: largest number of tokens, the likeliest before or after.

    Returns:
        By token: `before` and `after`, and -∂L/∂z of each term: positive if a step makes the token likelier.
    """
    before = own_logits(policy, reward, problem, tokens)[position]
    prefix, rest = list(tokens[:position]), list(tokens[position:])
    (terms,) = objective.gradient_terms(policy, reward, [problem.messages], [prefix], [rest], **settings.weights)
    descents = {
        name: -straight_through.logits_gradient(before[None], term[:1])[0] for name, term in terms._asdict().items()
    }
    (moved,) = optimizer.optimize(policy, reward, [problem.messages], [prefix], [rest], settings=settings)
    old, new = before.softmax(-1), moved.logits[0].softmax(-1)
    likely = torch.maximum(old, new)
    candidates = [index for index in likely.topk(count).indices.tolist() if likely[index] >= SHOWN]
    return [
        {"token": token_text(policy, index), "before": old[index].item(), "after": new[index].item()}
        | {name: value[index].item() for name, value in descents.items()}
        for index in candidates
    ]


def draws(
    settings: NablaSettings,
    policy: Policy,
    reward: RewardModel,
    problem: Problem,
    tokens: Sequence[int],
    position: int,
    seed: int,
) -> tuple[int, int, int]:
    """Return the tokens that the loop's random number draws from three rows of logits.

    Returns:
        From the policy's logits, from those after DTO, and from those after DTO without the reward (λ = 0).
    """
    before = own_logits(policy, reward, problem, tokens)[position]
    prompts, prefix, rest = [problem.messages], [list(tokens[:position])], [list(tokens[position:])]
    moved = [
        optimizer.optimize(policy, reward, prompts, prefix, rest, settings=dto)[0].logits[0]
        for dto in (settings.dto, settings.dto.replace(reward_weight=0.0))
    ]
    uniform = torch.tensor(keyed_uniforms(seed, problem.id, 0, f"resample 0 {position}", 1)).repeat(3)
    policy_token, dto_token, token_without_reward = draw(
        torch.stack([before, *moved]), uniform, settings.resample
    ).tolist()
    return policy_token, dto_token, token_without_reward


def early_cells() -> list[Cell]:
    """Return the cells that are searched."""
    return compose.compose_cells([*CASES, f"task={','.join(TASKS)}", "method=nabla_reasoner"])


def early_problem(task: str, name: str) -> Problem:
    """Return a problem of the search by its id."""
    (cell,) = [candidate for candidate in early_cells() if candidate.task.name == task]
    return next(problem for problem in build.build_problems(cell) if problem.id == name)


def early_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return accepted revisions of a first rollout within the first third of its tokens, over test problems.

    `found` marks those in which the answer went from wrong to right and the reward's gradient decided: the random
    number that drew the new token from DTO's logits draws the old one from the policy's, and from those after DTO
    without the reward. `true_steps` says whether all
    steps of the last response are true: a right answer with a false step is a repair in name only.
    """
    rows = []
    for cell in cells:
        policy, reward = build.load_models(cell)
        settings, problems, seed = build.build_method(cell).settings, build.build_problems(cell), cell.seed
        for run in trace.record(settings, problems, policy, reward, seed=seed):
            first = run.responses[0]
            for visit in run.visits:
                accepted = visit.proposal is not None and run.responses[visit.proposal].accepted
                if visit.response or not accepted or visit.position >= EARLY * len(first.tokens):
                    continue
                texts = [policy.response_text(tokens) for tokens in (first.tokens, run.solution.token_ids)]
                right = [grading.grade(run.problem, text, True).correct for text in texts]
                policy_token, dto_token, without_reward = draws(
                    settings, policy, reward, run.problem, first.tokens, visit.position, seed
                )
                rows.append(
                    {
                        "task": run.problem.task,
                        "problem_id": run.problem.id,
                        "searched": len(problems),
                        "length": len(first.tokens),
                        "position": visit.position,
                        "old": token_text(policy, visit.old),
                        "new": token_text(policy, visit.new),
                        "policy_draw": token_text(policy, policy_token),
                        "dto_draw": token_text(policy, dto_token),
                        "draw_without_reward": token_text(policy, without_reward),
                        "first": texts[0],
                        "last": texts[1],
                        "right_before": right[0],
                        "right_after": right[1],
                        "true_steps": steps_are_true(run.problem.task, texts[1]),
                        "reward_before": first.reward,
                        "reward_after": run.responses[visit.proposal].reward,
                        "found": policy_token == without_reward == visit.old
                        and dto_token == visit.new
                        and right == [False, True],
                    }
                )
    return rows


TERMS = {
    "prefix": ("δ_prefix", "#56B4E9", "v"),
    "postfix": ("δ_postfix", GREEN, "^"),
    "reward": ("δ_reward", ORANGE, "o"),
    "total": ("all", "black", "."),
}


def token_gradients(tokens: pd.DataFrame, candidates: pd.DataFrame, position: int) -> Figure:
    """Draw the norms of the gradient's terms at every token of a response, and the effect of DTO at one of them.

    Args:
        tokens: rows of `gradient_rows`.
        candidates: rows of `candidate_rows` at `position`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 1))
    for name, (label, colour, marker) in TERMS.items():
        norms = tokens[name].where(tokens[name] > 0)  # a logarithmic axis cannot show 0
        left.plot(tokens.position, norms, marker, color=colour, label=label, markersize=5, alpha=0.85)
    left.axvspan(position - 0.5, position + 0.5, color="#DDDDDD", zorder=0, label="the token on the right")
    left.set_yscale("log")
    left.set_xticks(tokens.position, tokens.token, fontsize=8 if len(tokens) < 30 else 6, family="monospace")
    left.set_xlabel("token of the response")
    left.set_ylabel("norm of the term of ∂L/∂z")
    left.legend(fontsize=8, ncol=5, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
    left.grid(alpha=0.3, axis="y")
    indices = np.arange(len(candidates))
    right.bar(indices - 0.2, candidates.before, 0.4, color="#999999", label="policy")
    right.bar(indices + 0.2, candidates.after, 0.4, color=ORANGE, hatch="//", edgecolor="white", label="after DTO")
    right.set_xticks(indices, candidates.token, family="monospace")
    right.set_xlabel(f"token at position {position}")
    right.set_ylabel("probability")
    right.set_ylim(0, 1.02)
    right.legend(fontsize=8, ncol=2, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
    figure.tight_layout(w_pad=2)
    return figure
