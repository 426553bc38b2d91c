"""Figures 3 and 4: model calls by method, accuracy against compute; from the rows of `expenses` and `curves`."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .figures import STYLES

PARTS = {
    "decoding": ("decoded tokens", "#0072B2"),
    "passes": ("prefills, rewards and other whole-sequence passes", "#56B4E9"),
    "gradients": ("gradient evaluations, 4 each", "#D55E00"),
}
AXES = {
    "model_calls": "model calls per problem",
    "flops": "FLOPs per problem",
    "seconds": "seconds per problem",
}


def costs(rows: pd.DataFrame) -> Figure:
    """Stacked bars of model calls by method; one panel per policy and task.

    Args:
        rows: of `expenses.COST_COLUMNS`.

    Raises:
        ValueError: no rows.
    """
    if rows.empty:
        raise ValueError("a figure needs at least one finished cell; got none. Run ./reproduce.sh table1 first.")
    policies, tasks = list(dict.fromkeys(rows.policy)), list(dict.fromkeys(rows.task))
    shape = {"figsize": (4.2 * len(tasks) + 1.6, 2.9 * len(policies) + 0.6), "squeeze": False, "sharey": True}
    figure, panels = plt.subplots(len(policies), len(tasks), **shape)
    methods = [method for method in STYLES if method in set(rows.method)]
    for policy, line in zip(policies, panels, strict=True):
        for task, panel in zip(tasks, line, strict=True):
            _bars(panel, rows[(rows.policy == policy) & (rows.task == task)].set_index("method"), methods)
            panel.set_title(f"{policy}, {task}", fontsize=9)
    for panel in panels[-1]:
        panel.set_xlabel("model calls per problem")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    columns = 1 if len(tasks) == 1 else 3
    figure.legend(handles, labels, ncol=columns, loc="lower center", fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, (0.7 if columns == 1 else 0.35) / figure.get_figheight(), 1, 1))
    return figure


def _bars(panel: Axes, own: pd.DataFrame, methods: list[str]) -> None:
    """One bar per method, what gradients take last."""
    places, own = range(len(methods)), own.reindex(methods)
    left = pd.Series(0.0, index=methods)
    for part, (label, colour) in PARTS.items():
        width = own[part].fillna(0.0)
        panel.barh(places, width, left=left, color=colour, label=label, height=0.7)
        left = left + width
    for place, total in zip(places, own.model_calls, strict=True):
        panel.annotate("not run" if pd.isna(total) else f" {total:.0f}", (0 if pd.isna(total) else total, place),
                       va="center", fontsize=7)  # fmt: skip
    panel.set_yticks(places, [STYLES[method][0] for method in methods], fontsize=7)
    panel.set_ylim(len(methods) - 0.4, -0.6)
    panel.set_xlim(0, 1.15 * own.model_calls.max())
    panel.grid(alpha=0.3, axis="x")


def curves(rows: pd.DataFrame) -> Figure:
    """Accuracy with 95 % bands against three kinds of compute; one line of panels per policy and task.

    Args:
        rows: of `curves.COLUMNS`.

    Raises:
        ValueError: no rows.
    """
    if rows.empty:
        raise ValueError("a figure needs at least one curve; got none. Run ./reproduce.sh table1 first.")
    places = list(dict.fromkeys(zip(rows.policy, rows.task, strict=True)))
    shape = {"figsize": (12.5, 3.1 * len(places) + 0.9), "squeeze": False, "sharey": "row"}
    figure, panels = plt.subplots(len(places), len(AXES), **shape)
    for (policy, task), line in zip(places, panels, strict=True):
        own = rows[(rows.policy == policy) & (rows.task == task)]
        for (axis, label), panel in zip(AXES.items(), line, strict=True):
            _curves(panel, own, axis)
            panel.set_xlabel(label)
            panel.set_title(f"{policy}, {task}", fontsize=9)
        line[0].set_ylabel("accuracy, %")
    handles: dict[str, object] = {}
    for panel in panels.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), ncol=4, loc="lower center", fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.7 / figure.get_figheight(), 1, 1))
    return figure


def _curves(panel: Axes, own: pd.DataFrame, axis: str) -> None:
    for method, (label, colour, marker) in STYLES.items():
        points = own[own.method == method]
        if points.empty:
            continue
        if method == "greedy":
            panel.axhline(points.accuracy.iloc[0], color=colour, linestyle=":", linewidth=1)
        words = label.split(",")[0] if method == "self_consistency" else label.replace("Best-of-8", "Best-of-N")
        ends = points.rollouts.isin([1, 2, 4, 8, 16, 32]) | (points.rollouts == points.rollouts.max())
        panel.plot(points[axis], points.accuracy, color=colour, marker=marker, label=words, linewidth=1.2,
                   markevery=ends.to_numpy().nonzero()[0].tolist(), markersize=9 if marker in "*P" else 5)  # fmt: skip
        panel.fill_between(points[axis], points.ci_low, points.ci_high, color=colour, alpha=0.12, linewidth=0)
        if len(points) == 1:  # a band of one point would not be seen
            low, high = points.accuracy - points.ci_low, points.ci_high - points.accuracy
            panel.errorbar(points[axis], points.accuracy, yerr=[low, high], color=colour, linestyle="none", capsize=2)
    ceiling = own[own.method == "any_of_n"]
    panel.plot(ceiling[axis], ceiling.accuracy, color="black", linestyle="--", linewidth=1, label="ceiling: any of N")
    for height in own.accuracy[own.method == "best_reward"]:
        panel.axhline(height, color="black", linestyle="-.", linewidth=1, label="ceiling: highest reward found")
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    panel.xaxis.set_minor_formatter(ticker.NullFormatter())
    panel.tick_params(axis="x", labelsize=8)
    panel.grid(alpha=0.3)
