"""Samples of the target `fidelity`: responses, their uncertain positions, and which candidates there are right."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..config.target_cells import FidelityCell
from ..decoding.selection import uncertain
from ..decoding.settings import NablaSettings
from ..engine import generation
from ..engine.sampling import Sampling, keyed_uniforms
from ..models.language_models import Policy
from ..tasks import grading
from ..types import Problem
from . import token_pairs

RANKED = 4  # responses to each problem that a reward ranks


class Position(NamedTuple):
    """An uncertain position of a response.

    Attributes:
        number: index of the problem and its response.
        position: index of the token in the response.
        candidates: token ids, the policy's most likely first.
        is_right: whether each candidate is right.
    """

    number: int
    position: int
    candidates: list[int]
    is_right: list[bool]


class Sampled(NamedTuple):
    """Responses of a policy to problems.

    Attributes:
        responses: first rollout to each problem, of which tokens are replaced.
        positions: its uncertain positions.
        ranked: `RANKED` responses to each problem, the first rollout included.
        verdicts: whether each of them is right.
    """

    problems: list[Problem]
    responses: list[list[int]]
    positions: list[Position]
    ranked: list[list[list[int]]]
    verdicts: list[list[bool]]


def sample(policy: Policy, problems: Sequence[Problem], settings: NablaSettings, cell: FidelityCell) -> Sampled:
    """Return the first rollouts of ∇-Reasoner to the problems, with at most `cell.positions` positions of each."""
    rollouts = token_pairs.first_rollouts(problems, policy, settings, cell.seed)
    responses = [tokens for tokens, _ in rollouts]
    gated: list[tuple[int, int, list[int]]] = []
    for number, (_, predictions) in enumerate(rollouts):
        for position in spread(uncertain(predictions, settings), cell.positions):
            with torch.no_grad():
                logits = policy.logits(predictions.hidden[position])
            gated.append((number, position, logits.topk(cell.candidates).indices.tolist()))
    prefixes = [
        (number, [*responses[number][:position], token]) for number, position, tokens in gated for token in tokens
    ]
    verdicts = iter(completion_verdicts(policy, problems, prefixes, settings.max_new_tokens))
    positions = [Position(*entry, [next(verdicts) for _ in entry[2]]) for entry in gated]
    ranked = ranked_responses(policy, problems, responses, settings, cell.seed)
    verdicts = [
        [grading.grade(problem, policy.response_text(tokens), tokens[-1] in policy.eos_ids).correct for tokens in row]
        for problem, row in zip(problems, ranked, strict=True)
    ]
    return Sampled(list(problems), responses, positions, ranked, verdicts)


def ranked_responses(
    policy: Policy, problems: Sequence[Problem], responses: Sequence[list[int]], settings: NablaSettings, seed: int
) -> list[list[list[int]]]:
    """Return `RANKED` responses to each problem: the given one, and others drawn like it."""
    keys = [(problem, number) for problem in problems for number in range(1, RANKED)]
    limit = settings.max_new_tokens
    rollouts = generation.sample(
        policy,
        [policy.prompt_ids(problem.messages) for problem, _ in keys],
        [keyed_uniforms(seed, problem.id, 0, f"ranked {number}", limit) for problem, number in keys],
        settings.rollout,
        [limit] * len(keys),
    )
    others = [rollout.token_ids for rollout in rollouts]
    step = RANKED - 1
    return [[first, *others[step * i : step * (i + 1)]] for i, first in enumerate(responses)]


def spread(positions: Sequence[int], count: int) -> list[int]:
    """Return up to `count` of the positions, evenly spaced from the first to the last."""
    if len(positions) <= count:
        return list(positions)
    return [positions[i] for i in np.linspace(0, len(positions) - 1, count).round().astype(int)]


def completion_verdicts(
    policy: Policy, problems: Sequence[Problem], prefixes: Sequence[tuple[int, list[int]]], max_new_tokens: int
) -> list[bool]:
    """Return whether the policy's greedy completion of each prefix is right.

    Args:
        prefixes: index of the problem, and the first tokens of a response to it; an end token completes it.
    """
    is_ended = [tokens[-1] in policy.eos_ids for _, tokens in prefixes]
    limits = [
        0 if ended else max_new_tokens - len(tokens) for ended, (_, tokens) in zip(is_ended, prefixes, strict=True)
    ]
    completions = generation.sample(
        policy,
        [policy.prompt_ids(problems[number].messages) + tokens for number, tokens in prefixes],
        [np.zeros(limit) for limit in limits],
        Sampling(temperature=0.0),
        limits,
    )
    return [
        grading.grade(
            problems[number], policy.response_text(tokens + completion.token_ids), ended or completion.finished
        ).correct
        for (number, tokens), completion, ended in zip(prefixes, completions, is_ended, strict=True)
    ]
