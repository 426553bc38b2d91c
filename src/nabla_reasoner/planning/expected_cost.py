"""Expected cost and duration of a cell on a machine, from its expected work.

Costs come from `cost`, which also prices the records. Durations come from a roofline: a decoding step takes the longest
of reading weights and caches, its arithmetic, and launching its layers; a pass takes the longer of its arithmetic and
launching its layers.
"""

import functools
import math
from typing import NamedTuple

from .. import cost
from ..config.cell import Cell
from ..config.schema import CPU
from ..cost import Cost, ModelSize, Reads
from .machines import HOST, Machine
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
    def reward_models(self) -> list[Model]:
        """The reward's models."""
        return [model for model in (self.reward, self.reference) if model is not None]

    @property
    def all(self) -> list[Model]:
        """All models."""
        return [self.policy, *self.reward_models]

    @property
    def reward_size(self) -> ModelSize:
        """What the reward's models compute per token, together."""
        return functools.reduce(ModelSize.plus, (model.arithmetic for model in self.reward_models))


def number_width(dtype: str) -> int:
    """Return the bytes of a number.

    Raises:
        ValueError: an unknown dtype.
    """
    if dtype not in WIDTHS:
        raise ValueError(f"dtype must be one of {', '.join(WIDTHS)}; got {dtype!r}. Write dtype=bfloat16.")
    return WIDTHS[dtype]


def _reads(tokens: float | int, keys: float | int, outputs: float | int) -> Reads:
    """Return tokens that each attend to `keys` keys, with the output matrix or score head used `outputs` times."""
    return Reads(round(tokens), round(tokens * keys), round(outputs))


def decoding_cost(case: Case, work: Work, problems: int, models: Models) -> Cost:
    """Return the cost of all tokens that are read or drawn one by one."""
    drawn = models.reward_size if work.decodes == "reward" else models.policy.arithmetic
    keys = case.prompt + case.length / 2
    decoded, steps = work.decode * problems, work.reward_steps * problems
    return cost.total(
        [
            cost.decoding(drawn, _reads(decoded, keys, decoded)),
            cost.reward_steps(models.reward_size, _reads(steps, keys, steps)),
        ]
    )


def passes_cost(case: Case, work: Work, problems: int, models: Models) -> Cost:
    """Return the cost of all passes over whole texts; its model calls are not meaningful.

    Every token of a likelihood reward is predicted, and one token of a classifier's text; prompts are not.
    """
    keys = case.prompt + case.length
    share = case.length / keys  # of a text, its response

    def policy(tokens: float | int, predicted: float | int) -> Reads:
        return _reads(tokens * problems, keys, tokens * problems * predicted)

    def reward(tokens: float | int) -> Reads:
        return policy(tokens, share if case.likelihood else 1 / keys)

    return cost.total(
        [
            cost.prefill(models.policy.arithmetic, policy(work.prefill, 0)),
            cost.gradient_evaluation(
                models.policy.arithmetic,
                policy(work.policy_forward, share),
                policy(work.policy_backward, share),
                models.reward_size,
                reward(work.reward_forward),
                reward(work.reward_backward),
            ),
        ]
    )


def total_cost(case: Case, work: Work, problems: int, models: Models) -> Cost:
    """Return the cost of `problems` problems, repeats included."""
    return cost.total([decoding_cost(case, work, problems, models), passes_cost(case, work, problems, models)])


def seconds(case: Case, work: Work, problems: int, models: Models, machine: Machine) -> float | int:
    """Return the seconds that one machine takes for `problems` problems, repeats included.

    With `reward_device=cpu` the reward's models are as fast as on `machines.HOST`.
    """
    batches = math.ceil(problems / case.batch)
    context = case.prompt + case.length / 2
    width = number_width(case.cell.dtype)
    place_of_rewards = reward_machine(case.cell, machine)
    readers = {"policy": [([models.policy], machine)], "reward": [(models.reward_models, place_of_rewards)]}
    apart = [*readers["policy"], *readers["reward"]]
    readers["both"] = [(models.all, machine)] if place_of_rewards is machine else apart
    steps = sum(
        _step_seconds(part, context, together, width, place) * part.steps * batches
        for part in work.decodings
        for together, place in readers[part.readers or work.decodes]
    )
    launches = work.passes * batches * max(model.size.layers for model in models.all) * machine.layer_seconds
    of_policy = passes_cost(case, work._replace(reward_forward=0.0, reward_backward=0.0), problems, models).flops
    of_reward = passes_cost(case, work, problems, models).flops - of_policy
    speeds = [place.flops * place.pass_share for place in (machine, place_of_rewards)]
    arithmetic = of_policy / speeds[0] + of_reward / speeds[1]
    return steps + max(arithmetic, launches) + work.row_steps * problems * machine.dto_seconds


def reward_machine(cell: Cell, machine: Machine) -> Machine:
    """Return the machine that the reward's models run on: `machine`, or its CPU with `reward_device=cpu`."""
    return HOST if cell.reward_device == CPU and cell.device != CPU else machine


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
