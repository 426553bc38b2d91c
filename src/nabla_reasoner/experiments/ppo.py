"""Deamortised against amortised PPO: the optimum of Eq. 3, and the methods that approach it.

Writes ppo.csv (a row per method, amount, λ and set of prompts), curves.csv (amortised policies during training),
break_even.csv, ppo.md (tables and verdict, from those rows), the figure, and the two models of the task (`models/`).

Columns of ppo.csv; all are means over `num_measured` prompts:

    side, method        amortised: a network was trained; deamortised: compute spent on each prompt; reference
    amount              samples, steps, sweeps, iterations, or optimiser steps
    reward_weight       λ
    trained_on          prompts that an amortised policy was trained on
    measured_on         compared (trained on, too), trained, held_out
    kl, kl_low, kl_high KL(ρ‖ρ*) in nats: mean, smallest and largest over prompts; L_PPO(ρ) - L_PPO(ρ*) is the same
    tv, reward          total variation to ρ*; E_ρ[r] in nats
    kl_to_policy        KL(ρ‖π) in nats
    bound               Best-of-N: log N - (N - 1)/N, which kl_to_policy cannot exceed
    flops               expected FLOPs of one answer, without training
    training_flops      FLOPs of the training so far
    gradient_evaluations  expected number for one answer
    samples             0: the distribution is exact; otherwise the samples of an estimate
    kl_floor, tv_floor  what the same number of exact samples from ρ* gives
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

from ..config.ppo_settings import PPOSettings
from ..models.quiet import quiet_libraries
from ..ppo import letter_task, tables
from ..ppo.comparison import PPOComparison
from ..ppo.figure import comparison as draw_comparison
from ..ppo.verdict import markdown
from ..reporting import figures
from ..reporting.frames import read_frame
from .command import Command, refusing
from .recording import Progress, Recording

FILES = ("ppo.csv", "curves.csv", "break_even.csv", "ppo.md", "ppo.png", "ppo.pdf", "summary.json")


@quiet_libraries()
def run(command: Command, settings: PPOSettings) -> int:
    """Run the comparison; return the exit status."""
    with refusing():
        _check_prompts(settings)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    scope = {"scale": settings.scale, "varied": {"seed": [settings.seed]}, "replaces": (*FILES, "models")}
    with Recording(command, settings.model_dump(), **scope) as recording:
        folder = recording.folder
        comparison = PPOComparison(settings, folder)
        trainings = len(comparison.trainings())
        with Progress(100.0 + 8.0 * trainings, 3 + trainings) as progress:
            for name, weight, work in comparison.stages():
                with progress.part(name, weight) as part:
                    work(part.advance)
        print(_write(comparison, settings, folder, command.recipe))
        main = comparison_table(comparison)
        main = main[(main.reward_weight == settings.main) & (main.measured_on == "compared")]
        return recording.finish(
            tables=("ppo", "curves", "break_even"),
            metrics={f"kl/{row.method}/{row.amount:g}": row.kl for row in main.itertuples()},
            facts={"threads": torch.get_num_threads(), "engine": comparison.engine},
        )


def comparison_table(comparison: PPOComparison) -> pd.DataFrame:
    """Return the rows of ppo.csv."""
    return pd.DataFrame(comparison.rows)[tables.COLUMNS]


def _write(comparison: PPOComparison, settings: PPOSettings, folder: Path, line: str) -> str:
    """Write tables, text and figure; returns the text."""
    table, curves = comparison_table(comparison), pd.DataFrame(comparison.curves)
    crossing = tables.break_even(table, curves, settings.main, settings.targets)
    text = markdown(table, crossing, comparison.engine, settings.main, line)
    for name, frame in (("ppo", table), ("curves", curves), ("break_even", crossing)):
        frame.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    (folder / "ppo.md").write_text(text, encoding="utf-8")
    rows = [read_frame(folder / f"{name}.csv") for name in ("ppo", "curves", "break_even")]
    figure = draw_comparison(*rows, settings.main)
    figures.save(figure, folder, "ppo")
    plt.close(figure)
    return text


def _check_prompts(settings: PPOSettings) -> None:
    """Raise ValueError if there are fewer prompts than the settings ask for."""
    total = len(letter_task.ALPHABET) ** settings.length
    wanted = settings.trained[-1] + settings.held_out
    if wanted > total:
        raise ValueError(f"trained[-1] + held_out must be <= {total} prompts (length); got {wanted}.")
