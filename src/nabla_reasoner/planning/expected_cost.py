"""Expected cost and duration of a cell on a machine, from its expected work.

Costs come from `cost`, which also prices the records. Durations come from a roofline: a decoding step takes the longest
of reading weights and caches, its arithmetic, and launching its layers; a pass takes the longer of its arithmetic and
launching its layers.
"""

import math
from typing import NamedTuple

from .. import cost
from ..config.cell import Cell
from ..cost import Cost
from .machines import Machine
from .model_sizes import Model
from .work import Case, Decoding, Work

WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}  # bytes of a number
RECORD_BYTES, TOKEN_BYTES, RESPONSE_BYTES = 650, 4, 160  # of a record: fixed, per token of its text, per response


class Models(NamedTuple):
    """The models of a cell; `reference` is that of a likelihood reward, or None."""

    policy: Model
    reward: Model
    reference: Model | None = None

    @property
    def judges(self) -> list[Model]:
        """The reward's models."""
        return [model for model in (self.reward, self.reference) if model is not None]

    @property
    def all(self) -> list[Model]:
        """All models."""
        return [self.policy, *self.judges]

    @property
    def reward_parameters(self) -> int:
        """Parameters in matrix products of the reward's models."""
        return sum(model.matmul_parameters for model in self.judges)


def number_width(dtype: str) -> int:
    """Return the bytes of a number.

    Raises:
        ValueError: an unknown dtype.
    """
    if dtype not in WIDTHS:
        raise ValueError(f"dtype must be one of {', '.join(WIDTHS)}; got {dtype!r}. Write dtype=bfloat16.")
    return WIDTHS[dtype]


def decoding_cost(work: Work, problems: int, models: Models) -> Cost:
    """Return the cost of all tokens that are read or drawn one by one."""
    drawn = models.reward_parameters if work.decodes == "reward" else models.policy.matmul_parameters
    return cost.total(
        [
            cost.decoding(drawn, round(work.decode * problems)),
            cost.reward_steps(models.reward_parameters, round(work.reward_steps * problems)),
        ]
    )


def passes_cost(work: Work, problems: int, models: Models) -> Cost:
    """Return the cost of all passes over whole texts; its model calls are not meaningful."""
    policy, reward = models.policy.matmul_parameters, models.reward_parameters
    return cost.total(
        [
            cost.prefill(policy, round(work.prefill * problems)),
            cost.gradient_evaluation(
                policy,
                round(work.policy_forward * problems),
                round(work.policy_backward * problems),
                reward,
                round(work.reward_forward * problems),
                round(work.reward_backward * problems),
            ),
        ]
    )


def total_cost(work: Work, problems: int, models: Models) -> Cost:
    """Return the cost of `problems` problems, repeats included."""
    return cost.total([decoding_cost(work, problems, models), passes_cost(work, problems, models)])


def seconds(case: Case, work: Work, problems: int, models: Models, machine: Machine) -> float | int:
    """Return the seconds that one machine takes for `problems` problems, repeats included."""
    batches = math.ceil(problems / case.batch)
    context = case.prompt + case.length / 2
    width = number_width(case.cell.dtype)
    readers = {"policy": [models.policy], "reward": models.judges, "both": models.all}[work.decodes]
    steps = sum(_step_seconds(part, context, readers, width, machine) * part.steps * batches for part in work.decodings)
    launches = work.passes * batches * max(model.size.layers for model in models.all) * machine.layer_seconds
    arithmetic = passes_cost(work, problems, models).flops / (machine.flops * machine.pass_share)
    return steps + max(arithmetic, launches) + work.row_steps * problems * machine.dto_seconds


def _step_seconds(
    part: Decoding, context: float | int, readers: list[Model], width: int, machine: Machine
) -> float | int:
    rows = part.tokens / part.steps
    elements = sum(model.elements for model in readers)
    read = elements * width + rows * context * sum(model.cache_bytes(width) for model in readers)
    arithmetic = 2 * rows * sum(model.matmul_parameters for model in readers) / machine.flops
    launches = sum(model.size.layers for model in readers) * machine.layer_seconds
    longest = max(read / (machine.bandwidth * machine.step_share), arithmetic / machine.step_share, launches)
    return longest + rows * machine.row_seconds


def record_bytes(case: Case, work: Work, problems: int) -> float | int:
    """Return the bytes of the records."""
    responses = max(work.decode / case.length, 1.0)
    return problems * (RECORD_BYTES + TOKEN_BYTES * case.length + RESPONSE_BYTES * responses)


def label(cell: Cell) -> str:
    """Return the name of a cell's method, with the change of an ablation or the larger pool."""
    pool = " (larger pool)" if cell.budget else ""
    setting = f" [{cell.setting}]" if cell.setting not in (None, "default") else ""
    return cell.method.name + setting + pool
