"""Expected work on one problem, and what the rules of `workload` need to know of a cell."""

import math
from typing import Any, NamedTuple

from ..config.cell import Cell, MethodSettings
from ..config.estimate import Lengths


class Decoding(NamedTuple):
    """Sequences of a batch of problems that are decoded side by side.

    Attributes:
        tokens: all tokens decoded.
        steps: decoding steps.
        rows: sequences at the start.
    """

    tokens: float | int
    steps: float | int
    rows: float | int


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
        row_steps: steps that DTO takes for single rows.
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

    typical: Lengths
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
    return sum(math.prod(settings.get(factor, factor) for factor in factors) for factors in method.answers)


def typical(cell: Cell) -> tuple[str, Lengths]:
    """Return the task whose typical numbers are used, and the numbers: the cell's own, or the scale's first."""
    tasks = cell.estimate.tasks
    name = cell.task.name if cell.task.name in tasks else next(iter(tasks), None)
    if name is None:
        raise ValueError(f"estimate.tasks must have an entry to plan a run; {cell.scale_name} has none.")
    return name, tasks[name]
