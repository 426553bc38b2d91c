"""Figure of the fidelity table: rank correlation by form, right choices, and the gain against the reward's AUC."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..dto.reward_forms import REWARD_FORMS
from .fidelity import ALL
from .figures import BLUE, GREEN, GREY, ORANGE, PLAIN, legend_below

FORM_COLOURS = dict(zip(REWARD_FORMS, (BLUE, GREEN, ORANGE), strict=True))
CHOICES = {"gradient": ("gradient", "o"), "exact": ("exact score", "D")}  # label and marker
GAIN_FORM = "prefix"  # form of the right panel: the reward at the token itself


@plt.rc_context(PLAIN)
def draw(table: pd.DataFrame) -> Figure:
    """Draw the pooled rows.

    Args:
        table: rows of table.csv.
    """
    pooled = table[(table.policy == ALL) & (table.part == ALL)]
    rewards = list(dict.fromkeys(pooled.reward))
    height = max(3.7, 1.3 + 0.42 * len(rewards))
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, height), width_ratios=(1, 1, 1.1))
    _draw_correlations(left, pooled, rewards)
    _draw_choices(middle, pooled, rewards)
    _draw_gains(right, pooled[pooled.form == GAIN_FORM])
    legend_below(figure, ncol=6)
    return figure


def _offsets(form: str) -> float:
    return 0.22 * (REWARD_FORMS.index(form) - 1)


def _reward_axis(axis: Axes, rewards: list[str]) -> None:
    axis.set_yticks(range(len(rewards)), rewards, fontsize=8)
    axis.set_ylim(len(rewards) - 0.5, -0.5)
    axis.grid(axis="x", linewidth=0.3)


def _draw_correlations(axis: Axes, pooled: pd.DataFrame, rewards: list[str]) -> None:
    """Draw the rank correlation of each form with its interval."""
    for form, colour in FORM_COLOURS.items():
        rows = pooled[pooled.form == form].set_index("reward").loc[rewards]
        y = np.arange(len(rewards)) + _offsets(form)
        axis.hlines(y, rows.ci_low, rows.ci_high, color=colour, linewidth=1.2)
        axis.plot(rows.rank_correlation, y, "s", color=colour, markersize=5, label=f"{form} form")
    axis.axvline(0, color=GREY, linewidth=0.8)
    axis.set_xlim(-1.05, 1.05)
    axis.set_xlabel("rank correlation of predicted and exact change")
    axis.set_title("rank correlation by form", fontsize=10)
    _reward_axis(axis, rewards)


def _draw_choices(axis: Axes, pooled: pd.DataFrame, rewards: list[str]) -> None:
    """Draw how often the choice by gradient, exact score and policy is right."""
    for form, colour in FORM_COLOURS.items():
        rows = pooled[pooled.form == form].set_index("reward").loc[rewards]
        y = np.arange(len(rewards)) + _offsets(form)
        for name, (label, marker) in CHOICES.items():
            filled = colour if name == "gradient" else "white"
            axis.plot(rows[f"right_{name}"], y, marker, color=colour, markerfacecolor=filled, markersize=5)
            if form == REWARD_FORMS[0]:
                axis.plot([], [], marker, color="black", markerfacecolor=filled.replace(colour, "black"), label=label)
    policy = pooled[pooled.form == REWARD_FORMS[0]].set_index("reward").loc[rewards].right_policy
    axis.plot(policy, range(len(rewards)), "|", color="black", markersize=16, label="the policy's most likely token")
    axis.set_xlim(-3, 103)
    axis.set_xlabel("right choices where candidates differ, %")
    axis.set_title("share of right choices", fontsize=10)
    _reward_axis(axis, rewards)
    axis.set_yticklabels([])


def _draw_gains(axis: Axes, rows: pd.DataFrame) -> None:
    """Draw the gain over the policy's choice against the AUC within problems."""
    for name, (_, marker) in CHOICES.items():
        colour = FORM_COLOURS[GAIN_FORM]
        filled = colour if name == "gradient" else "white"
        axis.vlines(rows.auc_within, rows[f"gain_{name}_low"], rows[f"gain_{name}_high"], color=colour, linewidth=0.6)
        axis.plot(rows.auc_within, rows[f"gain_{name}"], marker, color=colour, markerfacecolor=filled, markersize=6)
    for row in rows.dropna(subset=["auc_within", "gain_exact", "gain_gradient"]).itertuples():
        height = max(row.gain_exact, row.gain_gradient)
        axis.annotate(row.reward, (row.auc_within, height), (0, 6), textcoords="offset points", fontsize=7, rotation=30)
    axis.margins(x=0.15, y=0.15)  # room for the names
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.set_xlabel("AUC of the reward on responses to the same problem")
    axis.set_ylabel("right choices minus the policy's, points")
    axis.set_title(f"gain against the reward's quality ({GAIN_FORM} form)", fontsize=10)
    axis.grid(linewidth=0.3)
