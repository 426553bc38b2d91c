"""Expected work on one problem, and what the rules of `workload` need to know of a cell."""

import math
from typing import Any, NamedTuple

from ..config.cell import Cell
from ..config.estimate import TaskEstimate
from ..config.parts import MethodSettings

COUNTS = (  # settings of methods that the rules of `workload` count with
    "num_samples",
    "breadth",
    "num_proposals",
    "num_simulations",
    "num_iterations",
    "num_steps",
    "num_particles",
    "num_candidates",
    "max_critique_tokens",
    "max_rollouts",
    "num_passes",
)


class Decoding(NamedTuple):
    """Sequences of a batch of problems that are decoded side by side.

    Attributes:
        tokens: all tokens decoded.
        steps: decoding steps.
        rows: sequences at the start.
        readers: which models read in each step, "policy", "reward" or "both"; None for those that decode.
    """

    tokens: float | int
    steps: float | int
    rows: float | int
    readers: str | None = None

    def times(self, count: int, share: float | int = 1.0) -> "Decoding":
        """Return `count` of these one after the other, each with a share of the tokens."""
        return self._replace(tokens=self.tokens * count * share, steps=self.steps * count)


class Work(NamedTuple):
    """Expected work on one problem, and the steps in which a batch of them is solved.

    Attributes:
        decode, prefill, policy_forward, policy_backward, reward_forward, reward_backward: tokens, as in `cost.Cost`.
        reward_steps: tokens that the reward model reads one by one.
        decodes: which model decodes, "policy", "reward" or "both" in lockstep.
        decodings: of one batch.
        passes: passes over whole texts in one batch, of each model that is used.
        kept_tokens: tokens per problem whose keys and values stay in the caches, beside the sequences being decoded.
        padded: whether the caches hold as many tokens for every problem as for the longest one.
        gradient: whether passes keep what a backward pass needs.
        rows: rows of logits that DTO updates in one problem.
        row_steps: steps that DTO takes for single rows, or tokens that guided decoding scores one by one.
    """

    decode: float | int = 0.0
    prefill: float | int = 0.0
    policy_forward: float | int = 0.0
    policy_backward: float | int = 0.0
    reward_forward: float | int = 0.0
    reward_backward: float | int = 0.0
    reward_steps: float | int = 0.0
    decodes: str = "policy"
    decodings: tuple[Decoding, ...] = ()
    passes: float | int = 0.0
    kept_tokens: float | int = 0.0
    padded: bool = True
    gradient: bool = False
    rows: float | int = 0.0
    row_steps: float | int = 0.0


class Case(NamedTuple):
    """What every rule needs of a cell."""

    typical: TaskEstimate
    length: float | int
    limit: int
    answers: int
    settings: dict[str, Any]
    cell: Cell
    batch: int

    @property
    def prompt(self) -> float | int:
        return self.typical.prompt_tokens

    @property
    def likelihood(self) -> bool:
        return self.cell.reward.kind == "likelihood"

    def longest(self, count: float | int) -> float | int:
        """Return the expected largest of `count` lengths, for normal lengths cut at the limit."""
        return min(self.length * (1 + self.cell.estimate.spread * math.sqrt(2 * math.log(max(count, 1)))), self.limit)

    def stretch(self, batch: int, *, padded: bool) -> float | int:
        """Return by what factor the cached tokens of a batch may exceed the mean: all padded, or three deviations."""
        longest = self.longest(batch) if padded else self.length * (1 + 3 * self.cell.estimate.spread / batch**0.5)
        return (self.prompt + min(longest, self.limit)) / (self.prompt + self.length)

    def side_by_side(self, count: float | int, share: float | int = 1.0) -> Decoding:
        """Return the decoding of `count` responses, or ends of responses of a share of their length."""
        rows = min(count, self.cell.decode_rows)
        tail = self.longest(rows)
        steps = tail if count <= rows else count * self.length / rows + tail - self.length
        return Decoding(count * self.length * share, max(steps * share, 1.0), rows)


def expected_answers(method: MethodSettings) -> int | None:
    """Return the number of complete responses decoded per problem; None for a method whose number varies."""
    if method.answers is None:
        return None
    settings = method.keywords()
    factors = [[settings.get(factor, factor) for factor in product] for product in method.answers]
    for factor in (factor for product in factors for factor in product):
        _check_count("answers", factor)
    return sum(map(math.prod, factors))


def check_budget(method: MethodSettings) -> None:
    """Raise ValueError unless the settings that the rules count with are whole numbers >= 1.

    A run's method checks all of its settings when it is built; that needs torch.
    """
    for name, value in method.keywords().items():
        if name in COUNTS:
            _check_count(name, value)


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"method.{name} must be a whole number >= 1; got {value!r}. Write method.{name}=8.")


def typical(cell: Cell) -> tuple[str, TaskEstimate]:
    """Return the task whose typical numbers are used, and the numbers: the cell's own, or the scale's first."""
    tasks = cell.estimate.tasks
    name = cell.task.name if cell.task.name in tasks else next(iter(tasks), None)
    if name is None:
        raise ValueError(f"estimate.tasks must have an entry to plan a run; {cell.scale_name} has none.")
    return name, tasks[name]
