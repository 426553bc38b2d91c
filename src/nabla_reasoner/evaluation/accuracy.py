"""Responses of a policy to problems, and their accuracy."""

from collections.abc import Sequence

import numpy as np

from ..engine import generation
from ..engine.generation import Rollout
from ..engine.sampling import Sampling
from ..models.language_models import Policy
from ..tasks import grading
from ..types import Problem


def sample_responses(
    policy: Policy, problems: Sequence[Problem], noise: Sequence[np.ndarray], sampling: Sampling, max_new_tokens: int
) -> list[Rollout]:
    """Sample one response to each problem; arguments as for `generation.sample`."""
    prompts = [policy.prompt_ids(problem.messages) for problem in problems]
    return generation.sample(policy, prompts, noise, sampling, [max_new_tokens] * len(prompts))


def is_correct(policy: Policy, problem: Problem, rollout: Rollout) -> bool:
    """Return whether the grader marks a response correct."""
    return grading.grade(problem, policy.decode(rollout.token_ids), rollout.finished).correct


def greedy_accuracy(policy: Policy, problems: Sequence[Problem], max_new_tokens: int) -> float:
    """Return the percentage of the problems that greedy decoding answers correctly."""
    noise = [np.zeros(max_new_tokens)] * len(problems)
    rollouts = sample_responses(policy, problems, noise, Sampling(0.0), max_new_tokens)
    return 100 * float(np.mean([is_correct(policy, p, r) for p, r in zip(problems, rollouts, strict=True)]))
