"""Plans as text for a terminal."""

import math
from collections.abc import Sequence

from ..config.cell import Cell
from ..config.workers import useful_workers
from .cells import CellPlan
from .expected_cost import number_width, reward_machine
from .machines import GB, Machine
from .memory import gigabytes
from .model_sizes import Model
from .training import Training
from .training import flops as training_flops
from .training import memory as training_memory
from .training import seconds as training_seconds
from .work import typical

HEADER = ("method", "decoded", "FLOPs", "hours", "policy", "reward", "caches", "activations", "logits", "GB in all")


def summary(plans: Sequence[CellPlan], machine: Machine) -> list[str]:
    """Return the whole plan: models, tasks, budgets, one row per cell, totals and assumptions."""
    return [
        *_models(plans),
        *_tasks(plans),
        *_budgets(plans),
        *_cells(plans, machine),
        *_totals(plans, machine),
        *_assumptions(plans[0].cell, machine),
    ]


def _models(plans: Sequence[CellPlan]) -> list[str]:
    width = number_width(plans[0].cell.dtype)
    lines = ["models:"]
    seen: dict[str, None] = {}
    for plan in plans:
        settings = [
            ("policy", plan.cell.policy.name),
            *[("reward", plan.cell.reward.name)] * len(plan.models.reward_models),
        ]
        for (group, name), model in zip(settings, plan.models.all, strict=True):
            seen[f"  {group} {name}: {_model(model, width)}{_source(plan.cell, group, model)}"] = None
    return [*lines, *seen]


def _model(model: Model, width: int) -> str:
    size = model.size
    padded = f" in {size.rows:,} rows (padded)" if size.rows != size.tokens else ""
    return (
        f"{model.name}, {model.elements / 1e6:,.1f} M parameters, {gigabytes(model.elements * width)} GB in memory, "
        f"{size.tokens:,} tokens{padded}; "
    )


def _source(cell: Cell, group: str, model: Model) -> str:
    """Say where a model comes from."""
    if model.on_disk:
        return "here"
    settings = cell.policy if group == "policy" else cell.reward
    origin = "unpacked on first use" if settings.prepare else "to be fetched from the hub, unless its cache has it"
    if settings.revision is not None:
        origin += f", at commit {settings.revision}"
    return f"{origin}, {gigabytes(download_bytes(cell, group, model))} GB; sizes from configs/model_sizes.yaml"


def download_bytes(cell: Cell, group: str, model: Model) -> float | int:
    """Return the bytes to be fetched for a model: hub models are stored in bfloat16."""
    stated = getattr(cell, group).download_gb
    if model.on_disk:
        return 0.0
    return 2.0 * model.elements if stated is None else stated * GB


def _tasks(plans: Sequence[CellPlan]) -> list[str]:
    lines = ["tasks, with their typical lengths (estimate.tasks of the scale; max_new_tokens is the limit):"]
    tasks: dict[str, CellPlan] = {}
    for plan in plans:
        tasks.setdefault(plan.cell.task.name, plan)
    for name, plan in tasks.items():
        known, numbers = typical(plan.cell)
        borrowed = "" if known == name else f"; not known, so those of {known} are assumed"
        lines.append(
            f"  {name}: {plan.problems} problems with repeats and seeds, prompts of {numbers.prompt_tokens:g} tokens, "
            f"answers of {plan.case.length:g}, at most {plan.case.limit}{borrowed}"
        )
    return lines


def _budgets(plans: Sequence[CellPlan]) -> list[str]:
    methods: dict[str, CellPlan] = {}
    for plan in plans:
        methods.setdefault(plan.name, plan)
    return ["budget of each method:", *(f"  {name}: {budget(plan)}" for name, plan in methods.items())]


def budget(plan: CellPlan) -> str:
    """Say what the budget of a plan's method counts, with its numbers."""
    method = plan.cell.method
    return method.meaning.format_map(_Settings(method.keywords())) or f"{plan.case.answers} responses"


class _Settings(dict):
    """Settings by name; a missing one is shown by its name."""

    def __missing__(self, key: str) -> str:
        return key


def _cells(plans: Sequence[CellPlan], machine: Machine) -> list[str]:
    """Return a table of cells, with a heading for each policy, reward and task."""
    groups: dict[str, list[CellPlan]] = {}
    for plan in plans:
        cell = plan.cell
        groups.setdefault(f"{cell.policy.name}, {cell.task.name}, reward {cell.reward.name}", []).append(plan)
    rows = {heading: [_row(plan) for plan in members] for heading, members in groups.items()}
    table = [HEADER, *[row for members in rows.values() for row in members]]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADER))]
    lines = [f"each cell on {machine.name}; memory by part in GB:", _line(HEADER, widths)]
    for heading, members in rows.items():
        lines += [f"  {heading}", *(_line(row, widths) for row in members)]
    return lines


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = [
        text.ljust(width) if i == 0 else text.rjust(width)
        for i, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "    " + "  ".join([first, *others])


def _row(plan: CellPlan) -> tuple[str, ...]:
    return (
        plan.name,
        number(plan.cost.decode_tokens),
        number(plan.cost.flops),
        hours(plan.seconds),
        *map(gigabytes, plan.memory),
        gigabytes(plan.memory.total),
    )


def number(value: float | int) -> str:
    """Format a large number with three digits."""
    return f"{value:.3g}" if value >= 1e6 else f"{value:,.0f}"


def hours(value: float | int) -> str:
    """Format seconds as hours."""
    return f"{value / 3600:.3g}" if value >= 36 else f"{value / 3600:.4f}"


def _totals(plans: Sequence[CellPlan], machine: Machine) -> list[str]:
    first = plans[0].cell
    workers = useful_workers(first, sum(plan.problems for plan in plans))
    spent = sum(plan.seconds for plan in plans)
    # the process with the most batches ends last
    wall = sum(plan.seconds * math.ceil(plan.batches / first.devices) / plan.batches for plan in plans) / workers
    fetched = {
        (plan.cell.policy.name if group == "policy" else plan.cell.reward.name, model.name): (plan.cell, group, model)
        for plan in plans
        for group, models in (("policy", [plan.models.policy]), ("reward", plan.models.reward_models))
        for model in models
    }
    by_name = {model.name: (cell, group, model) for cell, group, model in fetched.values()}
    download = sum(download_bytes(*item) for item in by_name.values())
    weights = sum(model.on_disk or 2 * model.elements for _, _, model in by_name.values())
    worst = max(plans, key=lambda plan: plan.memory.total)
    side = "" if workers == 1 else f", {workers} cells side by side, which need their memory each"
    return [
        "in all:",
        f"  decoded tokens {number(sum(plan.cost.decode_tokens for plan in plans))}, "
        f"FLOPs {number(sum(plan.cost.flops for plan in plans))}",
        f"  {hours(spent)} hours on one {machine.name}; {hours(wall)} hours with devices={first.devices}, "
        f"one process each{side}",
        f"  {hours(sum(plan.least_seconds for plan in plans))} hours on one {machine.name} by its bandwidth and "
        "arithmetic alone; the rest is launching kernels, which larger batches share",
        f"  peak memory {gigabytes(worst.memory.total)} of {gigabytes(machine.memory)} GB, in "
        f"{worst.cell.policy.name} {worst.cell.task.name} {worst.name}, with tokens_per_pass={first.tokens_per_pass} "
        f"decode_rows={first.decode_rows} batch_size={first.batch_size}",
        f"  disk {gigabytes(weights)} GB of weights, {gigabytes(sum(plan.records for plan in plans))} GB of records; "
        f"download {gigabytes(download)} GB",
    ]


def _assumptions(cell: Cell, machine: Machine) -> list[str]:
    place = reward_machine(cell, machine)
    host = [
        f"reward_device=cpu: the reward's models are assumed on two CPU cores with {place.flops / 1e12:.4g} TFLOP/s in "
        "bfloat16, which decides the hours; a node with more cores takes less."
    ]
    return [
        *(host if place is not machine else []),
        f"assumed: {machine.name} with {machine.bandwidth / GB:,.0f} GB/s and {machine.flops / 1e12:.4g} TFLOP/s, of "
        f"which decoding reaches {machine.step_share:.0%} and passes {machine.pass_share:.0%}; "
        f"{1000 * machine.layer_seconds:g} ms to launch a layer. Peaks are of the longest texts.",
        "Tokens and FLOPs of single cells were within a factor of 1.7 of measured runs at scale=tiny and small, "
        "gradient passes of 7 B on an H200 within 1.1 in memory and, from two sequences on, in seconds, whole cells "
        "there within 1.25 in memory; hours of whole GPU runs may be several times as many (docs/planning.md).",
    ]


TRAINING_HEADER = (
    "training",
    "trained",
    "tokens a step",
    "steps",
    "FLOPs",
    "hours",
    "weights",
    "gradients",
    "optimiser",
    "activations",
    "logits",
    "sampling",
    "GB in all",
)


def training_summary(trainings: Sequence[Training], machine: Machine) -> list[str]:
    """Return a row for each training, and the assumptions."""
    rows = [_training_row(training, machine) for training in trainings]
    table = [TRAINING_HEADER, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(TRAINING_HEADER))]
    devices = max(training.devices for training in trainings)
    spent = sum(training_seconds(training, machine) for training in trainings)
    return [
        f"each training on {devices} x {machine.name}; memory of one device by part in GB:",
        *(_line(row, widths) for row in table),
        f"in all {hours(spent)} hours",
        "assumed: every device holds weights, gradients and Adam's moments in float32; hours as for decoding and "
        "passes of the other targets. Not compared with a run.",
    ]


def _training_row(training: Training, machine: Machine) -> tuple[str, ...]:
    needed = training_memory(training, machine)
    return (
        training.name,
        number(training.trained),
        number(training.tokens * training.sequences),
        str(training.steps),
        number(sum(training_flops(training))),
        hours(training_seconds(training, machine)),
        *map(gigabytes, needed),
        gigabytes(needed.total),
    )
