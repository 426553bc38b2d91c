"""Settings of every target: the only checker of values from the YAML files and the command line.

Each model refuses a value of the wrong type or out of range. Defaults stand in `configs/` only.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from .cell import Cell
from .ppo_settings import PPOSettings
from .schema import (
    Count,
    Device,
    Folder,
    ModelShape,
    Name,
    Positive,
    Section,
    Settings,
    Threads,
    Wandb,
    check_ascending,
    check_finite_numbers,
    describe_error,
)
from .target_cells import AblationCell, FidelityCell, SolveCell
from .theorem_settings import TheoremSettings


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


class BenchShape(ModelShape):
    max_position_embeddings: Count
    tie_word_embeddings: bool


class MemoryShape(BenchShape):
    initializer_range: Positive


class RewardShape(BenchShape):
    head_dim: Count


class MemorySettings(Section):
    vocab_size: Count
    length: Count
    shape: MemoryShape


class PaperSizeSettings(Section):
    batches: Annotated[list[Count], Field(min_length=1)]
    vocab_size: Count
    length: Count
    matrix_size: Count
    policy_shape: BenchShape
    reward_shape: RewardShape

    @model_validator(mode="after")
    def _check_batches(self) -> "PaperSizeSettings":
        check_ascending("batches", self.batches)
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
    memory: MemorySettings
    paper_size: PaperSizeSettings

    @model_validator(mode="after")
    def _check_lists(self) -> "BenchSettings":
        for name in ("decoded_lengths", "growth_lengths", "growth_batches"):
            check_ascending(name, getattr(self, name))
        return self


SETTINGS: dict[str, type[BaseModel]] = {
    "cells": Cell,
    "cell": Cell,
    "ablations": AblationCell,
    "fidelity": FidelityCell,
    "solve": SolveCell,
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
