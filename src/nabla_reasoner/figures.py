"""Figures, drawn from the small rows that tables write: functions from a table to a matplotlib Figure."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

# Colour-blind safe (Okabe and Ito); every method also has a marker of its own, for print.
STYLES = {
    "greedy": ("Greedy", "#999999", "s"),
    "self_consistency": ("Self-Consistency, N = 8", "#56B4E9", "v"),
    "best_of_n": ("Best-of-8", "#0072B2", "o"),
    "nabla_without_gradient": ("∇ without gradient (null arm)", "#E69F00", "D"),
    "nabla_reasoner": ("∇-Reasoner, one pass", "#D55E00", "*"),
    "nabla_reasoner_multipass": ("∇-Reasoner, up to 4 passes", "#CC79A7", "P"),
}


def accuracy_against_flops(table: pd.DataFrame) -> Figure:
    """Accuracy with its 95 % interval against mean FLOPs per problem; one panel per policy and task.

    Args:
        table: rows of `table.csv` (columns policy, task, method, accuracy, ci_low, ci_high in percent, flops).

    Raises:
        ValueError: no row holds a result.
    """
    done = table.dropna(subset=["accuracy", "flops"])
    if done.empty:
        raise ValueError("a figure needs at least one finished row; got none. Run ./reproduce.sh table1 first.")
    policies, tasks = list(dict.fromkeys(done.policy)), list(dict.fromkeys(done.task))
    figure, panels = plt.subplots(
        len(policies),
        len(tasks),
        figsize=(3.4 * len(tasks), 2.8 * len(policies) + 0.6),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for policy, row in zip(policies, panels, strict=True):
        for task, panel in zip(tasks, row, strict=True):
            for method, (label, colour, marker) in STYLES.items():
                cell = done[(done.policy == policy) & (done.task == task) & (done.method == method)]
                if len(cell):
                    low, high = cell.accuracy - cell.ci_low, cell.ci_high - cell.accuracy
                    panel.errorbar(
                        cell.flops, cell.accuracy, yerr=[low, high], label=label, color=colour, marker=marker,
                        markersize=9 if marker in "*P" else 6, linestyle="none", capsize=2,
                    )  # fmt: skip
            panel.set_xscale("log")
            panel.set_title(f"{policy}, {task}", fontsize=9)
            panel.grid(alpha=0.3)
    for panel in panels[-1]:
        panel.set_xlabel("FLOPs per problem (policy and reward)")
    for row in panels:
        row[0].set_ylabel("accuracy, %")
    handles = {}
    for panel in panels.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles[label] = handle
    figure.legend(handles.values(), handles.keys(), ncol=3, loc="lower center", fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    return figure


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as PNG and PDF, byte for byte the same on every run."""
    figure.savefig(folder / f"{name}.png", dpi=150)
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
