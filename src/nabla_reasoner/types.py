"""Types that all parts share: problem, solution, chat messages."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from .cost import Cost

Messages = Sequence[dict[str, str]]


class Problem(NamedTuple):
    """One question to be answered.

    A NamedTuple and not a frozen dataclass: Lightning rebuilds batches when it moves them between devices.

    Attributes:
        id: unique within its task, stable between runs; every random draw for the problem is keyed by it.
        question: the user turn, shown to policy and reward model through their chat templates.
        answer: the reference answer, or None when there is none.
        task: name of the task, which decides the grader.
        metadata: what the generator's own verifier needs besides the answer; None for file problems.
    """

    id: str
    question: str
    answer: str | None
    task: str
    metadata: dict[str, Any] | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat that asks the question: one user turn, no system prompt."""
        return [{"role": "user", "content": self.question}]


class Solution(NamedTuple):
    """What a method returns for one problem.

    Attributes:
        problem_id: id of the problem.
        response: the chosen response as text, without special tokens.
        token_ids: the chosen response as the policy's tokens.
        reward: the reward model's value of the response; None where it was not asked.
        cost: everything spent on the problem.
        search: counts (`rollouts, proposed, accepted, rejected`), `finished` (the response ended with an end-of-turn
            token), `trajectory` (best response so far after each rollout with cumulative
            `rollouts, model_calls, flops, seconds`) and, for sampling methods, `samples` (`response, reward`). Entries
            of the two lists may carry a `finished` of their own.
        error: the reason of a failure; None for a solution.
    """

    problem_id: str
    response: str
    token_ids: list[int]
    reward: float | None
    cost: Cost
    search: dict[str, Any]
    error: str | None = None
