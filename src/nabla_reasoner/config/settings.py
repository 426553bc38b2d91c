"""Settings of every target: the only checker of values from the YAML files and the command line.

Each model refuses a value of the wrong type or out of range. Defaults stand in `configs/` only.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from .cell import Cell
from .schema import (
    Count,
    Device,
    Folder,
    Name,
    Positive,
    Section,
    Seed,
    Settings,
    Threads,
    Wandb,
    check_ascending,
    check_finite_numbers,
    describe_error,
)

Share = Annotated[float, Field(gt=0, le=1)]


class ResultsSettings(Settings):
    scale: str
    results_dir: Folder
    wandb: Wandb
    keep: bool


class ReportSettings(ResultsSettings):
    docs: bool

    @model_validator(mode="after")
    def _check_docs(self) -> "ReportSettings":
        if self.docs and self.scale != "tiny":
            raise ValueError(f"docs=true needs scale=tiny, whose rows stand in figures/data/; got scale={self.scale}.")
        return self


class ExportSettings(Settings):
    scale: str
    results_dir: Folder


class GradeSettings(Settings):
    answer: Name
    response: Name
    task: Name
    problem: Name | None
    finished: Name | None
    metadata: Name | None
    output: Folder | None
    overwrite: bool


class FiguresSettings(Settings):
    results_dir: Folder | None
    recompute: bool
    keep: bool


class PlanSettings(Settings):
    """`plan` also takes the settings of the target that it is asked about."""

    gpu: str | None


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
        check_ascending("times", self.times)
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
        check_ascending("separations", self.separations)
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
    threads: Threads
    wandb: Wandb
    keep: bool
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


class ShapeSettings(Section):
    model_type: Name
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    initializer_range: Positive

    @model_validator(mode="after")
    def _check_heads(self) -> "ShapeSettings":
        for whole, part in (("hidden_size", "num_attention_heads"), ("num_attention_heads", "num_key_value_heads")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"{whole} must be a multiple of {part}; got {getattr(self, whole)} and {getattr(self, part)}."
                )
        return self


class PPOModelSettings(Section):
    shape: ShapeSettings
    num_steps: Count
    learning_rate: Positive
    batch: Count


class TestTimeSettings(Section):
    draws: Annotated[list[Count], Field(min_length=1)]
    steps: Annotated[list[Count], Field(min_length=1)]
    langevin_step: Positive
    noise_step: Positive
    particles: Count
    iterations: Count
    step_size: Positive
    resample_temperature: Positive
    resample_top_p: Share
    confidence_threshold: Share
    solved: Annotated[int, Field(ge=0)]


class AmortisedSettings(Section):
    num_steps: Count
    learning_rate: Positive
    prompts: Count
    group: Annotated[int, Field(ge=2)]
    epochs: Count
    clip: Share
    critic_rate: Share


class PPOSettings(Settings):
    scale: Literal["tiny"]
    results_dir: Folder
    wandb: Wandb
    keep: bool
    threads: Threads | None
    seed: Seed
    length: Count
    compared: Count
    trained: Annotated[list[Count], Field(min_length=1)]
    held_out: Count
    reward_weights: Annotated[list[Positive], Field(min_length=1)]
    main: Positive
    targets: Annotated[list[Positive], Field(min_length=1)]
    models: PPOModelSettings
    deamortised: TestTimeSettings
    amortised: AmortisedSettings

    @model_validator(mode="after")
    def _check_sizes(self) -> "PPOSettings":
        for name, values in (
            ("trained", self.trained),
            ("reward_weights", self.reward_weights),
            ("deamortised.draws", self.deamortised.draws),
            ("deamortised.steps", self.deamortised.steps),
        ):
            check_ascending(name, values)
        if self.main not in self.reward_weights:
            raise ValueError(f"main must be one of reward_weights {self.reward_weights}; got {self.main}.")
        if self.compared > self.trained[-1]:
            raise ValueError(f"compared must be <= trained[-1] = {self.trained[-1]}; got {self.compared}.")
        return self


class BenchSettings(Settings):
    scale: Literal["tiny", "small"]
    results_dir: Folder
    wandb: Wandb
    keep: bool
    device: Device
    threads: Threads | None
    cases: list[str] | None = Field(min_length=1)
    server_python: Folder | None
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
    paper_size: dict[str, Any]

    @model_validator(mode="after")
    def _check_lists(self) -> "BenchSettings":
        for name in ("decoded_lengths", "growth_lengths", "growth_batches"):
            check_ascending(name, getattr(self, name))
        return self


SETTINGS: dict[str, type[BaseModel]] = {
    "cells": Cell,
    "cell": Cell,
    "results": ResultsSettings,
    "report": ReportSettings,
    "export": ExportSettings,
    "grade": GradeSettings,
    "figures": FiguresSettings,
    "plan": PlanSettings,
    "theorem": TheoremSettings,
    "ppo": PPOSettings,
    "bench": BenchSettings,
}


def check(kind: str, values: dict[str, Any]) -> BaseModel:
    """Return the settings as an object of `SETTINGS[kind]`.

    Raises:
        ValueError: the first wrong value: its key, what must hold, and what came.
    """
    check_finite_numbers(values)
    try:
        return SETTINGS[kind].model_validate(values)
    except ValidationError as error:
        raise ValueError(describe_error(error)) from error
