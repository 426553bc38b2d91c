"""Types shared by all parts: chat messages, problem, solution, method; and the check of a text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from .cost import Cost

if TYPE_CHECKING:
    from .models import Policy, RewardModel

Messages = Sequence[dict[str, str]]
THINK_MARKS = (  # beginning and end of a think block, as families of models write them
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<reasoning>", "</reasoning>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # of gpt-oss
)
COMMIT = "[0-9a-f]{40}"  # pattern of a revision of a model or data set on the hub, in full


class Problem(NamedTuple):
    """A question to be answered.

    A NamedTuple, not a frozen dataclass: Lightning rebuilds batches when it moves them between devices.

    Attributes:
        id: unique within its task and stable between runs; it keys every random draw for the problem.
        question: the user turn, formatted for policy and reward model by their chat templates.
        answer: the reference answer, or None if unknown.
        task: name of the task, which selects the grader.
        metadata: what the generator's own verifier needs besides the answer; None for problems read from a file.
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
    """The result of a method for one problem.

    Attributes:
        problem_id: id of the problem.
        response: the selected response as text, without special tokens.
        token_ids: the selected response as the policy's tokens.
        reward: the reward model's value of the response; None if the method does not use the reward model.
        cost: everything spent on the problem.
        search: counts (`rollouts, proposed, accepted, rejected`), `finished` (the response ended with an end-of-turn
            token), `trajectory` (best response so far after each rollout with cumulative
            `rollouts, model_calls, flops, seconds`) and, for sampling methods, `samples` (`response, reward`). Entries
            of the two lists may carry their own `finished`.
        error: reason of the failure; None for a solution.
    """

    problem_id: str
    response: str
    token_ids: list[int]
    reward: float | None
    cost: Cost
    search: dict[str, Any]
    error: str | None = None


@runtime_checkable
class Method(Protocol):
    """A method that solves problems with a policy and a reward model."""

    def solve(
        self, problems: Sequence[Problem], policy: "Policy", reward: "RewardModel", *, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """Return one solution per problem, in order; in float32 independent of the batch's other problems.

        Args:
            seed, repeat: key of all random draws, together with each problem's id.
        """
        ...


@runtime_checkable
class ChecksPrompts(Protocol):
    """A method that writes prompts of its own, which may be too long for a policy."""

    def check_prompts(self, problems: Sequence[Problem], policy: "Policy") -> None:
        """Raise ValueError if a prompt with replies at their length limits would exceed the policy's context."""
        ...


def check_unicode(name: str, text: str) -> None:
    """Raise ValueError on half of a character, such as "\\ud83d" alone, which no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} must be valid Unicode; got {text[error.start : error.end]!a} at character {error.start}. "
            "Remove the lone surrogate."
        ) from None
