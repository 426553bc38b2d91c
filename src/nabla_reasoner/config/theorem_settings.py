"""Settings of the numerical checks of Theorem 4.1; values as in configs/experiment/theorem.yaml."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .schema import Count, Folder, Positive, Section, Seed, Settings, Threads, Wandb, check_ascending


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
