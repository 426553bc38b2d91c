"""Settings of the numerical checks of Theorem 4.1; values as in configs/experiment/theorem.yaml."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from .schema import (
    LARGEST,
    Count,
    Folder,
    Name,
    Positive,
    Section,
    Seed,
    Settings,
    Threads,
    Wandb,
    check_ascending,
    choices,
)


def _check_choice(group: str) -> AfterValidator:
    """Return a check that a name is a choice of a group."""

    def check(name: str) -> str:
        if name not in choices(group):
            raise PydanticCustomError("choice", f"one of {', '.join(choices(group))}")
        return name

    return AfterValidator(check)


Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Point = Annotated[list[Number], Field(min_length=1)]
Policy, Reward, Task = (Annotated[str, _check_choice(group)] for group in ("policy", "reward", "task"))
Tasks = Annotated[list[Task], Field(min_length=1)]


class MixtureSettings(Section):
    """The shape of a space: weights and means of π, heights and centres of the bumps of r."""

    weights: Annotated[list[Positive], Field(min_length=1)]
    means: Annotated[list[Point], Field(min_length=1)]
    scale: Positive
    heights: Annotated[list[Number], Field(min_length=1)]
    centres: Annotated[list[Point], Field(min_length=1)]
    width: Positive
    reach: Positive

    @model_validator(mode="after")
    def _check_lengths(self) -> "MixtureSettings":
        for name, points in (("weights", "means"), ("heights", "centres")):
            if len(getattr(self, name)) != len(getattr(self, points)):
                raise ValueError(
                    f"{name} must be as many as {points}; got {len(getattr(self, name))} and "
                    f"{len(getattr(self, points))}."
                )
        if len({len(point) for point in (*self.means, *self.centres)}) > 1:
            raise ValueError(
                "means must be points of as many coordinates each as those of centres; got "
                f"{self.means} and {self.centres}."
            )
        return self


class SpaceSettings(Section):
    """A space of the checks of Theorem 4.1; configs/experiment/theorem.yaml explains the keys.

    Attributes:
        limit_step: step of Euler's rule in the long run; None leaves Euler's rule out.
    """

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
    reward_weight: Number

    @model_validator(mode="after")
    def _check_grid(self) -> "SpaceSettings":
        if self.cells % self.bins:
            raise ValueError(f"cells must be a multiple of bins; got {self.cells} and {self.bins}.")
        check_ascending("times", self.times)
        return self


class GaussianSpaceSettings(SpaceSettings):
    shape: MixtureSettings


class TextSettings(SpaceSettings):
    policy: Policy
    reward: Reward
    question: Name
    prefix: str
    response: Name
    positions: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]
    others: Annotated[list[Name], Field(min_length=2, max_length=2)]
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
    kl_weights: Annotated[list[Positive], Field(min_length=1)]
    factors: Annotated[list[Positive], Field(min_length=1)]


class ConvergenceSettings(Section):
    scale: Positive
    reward_weight: Number
    separations: Annotated[list[Positive], Field(min_length=1)]
    simulated: Count
    particles: Count
    step: Positive
    cells: Count

    @model_validator(mode="after")
    def _check_separations(self) -> "ConvergenceSettings":
        check_ascending("separations", self.separations)
        return self


def _check_pair(name: str) -> str:
    """Return POLICY/REWARD if both are choices of their groups."""
    policy, _, reward = name.partition("/")
    for group, choice in (("policy", policy), ("reward", reward)):
        if choice not in choices(group):
            raise PydanticCustomError(
                "pair",
                f"a pair POLICY/REWARD, e.g. tiny-base/likelihood, its {group} one of {', '.join(choices(group))}",
            )
    return name


def _check_model(model: int | str) -> int | str:
    """Return the seed of random models as it is, and a pair if both are choices of their groups."""
    if isinstance(model, int) and model < 0:
        raise PydanticCustomError("seed", "a seed >= 0 of random models, or a pair POLICY/REWARD")
    return model if isinstance(model, int) else _check_pair(model)


Pair = Annotated[str, AfterValidator(_check_pair)]
Model = Annotated[int | str, AfterValidator(_check_model)]
Temperatures = Annotated[list[Positive], Field(min_length=1)]


class PropC1Tasks(Section):
    """Tasks of SmolLM2 and of all other policies."""

    tiny: Tasks
    smollm2: Tasks


class PropC1Settings(Section):
    models: Annotated[list[Pair], Field(min_length=1)]
    tasks: PropC1Tasks
    problems: Count


class Eq25Settings(Section):
    vocab_sizes: Annotated[list[Annotated[int, Field(ge=2, le=LARGEST)]], Field(min_length=1)]
    temperatures: Temperatures
    directions: Count
    points: Count


class EstimatorSettings(Section):
    """Settings of the gradient estimators' checks.

    Attributes:
        models: seeds of random models, or POLICY/REWARD of shipped ones.
        candidates: number of tokens at each position.
        temperatures: values of τ of Gumbel-softmax.
        samples: number of Gumbel samples.
        reward_weight: λ; ν is 1.
    """

    models: Annotated[list[Model], Field(min_length=1)]
    candidates: Count
    temperatures: Temperatures
    samples: Count
    reward_weight: Number


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
    line: GaussianSpaceSettings
    plane: GaussianSpaceSettings
    text: TextSettings
    jko: JKOSettings
    without_noise: ParticleSettings
    noise: NoiseSettings
    convergence: ConvergenceSettings
    prop_c1: PropC1Settings
    eq25: Eq25Settings
    estimators: EstimatorSettings
