"""Responses of a policy to problems, and their accuracy."""

from collections.abc import Sequence

import numpy as np

from ..engine import generation
from ..engine.generation import Rollout
from ..engine.sampling import Sampling
from ..models.language_models import Policy
from ..tasks import grading
from ..tasks.grading import Grade
from ..types import Problem


def sample_responses(
    policy: Policy, problems: Sequence[Problem], noise: Sequence[np.ndarray], sampling: Sampling, max_new_tokens: int
) -> list[Rollout]:
    """Sample one response to each problem; arguments as for `generation.sample`."""
    distinct = {problem.question: problem for problem in problems}  # a question may be repeated, for several samples
    prompts = {question: policy.prompt_ids(problem.messages) for question, problem in distinct.items()}
    limits = [max_new_tokens] * len(problems)
    return generation.sample(policy, [prompts[problem.question] for problem in problems], noise, sampling, limits)


def grades(policy: Policy, problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> list[Grade]:
    """Grade one response per problem; a response that was cut off counts only if it states its answer completely."""
    return [
        grading.grade(problem, policy.response_text(rollout.token_ids), rollout.finished)
        for problem, rollout in zip(problems, rollouts, strict=True)
    ]


def greedy_accuracy(policy: Policy, problems: Sequence[Problem], max_new_tokens: int) -> float:
    """Return the percentage of the problems that greedy decoding answers correctly."""
    noise = [np.zeros(max_new_tokens)] * len(problems)
    rollouts = sample_responses(policy, problems, noise, Sampling(0.0), max_new_tokens)
    return 100 * float(np.mean([grade.correct for grade in grades(policy, problems, rollouts)]))
