"""Types and ranges of all settings; paths and valid names.

`SETTINGS` is the only checker: values come from the YAML files and the command line, and every model below refuses a
value of the wrong type or out of range.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs"
GROUPS = ("policy", "reward", "variant", "task", "method", "scale")
SPLITS = ("test", "validation")

Cell = dict[str, Any]  # the resolved settings of one (policy, task, method, seed)
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]
Device = Literal["cpu", "cuda"]
WANDB_MODES = ("offline", "online", "disabled")
Wandb = Literal[WANDB_MODES]
Folder = Annotated[str, Field(min_length=1)]


def choices(group: str) -> list[str]:
    """Return the names that `group=NAME` may take."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


class Settings(BaseModel):
    """Settings of one target; immutable, unknown keys refused."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Section(BaseModel):
    """A group of settings whose further keys have no range of their own."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")


class TaskSettings(Section):
    name: str
    repeats: Count


class CellSettings(Section):
    """What every cell has; methods and models check their own settings when they are built."""

    seed: Seed
    num_problems: Count | None
    batch_size: Count
    max_new_tokens: Count
    split: Literal[SPLITS]
    device: Device
    dtype: str
    threads: Count | None
    devices: Count
    num_nodes: Count
    pool_seeds: Count
    budget: bool
    overwrite: bool
    results_dir: Folder
    wandb: Wandb
    task: TaskSettings

    @model_validator(mode="after")
    def _check_split(self) -> "CellSettings":
        if self.split != "test" and not hasattr(self.task, "dataset"):
            raise ValueError(
                f"split={self.split} is for generated tasks only; got task {self.task.name}. Use split=test."
            )
        return self


class ResultsSettings(Settings):
    scale: str
    results_dir: Folder
    wandb: Wandb


class ReportSettings(ResultsSettings):
    docs: bool

    @model_validator(mode="after")
    def _check_docs(self) -> "ReportSettings":
        if self.docs and self.scale != "tiny":
            raise ValueError(f"docs=true needs scale=tiny, whose rows stand in figures/data/; got scale={self.scale}.")
        return self


class FiguresSettings(Settings):
    results_dir: Folder | None
    recompute: bool


class PlanSettings(Settings):
    """`plan` takes the settings of the target that it is asked about."""


class SpaceSettings(Section):
    """A space of the checks of Theorem 4.1."""

    cells: Count
    bins: Count
    argmin_cells: Count
    probe_width: Positive
    particles: Count
    step: Positive
    times: Annotated[list[Positive], Field(min_length=1)]
    limit_particles: Count
    limit_step: Positive | None
    limit_time: Positive
    exact_step: Positive
    coarse_step: Positive
    reward_weight: float

    @model_validator(mode="after")
    def _check_grid(self) -> "SpaceSettings":
        if self.cells % self.bins:
            raise ValueError(f"cells must be a multiple of bins; got {self.cells} and {self.bins}.")
        _check_ascending("times", self.times)
        return self


class TextSettings(SpaceSettings):
    nodes: Annotated[list[Count], Field(min_length=2, max_length=2)]


class JKOSettings(Section):
    nodes: Count
    steps: Count
    time: Positive


class ParticleSettings(Section):
    particles: Count
    step: Positive
    time: Positive


class NoiseSettings(ParticleSettings):
    scan_particles: Count
    kl_weights: list[Positive]


class ConvergenceSettings(Section):
    scale: Positive
    separations: Annotated[list[Positive], Field(min_length=1)]
    simulated: Count
    particles: Count
    step: Positive
    cells: Count

    @model_validator(mode="after")
    def _check_separations(self) -> "ConvergenceSettings":
        _check_ascending("separations", self.separations)
        return self


class PropC1Settings(Section):
    models: list[str]
    problems: Count

    @model_validator(mode="after")
    def _check_models(self) -> "PropC1Settings":
        for name in self.models:
            if name.count("/") != 1:
                raise ValueError(f"models must be a list of POLICY/REWARD, e.g. [tiny-base/likelihood]; got {name!r}.")
        return self


class Eq25Settings(Section):
    vocab_sizes: list[Count]
    directions: Count
    points: Count


class EstimatorSettings(Section):
    candidates: Count
    samples: Count


CHECKS = (
    "surrogate",
    "argmin",
    "velocity",
    "jko",
    "finite_times",
    "long_run",
    "without_noise",
    "noise",
    "convergence",
    "prop_c1",
    "eq25",
    "estimators",
)


class TheoremSettings(Settings):
    results_dir: Folder
    checks: list[Literal[CHECKS]] | None = Field(min_length=1)
    seed: Seed
    threads: Count
    wandb: Wandb
    line: SpaceSettings
    plane: SpaceSettings
    text: TextSettings
    jko: JKOSettings
    without_noise: ParticleSettings
    noise: NoiseSettings
    convergence: ConvergenceSettings
    prop_c1: PropC1Settings
    eq25: Eq25Settings
    estimators: EstimatorSettings


class TestTimeSettings(Section):
    draws: Annotated[list[Count], Field(min_length=1)]
    steps: Annotated[list[Count], Field(min_length=1)]


class PPOSettings(Settings):
    scale: Literal["tiny"]
    results_dir: Folder
    wandb: Wandb
    threads: Count | None
    seed: Seed
    length: Count
    compared: Count
    trained: Annotated[list[Count], Field(min_length=1)]
    held_out: Count
    reward_weights: Annotated[list[Positive], Field(min_length=1)]
    main: Positive
    targets: Annotated[list[Positive], Field(min_length=1)]
    models: dict[str, Any]
    deamortised: TestTimeSettings
    amortised: dict[str, Any]

    @model_validator(mode="after")
    def _check_sizes(self) -> "PPOSettings":
        for name, values in (
            ("trained", self.trained),
            ("reward_weights", self.reward_weights),
            ("deamortised.draws", self.deamortised.draws),
            ("deamortised.steps", self.deamortised.steps),
        ):
            _check_ascending(name, values)
        if self.main not in self.reward_weights:
            raise ValueError(f"main must be one of reward_weights {self.reward_weights}; got {self.main}.")
        if self.compared > self.trained[-1]:
            raise ValueError(f"compared must be <= trained[-1] = {self.trained[-1]}; got {self.compared}.")
        return self


class BenchSettings(Settings):
    scale: Literal["tiny", "small"]
    results_dir: Folder
    wandb: Wandb
    device: Device
    threads: Count | None
    cases: list[str] | None = Field(min_length=1)
    repeats: Count
    policies: Annotated[list[str], Field(min_length=1)]
    tasks: Annotated[list[str], Field(min_length=1)]
    num_problems: Count
    printed_problems: Count
    batch_problems: Count
    batch_size: Count
    reference_problems: Count
    sequences: Count
    decoded_lengths: Annotated[list[Annotated[int, Field(ge=3)]], Field(min_length=1)]
    growth_lengths: Annotated[list[Annotated[int, Field(ge=3)]], Field(min_length=1)]
    growth_batches: Annotated[list[Count], Field(min_length=1)]
    growth_length: Count
    memory: dict[str, Any]
    utilisation: dict[str, Any]

    @model_validator(mode="after")
    def _check_lists(self) -> "BenchSettings":
        for name in ("decoded_lengths", "growth_lengths", "growth_batches"):
            _check_ascending(name, getattr(self, name))
        return self


SETTINGS: dict[str, type[BaseModel]] = {
    "cells": CellSettings,
    "cell": CellSettings,
    "results": ResultsSettings,
    "report": ReportSettings,
    "figures": FiguresSettings,
    "plan": PlanSettings,
    "theorem": TheoremSettings,
    "ppo": PPOSettings,
    "bench": BenchSettings,
}


def _check_ascending(name: str, values: Sequence[float | int]) -> None:
    if values != sorted(set(values)):
        raise ValueError(f"{name} must ascend without repeats; got {values}.")


def check(kind: str, values: dict[str, Any]) -> BaseModel:
    """Return the settings as an object of `SETTINGS[kind]`.

    Raises:
        ValueError: the first wrong value: its key, what must hold, and what came.
    """
    try:
        return SETTINGS[kind].model_validate(values)
    except ValidationError as error:
        raise ValueError(_describe(error)) from error


def _describe(error: ValidationError) -> str:
    """Return one sentence on the first error."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
    context, kind, value = first.get("ctx", {}), first["type"], first["input"]
    if kind == "value_error":
        message = str(context["error"])
        return f"{key}.{message}" if key else message
    rules = {
        "int_type": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "text",
        "list_type": "a list",
        "dict_type": "a group of settings",
        "greater_than_equal": f"a whole number >= {context.get('ge')}",
        "greater_than": f"a number > {context.get('gt')}",
        "literal_error": f"one of {str(context.get('expected', '')).replace(' or ', ', ')}",
        "too_short": f"a list of at least {context.get('min_length')}",
        "too_long": f"a list of at most {context.get('max_length')}",
        "missing": "given",
        "extra_forbidden": "a known setting",
    }
    rule = rules.get(kind, first["msg"][0].lower() + first["msg"][1:])
    example = "[A,B]" if kind in ("list_type", "too_short") else "VALUE"
    return f"{key} must be {rule}; got {value!r}. Write {key}={example}."
