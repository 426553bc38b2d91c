"""Curves of accuracy against compute, Figure 4: a drawing for each measure of compute, a panel per policy and task."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .figures import legend_below, log_ticks
from .method_names import BEST_OF_N, MULTIPASS, NABLA_REASONER, PREFIX, STYLES

COST_AXES = {"model_calls": "model calls", "flops": "FLOPs", "seconds": "seconds"}
FILES = {"figure4": "model_calls", "figure4_flops": "flops", "figure4_seconds": "seconds"}  # the paper's axis first
CEILING, BEST_REWARD = "any_of_n", "best_reward"  # rows of ceilings, beside the methods
BANDS = (
    BEST_OF_N,
    NABLA_REASONER,
    PREFIX,
)  # the compared methods; the others have an interval at the end of their curves
BUDGETS = (1, 2, 4, 8, 16, 32)  # marked on a curve, with its end


def curves(rows: pd.DataFrame, axis: str = "model_calls") -> Figure:
    """Draw accuracy with 95 % intervals against a measure of compute; a row of panels per task, a column per policy.

    Args:
        rows: columns `figure4.COLUMNS`.
        axis: one of `COST_AXES`.

    Raises:
        ValueError: there are no rows.
    """
    if rows.empty:
        raise ValueError("a figure needs at least one curve; got none. Run ./reproduce.sh table1 first.")
    policies, tasks = list(dict.fromkeys(rows.policy)), list(dict.fromkeys(rows.task))
    shape = {"figsize": (0.6 + 4.0 * len(policies), 0.3 + 2.6 * len(tasks)), "squeeze": False, "sharey": "row"}
    figure, panels = plt.subplots(len(tasks), len(policies), **shape)
    for task, panel_row in zip(tasks, panels, strict=True):
        for policy, panel in zip(policies, panel_row, strict=True):
            panel.set_title(f"{policy}, {task}", fontsize=10, parse_math=False)
            cell = rows[(rows.policy == policy) & (rows.task == task)]
            if len(cell):
                _draw_cell(panel, cell, axis)
            else:
                panel.text(0.5, 0.5, "not run", transform=panel.transAxes, ha="center")
        panel_row[0].set_ylabel("accuracy, %")
    for panel in panels[-1]:
        panel.set_xlabel(f"{COST_AXES[axis]} per problem")
    legend_below(figure, ncol=3)
    return figure


def _draw_cell(panel: Axes, rows: pd.DataFrame, axis: str) -> None:
    """Draw the curves of one policy and task, and its ceilings."""
    for method, style in STYLES.items():
        points = rows[rows.method == method]
        if points.empty:
            continue
        if method == "greedy":
            panel.axhline(points.accuracy.iloc[0], color=style.colour, linestyle=":", linewidth=1.2)
        marked = points.rollouts.isin(BUDGETS) | (points.rollouts == points.rollouts.max())
        panel.plot(
            points[axis],
            points.accuracy,
            color=style.colour,
            marker=style.marker,
            label=style.label,
            linewidth=2 if method in BANDS else 1.2,
            linestyle="--" if method == MULTIPASS else "-",
            markevery=marked.to_numpy().nonzero()[0].tolist(),
            markersize=9 if style.marker in "*P" else 5,
            zorder=3 if method in BANDS else 2,
        )
        if method in BANDS and len(points) > 1:
            panel.fill_between(points[axis], points.ci_low, points.ci_high, color=style.colour, alpha=0.15, linewidth=0)
            continue
        end = points.iloc[[-1]]
        error = [end.accuracy - end.ci_low, end.ci_high - end.accuracy]
        panel.errorbar(end[axis], end.accuracy, yerr=error, color=style.colour, linestyle="none", capsize=2)
    _draw_ceilings(panel, rows, axis)
    panel.set_xscale("log")
    log_ticks(panel.xaxis, labelsize=8)
    panel.grid(alpha=0.3)


def _draw_ceilings(panel: Axes, rows: pd.DataFrame, axis: str) -> None:
    """Draw the most that a choice among N samples can reach, and the accuracy of the highest reward found."""
    label = "ceiling of Best-of-N: any of the N samples right"
    ceiling = rows[rows.method == CEILING]
    panel.plot(ceiling[axis], ceiling.accuracy, color="black", linestyle="--", linewidth=1.2, label=label)
    for height in rows.accuracy[rows.method == BEST_REWARD]:
        panel.axhline(
            height, color="black", linestyle="-.", linewidth=1.2, label="ceiling of the reward: highest reward found"
        )
