"""The figure of `./reproduce.sh ppo`, from its three tables."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import tables

# Okabe and Ito's colours; a marker for each method, for print.
STYLES = {
    "best_of_n": ("#0072B2", "o", "-"),
    "weighted_choice": ("#56B4E9", "v", "-"),
    "independent_metropolis": ("#009E73", "^", "-"),
    "langevin_metropolis": ("#D55E00", "s", "-"),
    "moves_without_gradient": ("#E69F00", "s", ":"),
    "langevin_unadjusted": ("#D55E00", "x", ":"),
    "logit_langevin": ("#999999", "x", ":"),
    "dto_resampled": ("#CC79A7", "P", ""),
    "nabla_reasoner": ("#CC79A7", "*", ""),
    "nabla_without_gradient": ("#CC79A7", "D", ""),
    "ppo": ("black", "h", "--"),
    "grpo": ("#777777", "p", "--"),
}
FLOOR = 1e-3  # nats; smaller divergences are drawn here


def comparison(table: pd.DataFrame, curves: pd.DataFrame, crossing: pd.DataFrame, weight: float) -> Figure:
    """Four panels: divergence against compute, reward against divergence from π, divergence over λ, break-even.

    Args:
        table, curves, crossing: ppo.csv, curves.csv and break_even.csv.
        weight: the λ of the first, second and fourth panel.

    Raises:
        ValueError: no row of that λ.
    """
    rows = tables.compared(table)
    if rows[rows.reward_weight == weight].empty:
        raise ValueError(f"the table must have rows of λ = {weight:g}; got none. Run ./reproduce.sh ppo first.")
    figure, axes = plt.subplots(2, 2, figsize=(12.5, 10))
    _compute(axes[0, 0], rows[rows.reward_weight == weight], curves, weight)
    _frontier(axes[0, 1], rows, curves[curves.method == "optimum"], weight)
    _over_weights(axes[1, 0], rows)
    _payback(axes[1, 1], crossing)
    handles: dict[str, object] = {}
    for axis in axes.flat[:3]:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), ncol=4, loc="lower center", fontsize=8.5, frameon=False)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    return figure


def _label(method: str) -> str:
    return tables.NAMES[method].replace("e^{λr}", "$e^{λr}$")


def _line(axis: Axes, method: str, x: pd.Series, y: pd.Series) -> None:
    colour, marker, line = STYLES[method]
    size = 12 if marker == "*" else 6
    axis.plot(x, y, color=colour, marker=marker, linestyle=line or "none", markersize=size, label=_label(method))


def _compute(axis: Axes, rows: pd.DataFrame, curves: pd.DataFrame, weight: float) -> None:
    for method in STYLES:
        own = rows[(rows.method == method) & (rows.side == "deamortised")].sort_values("amount")
        if len(own):
            _line(axis, method, own.flops, own.kl.clip(lower=FLOOR))
    most = int(curves.trained_on.max())
    draw = rows[rows.side == "amortised"].flops.iloc[0]
    for method in ("ppo", "grpo"):
        own = curves[(curves.method == method) & (curves.reward_weight == weight) & (curves.trained_on == most)]
        own = own[own.measured_on == "compared"]
        _line(axis, method, draw + own.training_flops / most, own.kl.clip(lower=FLOOR))
    prior, whole = rows[rows.method == "policy"].iloc[0], rows[rows.method == "enumeration"].iloc[0]
    axis.axhline(prior.kl, color="#999999", linewidth=1)
    axis.annotate("π itself", (1, prior.kl), xycoords=("axes fraction", "data"), fontsize=8, va="bottom", ha="right")
    axis.axvline(whole.flops, color="#999999", linewidth=1, linestyle=":")
    axis.annotate(" scoring every\n answer", (whole.flops, 0.01), fontsize=8, ha="left")
    axis.set_ylim(FLOOR / 1.5, 3 * prior.kl)
    axis.set(xscale="log", yscale="log", xlabel=f"FLOPs an answer (training shared by {most} prompts, one answer each)")
    axis.set_ylabel("KL(ρ‖ρ*), nats")
    axis.set_title(f"distance to the optimum against compute, λ = {weight:g}", fontsize=10)
    axis.grid(alpha=0.3)


def _frontier(axis: Axes, rows: pd.DataFrame, optimum: pd.DataFrame, weight: float) -> None:
    star = rows[rows.method == "enumeration"].sort_values("kl_to_policy")
    start = rows[rows.method == "policy"].iloc[0]
    path = optimum[optimum.kl_to_policy <= 1.2 * star.kl_to_policy.max()].sort_values("reward_weight")
    axis.plot(
        [start.kl_to_policy, *path.kl_to_policy],
        [start.reward, *path.reward],
        color="black",
        linewidth=1,
        label="ρ* over λ (no law lies above)",
    )
    axis.plot(star.kl_to_policy, star.reward, color="black", marker="|", markersize=12, linestyle="none")
    for row in star.itertuples():
        axis.annotate(
            f"λ={row.reward_weight:g}",
            (row.kl_to_policy, row.reward),
            fontsize=8,
            xytext=(-5, 8),
            textcoords="offset points",
            ha="right",
        )
    axis.margins(y=0.1)
    for method in STYLES:
        own = rows[(rows.method == method) & (rows.reward_weight == weight)].sort_values("amount")
        if len(own):
            _line(axis, method, own.kl_to_policy, own.reward)
    axis.set(xlabel="KL(ρ‖π), nats", ylabel="E[r], nats")
    axis.set_title(f"reward bought with divergence from π, methods at λ = {weight:g}", fontsize=10)
    axis.grid(alpha=0.3)


def _over_weights(axis: Axes, rows: pd.DataFrame) -> None:
    for method in STYLES:
        own = rows[rows.method == method]
        if own.empty:
            continue
        if method == "best_of_n":
            last = own[own.amount == 8]
            axis.plot(
                last.reward_weight,
                last.kl.clip(lower=FLOOR),
                color=STYLES[method][0],
                marker="o",
                markerfacecolor="none",
                label="Best-of-8",
            )
            continue
        last = own[own.amount == own.groupby("reward_weight").amount.transform("max")].sort_values("reward_weight")
        colour, marker, line = STYLES[method]
        axis.plot(
            last.reward_weight,
            last.kl.clip(lower=FLOOR),
            color=colour,
            marker=marker,
            linestyle=line or "-.",
            markersize=12 if marker == "*" else 6,
        )
    own = rows[rows.method == "policy"].sort_values("reward_weight")
    axis.plot(own.reward_weight, own.kl, color="#999999", linewidth=1)
    axis.annotate("π itself", (own.reward_weight.iloc[-1], own.kl.iloc[-1]), fontsize=8, ha="right", va="bottom")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    weights = sorted(rows.reward_weight.unique())
    axis.set_xticks(weights, [f"{each:g}" for each in weights])
    axis.set(xlabel="λ", ylabel="KL(ρ‖ρ*), nats")
    axis.set_title(f"over λ, largest amounts ({FLOOR:g} stands for less)", fontsize=10)
    axis.grid(alpha=0.3)


def _payback(axis: Axes, crossing: pd.DataFrame) -> None:
    """Total cost against the number of answers, at one target."""
    axis.set_title("no target was reached by training", fontsize=10)
    if crossing.empty:
        return
    most = crossing[crossing.trained_on == crossing.trained_on.max()]
    own = crossing[(crossing.target_kl == most.target_kl.min()) & crossing.method.isin(STYLES)]
    answers = np.geomspace(1, 3 * own.answers.max(), 60)
    for count, rows in own.groupby("trained_on"):
        first = rows.iloc[0]
        axis.plot(answers, first.training_flops + answers * first.amortised_flops, color="black", linestyle="--")
        words = f"PPO on {count:.0f} (new prompts: {first.held_out_kl:.1f} nats)"
        axis.annotate(words, (1, first.training_flops), fontsize=7.5, va="bottom")
    for method, rows in own.groupby("method", sort=False):
        colour, _, line = STYLES[method]
        flops = rows.flops.iloc[0]
        axis.plot(answers, answers * flops, color=colour, linestyle=line or "-")
        axis.plot(rows.answers, rows.answers * flops, color=colour, marker="o", linestyle="none", markersize=4)
    axis.set(xscale="log", yscale="log", xlabel="answers given", ylabel="FLOPs in all")
    axis.xaxis.set_major_locator(ticker.LogLocator(numticks=8))
    axis.set_title(f"break-even (dots): mean KL to ρ* at most {own.target_kl.iloc[0]:g} nats", fontsize=10)
    axis.grid(alpha=0.3)
