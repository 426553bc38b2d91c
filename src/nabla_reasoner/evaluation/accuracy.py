"""Greedy accuracy of a policy."""

from collections.abc import Sequence

import numpy as np

from ..engine import generation
from ..engine.generation import Rollout
from ..engine.sampling import Sampling
from ..models.language_models import Policy
from ..tasks import grading
from ..types import Problem


def is_correct(policy: Policy, problem: Problem, rollout: Rollout) -> bool:
    """Return whether the grader marks a response correct."""
    return grading.grade(problem, policy.decode(rollout.token_ids), rollout.finished).correct


def greedy_accuracy(policy: Policy, problems: Sequence[Problem], max_new_tokens: int) -> float:
    """Return the percentage of the problems that greedy decoding answers correctly."""
    count = len(problems)
    rollouts = generation.sample(
        policy,
        [policy.prompt_ids(problem.messages) for problem in problems],
        [np.zeros(max_new_tokens)] * count,
        Sampling(0.0),
        [max_new_tokens] * count,
    )
    correct = [is_correct(policy, problem, rollout) for problem, rollout in zip(problems, rollouts, strict=True)]
    return 100 * float(np.mean(correct))
