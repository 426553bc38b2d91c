"""Figures of the theory checks, from the rows of curves.csv and terms.csv."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colour-blind safe (Okabe and Ito), with a marker each.
SPACES = {
    "line": ("one dimension", "#0072B2", "o"),
    "plane": ("two dimensions", "#D55E00", "s"),
    "text": ("two-token text", "#009E73", "^"),
}
TERMS = {
    "prefix": ("δ_prefix", "#0072B2", "o"),
    "postfix": ("δ_postfix", "#E69F00", "s"),
    "reward": ("δ_reward", "#D55E00", "^"),
}
SERIES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999"]
MARKERS = "os^DvP*X"
QUARTERS = ["1st", "2nd", "3rd", "4th"]


def theorem(curves: pd.DataFrame) -> Figure | None:
    """Theorem 4.1 in six panels, those of which there are rows; None when there are none.

    Args:
        curves: rows of `curves.csv`.
    """
    panels: dict[str, Callable[[Axes, pd.DataFrame], None]] = {
        "density": _densities,
        "from_flow": _from_flow,
        "mixing": _mixing,
        "noise": _noise,
        "convergence": _convergence,
        "text": _text,
    }
    return _figure(panels, curves, columns=3)


def gradients(curves: pd.DataFrame, terms: pd.DataFrame) -> Figure | None:
    """The gradient facts in four panels, those of which there are rows; None when there are none.

    Args:
        curves: rows of `curves.csv`.
        terms: rows of `terms.csv`, or of `terms_by_quarter`.
    """
    shares = terms if "quarter" in terms else terms_by_quarter(terms)
    panels = {"eq25": _eq25, "bias": _bias}
    found = [name for name in panels if name in set(curves.curve)]
    drawn = {name: panels[name] for name in found}
    if len(shares):
        drawn |= {"terms": lambda axis, _: _terms(axis, shares), "postfix": lambda axis, _: _postfix(axis, shares)}
    return _figure(drawn, curves, columns=2, present=set(drawn))


def terms_by_quarter(terms: pd.DataFrame) -> pd.DataFrame:
    """Mean shares of the three terms by quarter of the response, for each policy, reward, task, weights and space."""
    quarter = np.minimum(3, 4 * terms.position // terms.length) if len(terms) else terms.position
    keys = ["policy", "reward", "task", "weights", "space", "quarter"]
    table = terms.assign(quarter=quarter).groupby(keys, sort=True)
    means = table[["length", "prefix_share", "postfix_share", "reward_share"]].mean()
    return means.assign(positions=table.size()).reset_index()


def _figure(panels: dict, curves: pd.DataFrame, columns: int, present: set[str] | None = None) -> Figure | None:
    present = set(curves.curve) if present is None else present
    names = [name for name in panels if name in present]
    if not names:
        return None
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.9 * columns, 3.9 * rows), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        panels[name](axis, curves)
        axis.title.set_fontsize(10)
    figure.tight_layout()
    return figure


def _densities(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve == "density"]
    shades = iter(["#9ecae1", "#4292c6", "#084594"])
    for name, own in rows.groupby("series", sort=False):
        style = {"π": ("#777777", "--", 1.6), "ρ*": ("#D55E00", "-", 2.2)}.get(name)
        colour, line, width = style or (next(shades, "#084594"), "-", 1.1)
        label = {"π": "start: π", "ρ*": "limit: ρ* ∝ π exp(λr)"}.get(name, f"flow at {name}")
        axis.plot(own.x, own.y, color=colour, linestyle=line, linewidth=width, label=label)
    minima = curves[curves.curve == "minima"]
    top = rows.y.max()
    for place, share in minima.groupby("x").y.sum().items():
        axis.annotate(
            f"{100 * share:.0f} %",
            (place, 0),
            (place, 1.12 * top),
            ha="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "black", "linewidth": 1.0},
        )
    axis.plot([], [], color="black", linewidth=1.0, label="without noise: share of particles")
    axis.set_ylim(0, 1.75 * top)
    axis.set_xlabel("x")
    axis.set_ylabel("density")
    axis.set_title("Noise makes ρ*; plain descent ends in minima of L")
    axis.legend(fontsize=7, loc="upper center", ncol=2)


def _from_flow(axis: Axes, curves: pd.DataFrame) -> None:
    for name, (label, colour, marker) in SPACES.items():
        for curve, filled, words in (("from_flow", True, "from the flow"), ("from_limit", False, "from ρ*")):
            own = curves[(curves.curve == curve) & (curves.series == name)]
            face = colour if filled else "white"
            axis.plot(
                own.x,
                own.y / own.floor,
                color=colour,
                marker=marker,
                markerfacecolor=face,
                linestyle=":",
                linewidth=0.8,
                label=f"{label}, {words}",
            )
    axis.axhline(1, color="black", linewidth=1)
    axis.axhline(0.5, color="black", linewidth=1, linestyle="--")
    for height, words in ((1.1, "tolerance: two runs from one another"), (0.31, "dashed: expected of the right law")):
        axis.text(0.99, height, words, transform=axis.get_yaxis_transform(), fontsize=7, ha="right")
    _logarithmic(axis)
    axis.set_ylim(0.25, 300)
    axis.set_xlabel("time t")
    axis.set_ylabel("distance of particles / noise floor")
    axis.set_title("Particles have the law of the flow at every time")
    axis.legend(fontsize=7, ncol=2, loc="upper center")


def _mixing(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve == "mixing"]
    for name, (label, colour, _) in SPACES.items():
        for sampler, marker in (("flow", None), ("Euler", "x"), ("MALA", "o")):
            own = rows[rows.series == f"{name}: {sampler}"]
            if len(own):
                axis.plot(
                    own.x,
                    own.y.clip(lower=2e-3),
                    color=colour,
                    marker=marker,
                    markerfacecolor="none",
                    linestyle="-" if marker is None else "none",
                    label=f"{label}: {'flow (exact)' if marker is None else sampler}",
                )
        floors = rows[rows.series.str.startswith(f"{name}: ")].floor.dropna()
        if len(floors):
            axis.axhline(floors.mean() / 2, color=colour, linewidth=0.9, linestyle="--")
    _logarithmic(axis)
    axis.set_ylim(2e-3, 2.5)
    axis.set_xlabel("time t   (dashed: what noise alone gives)")
    axis.set_ylabel("total variation from ρ*")
    axis.set_title("Long run: early distance is slow mixing, not error")
    axis.legend(fontsize=7, ncol=2, loc="upper center")


def _noise(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve == "noise"]
    for (name, own), colour, marker in zip(rows.groupby("series"), SERIES, MARKERS, strict=False):
        axis.plot(own.x, own.y / own.floor, color=colour, marker=marker, markersize=5, label=name)
        beta = float(name.split("=")[1])
        usual = 1 / np.sqrt(beta)
        if abs(usual - 1) > 0.01 and own.x.min() <= usual <= own.x.max():
            axis.axvline(usual, color=colour, linewidth=1, linestyle=":", label=f"√2 when {name}")
    axis.axvline(1, color="black", linewidth=1)
    axis.axhline(1, color="black", linewidth=1, linestyle="--", label="tolerance")
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())
    axis.set_xlabel("noise / √(2β)")
    axis.set_ylabel("distance from the flow / noise floor")
    axis.set_title("The noise must be √(2β)")
    axis.legend(fontsize=7)


def _convergence(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve == "convergence"]
    looks = {
        "gap_time": ("1 / spectral gap of the flow", "#0072B2", "-", None),
        "kramers_time": ("Eyring-Kramers formula", "#777777", "--", None),
        "particle_time": ("particles (4 standard deviations)", "#D55E00", "none", "o"),
    }
    for series, (label, colour, line, marker) in looks.items():
        own = rows[rows.series == series]
        errors = None if marker is None else 4 * own.floor
        axis.errorbar(
            own.x, own.y, yerr=errors, color=colour, linestyle=line, marker=marker, markersize=4, capsize=2, label=label
        )
    axis.set_yscale("log")
    axis.set_xlabel("barrier of L between two modes, nats")
    axis.set_ylabel("relaxation time")
    axis.set_title("The price: time grows as exp(barrier)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


def _text(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve == "text"].assign(second=lambda table: table.series.astype(float))
    table = rows.pivot_table(index="second", columns="x", values="y")
    drawn = axis.contourf(
        table.columns, table.index, table, levels=[0, 1, 2, 3, 4, 6, 8, 10, 13, 17], cmap="cividis_r", extend="max"
    )
    axis.figure.colorbar(drawn, ax=axis, label="L = -λr - log π, nats above its lowest")
    padded = np.pad(table.to_numpy(), 1, constant_values=np.inf)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).min((2, 3))
    lows = np.argwhere(table.to_numpy() == around)
    axis.plot(
        table.columns[lows[:, 1]],
        table.index[lows[:, 0]],
        color="#D55E00",
        marker="*",
        markersize=14,
        markeredgecolor="white",
        linestyle="none",
        clip_on=False,
        label="local minima",
    )
    axis.set_xlabel("first token: share of the replacement")
    axis.set_ylabel("second token: share of the replacement")
    axis.set_title("A relaxed two-token text has two modes")
    axis.legend(fontsize=7, loc="center left")


def _eq25(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve == "eq25"]
    sizes = rows.series.str.extract(r"V(\d+)")[0].astype(int)
    for colour, (size, group) in zip(SERIES, rows.groupby(sizes), strict=False):
        own_term = group.series.str.contains("-log p", regex=False)
        for part, line, words in ((group[~own_term], "-", ""), (group[own_term], "--", ", with -log p")):
            entropies = np.linspace(0, np.log(size), 80)
            sweeps = [own.sort_values("x") for _, own in part.groupby("series")]
            mean = np.mean([np.interp(entropies, own.x, own.y) for own in sweeps], axis=0)
            axis.plot(entropies, mean, color=colour, linestyle=line, linewidth=1.4, label=f"V = {size:,}{words}")
    axis.set_xlabel("entropy of the row, nats (0: confident, ln V: uniform)")
    axis.set_ylabel("‖∂L/∂z‖ for a unit Gaussian ∂L/∂y")
    axis.set_title("Eq. 25: 0 where confident, 1/√V where uniform")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


def _bias(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve.isin(["bias", "spread"])].copy()
    names = rows.series.str.partition(": ")
    rows["model"], rows["estimator"] = names[0].str.replace(r"^random\d+$", "random models", regex=True), names[2]
    table = rows.pivot_table(index=["series", "model", "estimator"], columns="curve", values="y").reset_index()
    estimators, models = list(dict.fromkeys(rows.estimator)), list(dict.fromkeys(rows.model))
    for colour, estimator in zip(SERIES, estimators, strict=False):
        for marker, model in zip(MARKERS, models, strict=False):
            own = table[(table.estimator == estimator) & (table.model == model)]
            axis.plot(
                own.spread.clip(lower=0.02),
                own.bias.clip(lower=0.004),
                color=colour,
                marker=marker,
                linestyle="none",
                markersize=6,
                alpha=0.85,
            )
    for colour, estimator in zip(SERIES, estimators, strict=False):
        axis.plot([], [], color=colour, marker="s", linestyle="none", label=estimator)
    for marker, model in zip(MARKERS, models, strict=False):
        axis.plot([], [], color="black", marker=marker, linestyle="none", label=model.replace("_with_", " + "))
    _logarithmic(axis)
    axis.set_xlim(0.016, 5000)  # room for the legend
    axis.set_xlabel("spread / ‖true gradient‖   (left edge: none)")
    axis.set_ylabel("bias / ‖true gradient‖   (lower edge: none)")
    axis.set_title("Estimators of ∇E[L]: bias against spread")
    axis.legend(fontsize=7, loc="center right")


def _terms(axis: Axes, shares: pd.DataFrame) -> None:
    own = shares[shares.weights == "eq2"]
    keys = list(dict.fromkeys(zip(own.policy, own.reward, strict=True)))
    labels, place = [], 0
    for space in "yz":
        for policy, reward in keys:
            part = own[(own.policy == policy) & (own.reward == reward) & (own.space == space)]
            bottom = 0.0
            for name, (_, colour, _) in TERMS.items():
                value = 100 * np.average(part[f"{name}_share"], weights=part.positions)
                axis.barh(place, value, left=bottom, color=colour, height=0.75)
                bottom += value
            labels.append(f"∂L/∂{space}: {policy}, {reward}")
            place += 1
        place += 0.5
    ticks = [i + (0.5 if i >= len(keys) else 0) for i in range(2 * len(keys))]
    axis.set_yticks(ticks, labels, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for _, colour, _ in TERMS.values()]
    axis.legend(
        handles,
        [label for label, _, _ in TERMS.values()],
        fontsize=7,
        ncol=3,
        loc="lower center",
        bbox_to_anchor=(0.5, -0.32),
        frameon=False,
    )
    axis.set_xlabel("mean share of the three norms, %   (λ = ν = 1)")
    axis.set_title("Prop. C.1: what the gradient is made of")


def _postfix(axis: Axes, shares: pd.DataFrame) -> None:
    own = shares[(shares.weights == "eq2") & (shares.space == "z")]
    lengths = own.groupby("task").length.mean().sort_values()
    for (policy, reward), colour in zip(dict.fromkeys(zip(own.policy, own.reward, strict=True)), SERIES, strict=False):
        for task, marker in zip(lengths.index, MARKERS, strict=False):
            part = own[(own.policy == policy) & (own.reward == reward) & (own.task == task)].sort_values("quarter")
            if len(part):
                axis.plot(
                    part.quarter, 100 * part.postfix_share, color=colour, marker=marker, markersize=5, linewidth=1
                )
        axis.plot([], [], color=colour, label=f"{policy}, {reward}")
    for task, marker in zip(lengths.index, MARKERS, strict=False):
        axis.plot([], [], color="black", marker=marker, linestyle="none", label=f"{task}, {lengths[task]:.0f} tokens")
    axis.set_xticks(range(4), QUARTERS)
    axis.set_xlabel("quarter of the response")
    axis.set_ylabel("share of δ_postfix in ∂L/∂z, %")
    axis.set_title("δ_postfix by position and length")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


def _logarithmic(axis: Axes) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.grid(alpha=0.3)
