"""Figure of `./reproduce.sh ppo`, from its three tables."""

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..reporting.figures import legend_below
from . import tables


class Style(NamedTuple):
    """Colour, marker and line style of a method; line "none" draws markers only."""

    colour: str
    marker: str
    line: str


# Okabe and Ito's colours for colour-blind readers, with different markers for print.
STYLES = {
    "best_of_n": Style("#0072B2", "o", "-"),
    "weighted_choice": Style("#56B4E9", "v", "-"),
    "independent_metropolis": Style("#009E73", "^", "-"),
    "langevin_metropolis": Style("#D55E00", "s", "-"),
    "moves_without_gradient": Style("#E69F00", "<", ":"),
    "langevin_unadjusted": Style("#D55E00", "x", ":"),
    "logit_langevin": Style("#999999", "+", ":"),
    "dto_resampled": Style("#CC79A7", "P", "none"),
    "nabla_reasoner": Style("#CC79A7", "*", "none"),
    "nabla_without_gradient": Style("#CC79A7", "D", "none"),
    "ppo": Style("black", "h", "--"),
    "grpo": Style("#777777", "p", "--"),
}
FLOOR = 1e-3  # nats; smaller divergences are drawn here


def comparison(table: pd.DataFrame, curves: pd.DataFrame, crossing: pd.DataFrame, weight: float) -> Figure:
    """Draw divergence against compute, reward against divergence from π, divergence over λ, and break-even.

    Args:
        table, curves, crossing: ppo.csv, curves.csv and break_even.csv.
        weight: λ of the first, second and fourth panel.

    Raises:
        ValueError: no row of that λ.
    """
    rows = tables.compared(table)
    if rows[rows.reward_weight == weight].empty:
        raise ValueError(f"the table must have rows of λ = {weight:g}; got none. Run ./reproduce.sh ppo first.")
    figure, axes = plt.subplots(2, 2, figsize=(10.5, 9.2))
    _compute(axes[0, 0], rows[rows.reward_weight == weight], curves, weight)
    _frontier(axes[0, 1], rows, curves[curves.method == "optimum"], weight)
    _over_weights(axes[1, 0], rows)
    _payback(axes[1, 1], crossing)
    legend_below(figure, ncol=3)
    return figure


def _finish(axis: Axes, title: str, x: str, y: str) -> None:
    """Set a panel's title, axis labels and grid."""
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)


def _line(axis: Axes, method: str, x: pd.Series, y: pd.Series, *, line: str | None = None, label: bool = True) -> None:
    """Draw a method in its style, or with another line; without a label it stays out of the legend."""
    style = STYLES[method]
    name = tables.NAMES[method].replace("e^{λr}", "$e^{λr}$") if label else None
    axis.plot(
        x,
        y,
        color=style.colour,
        marker=style.marker,
        linestyle=line or style.line,
        markersize=12 if style.marker == "*" else 6,
        label=name,
    )


def _compute(axis: Axes, rows: pd.DataFrame, curves: pd.DataFrame, weight: float) -> None:
    for method in STYLES:
        results = rows[(rows.method == method) & (rows.side == "deamortised")].sort_values("amount")
        if len(results):
            _line(axis, method, results.flops, results.kl.clip(lower=FLOOR))
    most = int(curves.trained_on.max())
    answer = rows[rows.side == "amortised"].flops.iloc[0]
    trained = curves[
        (curves.reward_weight == weight) & (curves.trained_on == most) & (curves.measured_on == "compared")
    ]
    for method in ("ppo", "grpo"):
        curve = trained[trained.method == method]
        _line(axis, method, answer + curve.training_flops / most, curve.kl.clip(lower=FLOOR))
    prior, enumeration = rows[rows.method == "policy"].iloc[0], rows[rows.method == "enumeration"].iloc[0]
    axis.axhline(prior.kl, color="#999999", linewidth=1)
    axis.annotate("π itself", (1, prior.kl), xycoords=("axes fraction", "data"), fontsize=8, va="bottom", ha="right")
    axis.axvline(enumeration.flops, color="#999999", linewidth=1, linestyle=":")
    axis.annotate(" scoring every\n answer", (enumeration.flops, 0.01), fontsize=8, ha="left")
    axis.set_ylim(FLOOR / 1.5, 3 * prior.kl)
    axis.set(xscale="log", yscale="log")
    title = f"distance to the optimum against compute, λ = {weight:g}"
    x = f"FLOPs an answer (training shared by {most} prompts, one answer each)"
    _finish(axis, title, x, "KL(ρ‖ρ*), nats")


def _frontier(axis: Axes, rows: pd.DataFrame, optimum: pd.DataFrame, weight: float) -> None:
    star = rows[rows.method == "enumeration"].sort_values("kl_to_policy")
    start = rows[rows.method == "policy"].iloc[0]
    path = optimum[optimum.kl_to_policy <= 1.2 * star.kl_to_policy.max()].sort_values("reward_weight")
    axis.plot(
        [start.kl_to_policy, *path.kl_to_policy],
        [start.reward, *path.reward],
        color="black",
        linewidth=1,
        label="ρ* over λ (no distribution lies above)",
    )
    axis.plot(star.kl_to_policy, star.reward, color="black", marker="|", markersize=12, linestyle="none")
    offset = {"xytext": (-5, 8), "textcoords": "offset points", "ha": "right", "fontsize": 8}
    for row in star.itertuples():
        axis.annotate(f"λ={row.reward_weight:g}", (row.kl_to_policy, row.reward), **offset)
    axis.margins(x=0.1, y=0.1)
    for method in STYLES:
        results = rows[(rows.method == method) & (rows.reward_weight == weight)].sort_values("amount")
        if len(results):
            _line(axis, method, results.kl_to_policy, results.reward)
    title = f"reward against divergence from π, methods at λ = {weight:g}"
    _finish(axis, title, "KL(ρ‖π), nats", "E[r], nats")


def _over_weights(axis: Axes, rows: pd.DataFrame) -> None:
    for method in STYLES:
        results = rows[rows.method == method].sort_values("reward_weight", kind="stable")
        if results.empty:
            continue
        if method == "best_of_n":
            results = results[results.amount == 8]
            style = {"color": STYLES[method].colour, "marker": "o", "markerfacecolor": "none", "label": "Best-of-8"}
            axis.plot(results.reward_weight, results.kl.clip(lower=FLOOR), **style)
            continue
        largest = results[results.amount == results.groupby("reward_weight").amount.transform("max")]
        line = "-." if STYLES[method].line == "none" else None
        _line(axis, method, largest.reward_weight, largest.kl.clip(lower=FLOOR), line=line, label=False)
    prior = rows[rows.method == "policy"].sort_values("reward_weight")
    axis.plot(prior.reward_weight, prior.kl, color="#999999", linewidth=1)
    axis.annotate("π itself", (prior.reward_weight.iloc[-1], prior.kl.iloc[-1]), fontsize=8, ha="right", va="bottom")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    weights = sorted(rows.reward_weight.unique())
    axis.set_xticks(weights, [f"{weight:g}" for weight in weights])
    _finish(axis, f"over λ, largest amounts ({FLOOR:g} stands for less)", "λ", "KL(ρ‖ρ*), nats")


def _payback(axis: Axes, crossing: pd.DataFrame) -> None:
    """Draw total cost against the number of answers, at the tightest target reached."""
    if crossing.empty:
        axis.set_title("no target was reached by training", fontsize=10)
        return
    target = crossing[crossing.trained_on == crossing.trained_on.max()].target_kl.min()
    crossing = crossing[(crossing.target_kl == target) & crossing.method.isin(STYLES)]
    answers = np.geomspace(1, 3 * crossing.answers.max(), 60)
    for number, (count, rows) in enumerate(crossing.groupby("trained_on")):
        first = rows.iloc[0]
        axis.plot(answers, first.training_flops + answers * first.amortised_flops, color="black", linestyle="--")
        text = f"PPO on {count:.0f} (new prompts: {first.held_out_kl:.1f} nats)"
        side = {"xytext": (0, 3), "va": "bottom"} if number else {"xytext": (0, -3), "va": "top"}
        axis.annotate(text, (1, first.training_flops), textcoords="offset points", fontsize=8, **side)
    for method, rows in crossing.groupby("method", sort=False):
        colour, marker, line = STYLES[method]
        flops = rows.flops.iloc[0]
        axis.plot(answers, answers * flops, color=colour, linestyle="-" if line == "none" else line)
        axis.plot(rows.answers, rows.answers * flops, marker, color=colour, markersize=6)
    axis.set(xscale="log", yscale="log")
    axis.xaxis.set_major_locator(ticker.LogLocator(numticks=8))
    title = f"break-even (marks): mean KL to ρ* at most {target:g} nats"
    _finish(axis, title, "answers given", "FLOPs in all")
