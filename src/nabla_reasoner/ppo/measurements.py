"""Distances of answer distributions from ρ* and π, as rows of ppo.csv and curves.csv."""

from collections.abc import Iterable

import lightning
import numpy as np
import pandas as pd

from ..config.ppo_settings import AmortisedSettings
from .amortized import AmortisedTraining, ScoredPrompts
from .exact_distributions import LogProbs, divergence, expected, optimum, total_variation

Row = dict[str, str | int | float | None]  # by column


def mean_row(
    distributions: Iterable[LogProbs], scored: Iterable[tuple[LogProbs, LogProbs]], reward_weight: float
) -> Row:
    """Return mean distances over prompts, as columns of ppo.csv.

    Args:
        distributions: one for each prompt.
        scored: log π and r of every answer, for each prompt.
    """
    rows = []
    for distribution, (prior, rewards) in zip(distributions, scored, strict=True):
        target = optimum(prior, rewards, reward_weight)
        rows.append(
            {
                "kl": divergence(distribution, target),
                "tv": total_variation(distribution, target),
                "reward": expected(distribution, rewards),
                "kl_to_policy": divergence(distribution, prior),
            }
        )
    frame = pd.DataFrame(rows)
    return {
        "kl": frame.kl.mean(),
        "kl_low": frame.kl.min(),
        "kl_high": frame.kl.max(),
        **{key: frame[key].mean() for key in ("tv", "reward", "kl_to_policy")},
        "num_measured": len(frame),
    }


class Measurements(lightning.Callback):
    """Rows of curves.csv: distances of a policy network after some optimiser steps, spaced evenly in log(step).

    Args:
        sets: prompts to measure on, by name.
        batch_flops: FLOPs of one batch with all its optimiser steps.
    """

    def __init__(self, sets: dict[str, ScoredPrompts], settings: AmortisedSettings, batch_flops: float):
        self.sets = sets
        self.epochs = settings.epochs
        self.batch_flops = batch_flops
        last = settings.num_steps
        self.steps = {*np.geomspace(1, last, 12).round().astype(int).tolist(), last}
        self.rows: list[Row] = []

    def on_train_batch_end(self, trainer, module: AmortisedTraining, outputs, batch, index: int) -> None:
        step = index + 1
        if step not in self.steps:
            return
        for name, scored in self.sets.items():
            answers = zip(scored.prior, scored.rewards, strict=True)
            self.rows.append(
                {
                    "method": module.method,
                    "amount": step,
                    "reward_weight": module.reward_weight,
                    "trained_on": len(module.scored.prompts),
                    "measured_on": name,
                    **mean_row(module.distributions(scored), answers, module.reward_weight),
                    "training_flops": self.batch_flops * -(-step // self.epochs),
                }
            )
