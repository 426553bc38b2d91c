"""What ∇-Reasoner in prefix form gains over Best-of-N, against the quality of the reward model.

The gains are those of Table 2. The AUC is that of the models' manifest, the fidelity that of `fidelity`. A point is a
reward, a policy and a task.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..json_text import parse_json
from .figures import PLAIN, legend_below
from .method_names import BEST_OF_N, PREFIX

QUALITIES = {  # column of fidelity.csv, and its axis
    "auc_within": "AUC of the reward\n(right against wrong answers to the same problem)",
    "gain_gradient": "fidelity: choices by gradient right more often\nthan the policy's (points)",
}
FAMILIES = {  # of rewards, by the beginning of the name: label, colour (told apart by lightness too)
    "likelihood": ("likelihood of a language model", "#0072B2"),
    "classifier": ("classifier built from the likelihood", "#D55E00"),
    "verifier-implicit": ("verifier, log-ratio to its start, at four steps", "#009E73"),
    "verifier": ("verifier with a score head", "#56B4E9"),
}
MARKERS = ("o", "s", "^", "D", "v", "P")


def gain_rows(fidelity: pd.DataFrame, comparisons: pd.DataFrame, aucs: pd.DataFrame) -> pd.DataFrame:
    """Return a row per reward, policy and task that all tables hold.

    Args:
        fidelity: rows of `fidelity.csv`.
        comparisons: rows of `table2_comparisons.csv`.
        aucs: rows of `within_aucs`.

    Returns:
        Columns reward, policy, task, `QUALITIES`, and difference, ci_low, ci_high of the prefix form minus Best-of-N.
    """
    gains = comparisons[
        (comparisons.method == PREFIX) & (comparisons.baseline == BEST_OF_N) & (comparisons.matched_on == "rollouts")
    ]
    quality = fidelity[(fidelity.form == "prefix") & (fidelity.part == "all")]
    keys = ["reward", "policy", "task"]
    joined = gains[[*keys, "difference", "ci_low", "ci_high"]].merge(quality[[*keys, "gain_gradient"]], on=keys)
    joined = joined.merge(aucs, on=keys)
    return joined.dropna(subset=["difference"]).reset_index(drop=True)


def within_aucs(manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Return the AUC of every reward on every policy and task, as the manifest of the models has it.

    Returns:
        Columns reward, policy, task, auc_within.
    """
    rows = [
        {"reward": reward, "policy": policy, "task": task, "auc_within": measured["auc_within"]}
        for policy, entry in manifest["models"].items()
        for task, part in entry.get("validation", {}).items()
        for reward, measured in part["rewards"].items()
    ]
    return pd.DataFrame(rows, columns=["reward", "policy", "task", "auc_within"])


def read_aucs(manifest: Path) -> pd.DataFrame:
    """Return the AUCs that a manifest file holds, as `within_aucs`."""
    return within_aucs(parse_json(manifest.read_text(encoding="utf-8")))


def family(reward: str) -> tuple[str, str]:
    """Return label and colour of a reward's family."""
    return next((style for start, style in FAMILIES.items() if reward.startswith(start)), (reward, "#999999"))


@plt.rc_context(PLAIN)
def gains(rows: pd.DataFrame) -> Figure:
    """Draw the gains over Best-of-N against each measure of quality.

    Args:
        rows: as from `gain_rows`.
    """
    figure, panels = plt.subplots(1, len(QUALITIES), figsize=(9, 3.55), sharey=True)
    for panel, (column, label) in zip(panels, QUALITIES.items(), strict=True):
        _draw(panel, rows, column)
        panel.set_xlabel(label, fontsize=9)
        panel.axhline(0, color="black", linewidth=0.8)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("prefix form minus\nBest-of-8, points")
    legend_below(figure, ncol=3)
    return figure


def _draw(panel: Axes, rows: pd.DataFrame, column: str) -> None:
    markers = dict(zip(rows.task.unique(), MARKERS, strict=False))
    for label, colour in dict.fromkeys(family(str(reward)) for reward in rows.reward):
        panel.plot([], [], "_", markersize=10, markeredgewidth=4, color=colour, label=label)
    for task, marker in markers.items():
        panel.plot([], [], marker, color="black", markersize=5, label=task)
    for (reward, task), points in rows.groupby(["reward", "task"], sort=False):
        _, colour = family(str(reward))
        panel.errorbar(
            points[column],
            points.difference,
            yerr=[points.difference - points.ci_low, points.ci_high - points.difference],
            color=colour,
            marker=markers[task],
            markersize=5,
            linestyle="none",
            capsize=2,
        )
