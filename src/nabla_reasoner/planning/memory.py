"""Peak memory of a cell by part, and the largest settings with which a command fits a machine.

Every part is that of the longest texts which the settings allow, because one long answer is enough to run out.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..config.schema import CPU, SAME
from .expected_cost import Models, number_width
from .machines import GB, Machine
from .model_sizes import Model
from .work import Case, Work

LOGIT_BYTES = 16  # per entry of a row of logits in a decoding step: as computed, in float32, softmax and cuts
DTO_BYTES = 44  # per entry of a row that DTO updates: logits, gradient, two moments, parameter, and temporaries
SLACK = 0.97  # share of a machine's memory that a run may plan for
ROUND = 256  # settings in tokens are multiples of this


class Limits(NamedTuple):
    """Settings that decide the peak."""

    tokens_per_pass: int
    decode_rows: int
    batch_size: int

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self._asdict().items())


class Memory(NamedTuple):
    """Bytes by part.

    Attributes:
        policy, reward: weights; the reward's include a reference model's.
        caches: keys and values of both models.
        activations: what the largest pass keeps for its backward pass, or needs for one layer without one.
        logits: rows of logits in decoding and in DTO, with the optimiser's moments, and stored hidden states.
    """

    policy: float | int
    reward: float | int
    caches: float | int
    activations: float | int
    logits: float | int

    @property
    def total(self) -> float | int:
        """All parts together."""
        return sum(self)


Demand = Callable[[Limits], Memory]  # memory of a cell as a function of its settings


def memory(case: Case, work: Work, models: Models, limits: Limits) -> Memory:
    """Return the peak memory of a cell; with a device for the reward, that of the device which needs more."""
    policies, reward_models, place = [models.policy], models.reward_models, case.cell.reward_device
    if place == SAME:
        return _on_device(case, work, models, limits, policies, reward_models)
    of_policy = _on_device(case, work, models, limits, policies, [])
    if place == CPU:  # its memory is not the machine's
        return of_policy
    return max(of_policy, _on_device(case, work, models, limits, [], reward_models), key=lambda parts: parts.total)


def _on_device(
    case: Case, work: Work, models: Models, limits: Limits, policies: Sequence[Model], reward_models: Sequence[Model]
) -> Memory:
    """Return the peak memory of a device that holds the policy, the reward's models, or both."""
    width = number_width(case.cell.dtype)
    longest = case.prompt + case.limit
    batch = min(limits.batch_size, case.batch)
    stretch = case.stretch(batch, padded=work.padded)
    placed = [*policies, *reward_models]
    cached = [*policies, *(reward_models if work.reward_forward or work.reward_steps else [])]
    rows = min(max((part.rows for part in work.decodings), default=0) * batch / case.batch, limits.decode_rows)
    read = max(min(limits.tokens_per_pass, longest * max(batch, rows)), longest)
    deciding = placed if work.gradient else policies
    decoders = {"policy": policies, "reward": reward_models, "both": placed}[work.decodes]
    per_token = [model.kept_bytes(width) if work.gradient else model.layer_bytes(width) for model in placed]
    decoded = rows * LOGIT_BYTES if decoders else 0
    updated = batch * work.rows * DTO_BYTES if policies else 0
    hidden = sum(model.size.hidden for model in placed) * (width if work.gradient else 0)
    return Memory(
        policy=sum(model.elements for model in policies) * width,
        reward=sum(model.elements for model in reward_models) * width,
        caches=batch * work.kept_tokens * stretch * sum(model.cache_bytes(width) for model in cached)
        + rows * longest * sum(model.cache_bytes(width) for model in decoders)
        + read * max((model.cache_bytes(width) for model in deciding), default=0),
        activations=read * max(per_token),
        logits=models.policy.size.rows * (decoded + updated) + batch * longest * 2 * hidden,
    )


def fits(demands: Sequence[Demand], limits: Limits, machine: Machine) -> bool:
    """Return whether every cell fits the machine."""
    return all(demand(limits).total <= SLACK * machine.memory for demand in demands)


def largest(demands: Sequence[Demand], limits: Limits, machine: Machine, longest: int) -> Limits | None:
    """Return the largest settings up to `limits` with which all cells fit, or None.

    Tokens of a pass are reduced first, then sequences decoded side by side down to one per problem, then problems
    solved together. What turns out not to be needed is given back, in the opposite order.

    Args:
        longest: tokens of the longest text; a pass reads at least these.
    """
    fewest = min(ROUND * -(-longest // ROUND), limits.tokens_per_pass)
    fitting = limits._replace(tokens_per_pass=fewest)
    while not fits(demands, fitting, machine) and (fitting.batch_size > 1 or fitting.decode_rows > 1):
        if fitting.decode_rows > fitting.batch_size:
            fitting = fitting._replace(decode_rows=max(fitting.decode_rows // 2, fitting.batch_size))
        else:
            fitting = fitting._replace(
                batch_size=max(fitting.batch_size // 2, 1), decode_rows=max(fitting.decode_rows // 2, 1)
            )
    if not fits(demands, fitting, machine):
        return None
    for name, unit in (("batch_size", 1), ("decode_rows", 1), ("tokens_per_pass", ROUND)):
        low, high = getattr(fitting, name) // unit, getattr(limits, name) // unit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (
                (middle, high) if fits(demands, _raised(fitting, name, middle * unit), machine) else (low, middle - 1)
            )
        fitting = _raised(fitting, name, low * unit)
    return fitting


def _raised(limits: Limits, name: str, value: int) -> Limits:
    """Return limits with one setting raised; every problem of a batch keeps a row for its response."""
    raised = limits._replace(**{name: max(value, getattr(limits, name))})
    return raised._replace(decode_rows=max(raised.decode_rows, raised.batch_size))


def gigabytes(amount: float | int) -> str:
    """Format bytes in GB."""
    return f"{amount / GB:.1f}" if amount >= 0.1 * GB else f"{amount / GB:.3f}"
