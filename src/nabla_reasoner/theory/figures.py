"""Figures of the theory checks, from the rows of curves.csv and terms.csv."""

from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure


class Style(NamedTuple):
    """Label, colour and marker of a series."""

    label: str
    colour: str
    marker: str


# Okabe and Ito's colours for colour-blind readers, with different markers for print.
SPACES = {
    "line": Style("one dimension", "#0072B2", "o"),
    "plane": Style("two dimensions", "#D55E00", "s"),
    "text": Style("two-token text", "#009E73", "^"),
}
TERM_COLOURS = {"prefix": "#0072B2", "postfix": "#E69F00", "reward": "#D55E00"}
SERIES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999"]
MARKERS = "os^DvP*X"
QUARTERS = ["1st", "2nd", "3rd", "4th"]


def theorem(curves: pd.DataFrame) -> Figure | None:
    """Draw Theorem 4.1 in up to six panels, those with rows; return None if there are none.

    Args:
        curves: rows of `curves.csv`.
    """
    panels = {
        "density": _densities,
        "from_flow": _from_flow,
        "mixing": _mixing,
        "noise": _noise,
        "convergence": _convergence,
        "text": _text,
    }
    present = set(curves.curve)
    return _figure([(draw, curves) for name, draw in panels.items() if name in present], columns=3)


def gradients(curves: pd.DataFrame, terms: pd.DataFrame) -> Figure | None:
    """Draw the gradient checks in up to four panels, those with rows; return None if there are none.

    Args:
        curves: rows of `curves.csv`.
        terms: rows of `terms.csv`, or of `terms_by_quarter`.
    """
    present = set(curves.curve)
    panels = [(draw, curves) for name, draw in (("eq25", _eq25), ("bias", _bias)) if name in present]
    shares = terms if "quarter" in terms else terms_by_quarter(terms)
    if len(shares):
        panels += [(_terms, shares), (_postfix, shares)]
    return _figure(panels, columns=2)


def terms_by_quarter(terms: pd.DataFrame) -> pd.DataFrame:
    """Return mean shares of the three terms by quarter of the response, policy, reward, task, weights and space."""
    quarter = np.minimum(3, 4 * terms.position // terms.length) if len(terms) else terms.position
    keys = ["policy", "reward", "task", "weights", "space", "quarter"]
    table = terms.assign(quarter=quarter).groupby(keys, sort=True)
    means = table[["length", "prefix_share", "postfix_share", "reward_share"]].mean()
    return means.assign(positions=table.size()).reset_index()


def _figure(panels: list[tuple[Callable[[Axes, pd.DataFrame], None], pd.DataFrame]], *, columns: int) -> Figure | None:
    """Draw each panel from its table, row by row."""
    if not panels:
        return None
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.9 * columns, 3.9 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    with plt.rc_context({"legend.fontsize": 7}):
        for axis, (draw, table) in zip(axes.flat, panels, strict=False):
            draw(axis, table)
            axis.title.set_fontsize(10)
    figure.tight_layout()
    return figure


def _label(axis: Axes, title: str, x: str, y: str | None = None) -> None:
    """Set a panel's title and axis labels."""
    axis.set_title(title)
    axis.set_xlabel(x)
    if y is not None:
        axis.set_ylabel(y)


def _log_log(axis: Axes) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.grid(alpha=0.3)


def _densities(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve == "density"]
    shades = iter(["#9ecae1", "#4292c6", "#084594"])
    for name, series in rows.groupby("series", sort=False):
        if name == "π":
            style = {"color": "#777777", "linestyle": "--", "linewidth": 1.6, "label": "start: π"}
        elif name == "ρ*":
            style = {"color": "#D55E00", "linewidth": 2.2, "label": "limit: ρ* ∝ π exp(λr)"}
        else:
            style = {"color": next(shades, "#084594"), "linewidth": 1.1, "label": f"flow at {name}"}
        axis.plot(series.x, series.y, **style)
    minima = curves[curves.curve == "minima"]
    top = rows.y.max()
    for position, share in minima.groupby("x").y.sum().items():
        bottom, above = (position, 0), (position, 1.12 * top)
        axis.annotate(f"{100 * share:.0f} %", bottom, above, ha="center", fontsize=8, arrowprops={"arrowstyle": "-"})
    axis.plot([], [], color="black", linewidth=1.0, label="without noise: share of particles")
    axis.set_ylim(0, 1.75 * top)
    _label(axis, "Noise makes ρ*; plain descent ends in minima of L", "x", "density")
    axis.legend(loc="upper center", ncol=2)


def _from_flow(axis: Axes, curves: pd.DataFrame) -> None:
    for name, (label, colour, marker) in SPACES.items():
        for curve, face, reference in (("from_flow", colour, "from the flow"), ("from_limit", "white", "from ρ*")):
            rows = curves[(curves.curve == curve) & (curves.series == name)]
            style = {"color": colour, "markerfacecolor": face, "linewidth": 0.8}
            axis.plot(rows.x, rows.y / rows.floor, f"{marker}:", label=f"{label}, {reference}", **style)
    axis.axhline(1, color="black", linewidth=1)
    axis.axhline(0.5, color="black", linewidth=1, linestyle="--")
    for height, text in ((1.1, "tolerance: distance of two runs"), (0.31, "dashed: expected without a difference")):
        axis.text(0.99, height, text, transform=axis.get_yaxis_transform(), fontsize=7, ha="right")
    _log_log(axis)
    axis.set_ylim(0.25, 300)
    _label(axis, "Particles are distributed as the flow at every time", "time t", "distance of particles / noise floor")
    axis.legend(ncol=2, loc="upper center")


def _mixing(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve == "mixing"]
    for name, (label, colour, _) in SPACES.items():
        for sampler, note, line in (("flow", " (exact)", "-"), ("Euler", "", "x"), ("MALA", "", "o")):
            series = rows[rows.series == f"{name}: {sampler}"]
            if len(series):
                style = {"color": colour, "markerfacecolor": "none", "label": f"{label}: {sampler}{note}"}
                axis.plot(series.x, series.y.clip(lower=2e-3), line, **style)
        floors = rows[rows.series.str.startswith(f"{name}: ")].floor.dropna()
        if len(floors):
            axis.axhline(floors.mean() / 2, color=colour, linewidth=0.9, linestyle="--")
    _log_log(axis)
    axis.set_ylim(2e-3, 2.5)
    x = "time t   (dashed: noise alone)"
    _label(axis, "Long run: early distance is slow mixing, not error", x, "total variation from ρ*")
    axis.legend(ncol=2, loc="upper center")


def _noise(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve == "noise"]
    for (name, series), colour, marker in zip(rows.groupby("series"), SERIES, MARKERS, strict=False):
        axis.plot(series.x, series.y / series.floor, color=colour, marker=marker, markersize=5, label=name)
        beta = float(name.split("=")[1])
        usual = 1 / np.sqrt(beta)
        if abs(usual - 1) > 0.01 and series.x.min() <= usual <= series.x.max():
            axis.axvline(usual, color=colour, linewidth=1, linestyle=":", label=f"√2 when {name}")
    axis.axvline(1, color="black", linewidth=1)
    axis.axhline(1, color="black", linewidth=1, linestyle="--", label="tolerance")
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())
    _label(axis, "The noise must be √(2β)", "noise / √(2β)", "distance from the flow / noise floor")
    axis.legend()


def _convergence(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve == "convergence"]
    for series, label, colour, line in (
        ("gap_time", "1 / spectral gap of the flow", "#0072B2", "-"),
        ("kramers_time", "Eyring-Kramers formula", "#777777", "--"),
        ("particle_time", "particles (4 standard deviations)", "#D55E00", "o"),
    ):
        times = rows[rows.series == series]
        errors = 4 * times.floor if series == "particle_time" else None
        axis.errorbar(times.x, times.y, errors, fmt=line, color=colour, markersize=4, capsize=2, label=label)
    axis.set_yscale("log")
    _label(axis, "Relaxation time grows as exp(barrier)", "barrier of L between two modes, nats", "relaxation time")
    axis.grid(alpha=0.3)
    axis.legend()


def _text(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve == "text"].assign(second=lambda table: table.series.astype(float))
    table = rows.pivot_table(index="second", columns="x", values="y")
    levels = [0, 1, 2, 3, 4, 6, 8, 10, 13, 17]
    contours = axis.contourf(table.columns, table.index, table, levels=levels, cmap="cividis_r", extend="max")
    axis.figure.colorbar(contours, ax=axis, label="L = -λr - log π, nats above its minimum")
    padded = np.pad(table.to_numpy(), 1, constant_values=np.inf)
    lowest_around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).min((2, 3))
    minima = np.argwhere(table.to_numpy() == lowest_around)
    style = {"color": "#D55E00", "markersize": 14, "markeredgecolor": "white", "clip_on": False}
    axis.plot(table.columns[minima[:, 1]], table.index[minima[:, 0]], "*", label="local minima", **style)
    share = "{} token: share of the replacement"
    _label(axis, "A relaxed two-token text has two modes", share.format("first"), share.format("second"))
    axis.legend(loc="center left")


def _eq25(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve == "eq25"]
    sizes = rows.series.str.extract(r"V(\d+)")[0].astype(int)
    for colour, (size, group) in zip(SERIES, rows.groupby(sizes), strict=False):
        prefix_term = group.series.str.contains("-log p", regex=False)
        for part, line, suffix in ((group[~prefix_term], "-", ""), (group[prefix_term], "--", ", with -log p")):
            entropies = np.linspace(0, np.log(size), 80)
            sweeps = [sweep.sort_values("x") for _, sweep in part.groupby("series")]
            mean = np.mean([np.interp(entropies, sweep.x, sweep.y) for sweep in sweeps], axis=0)
            axis.plot(entropies, mean, color=colour, linestyle=line, linewidth=1.4, label=f"V = {size:,}{suffix}")
    x = "entropy of the row, nats (0: confident, ln V: uniform)"
    _label(axis, "Eq. 25: 0 where confident, 1/√V where uniform", x, "‖∂L/∂z‖ for a unit Gaussian ∂L/∂y")
    axis.grid(alpha=0.3)
    axis.legend()


def _bias(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve.isin(["bias", "spread"])].copy()
    names = rows.series.str.partition(": ")
    rows["model"], rows["estimator"] = names[0].str.replace(r"^random\d+$", "random models", regex=True), names[2]
    table = rows.pivot_table(index=["series", "model", "estimator"], columns="curve", values="y").reset_index()
    estimators, models = list(dict.fromkeys(rows.estimator)), list(dict.fromkeys(rows.model))
    for colour, estimator in zip(SERIES, estimators, strict=False):
        for marker, model in zip(MARKERS, models, strict=False):
            pair = table[(table.estimator == estimator) & (table.model == model)]
            axis.plot(pair.spread.clip(lower=0.02), pair.bias.clip(lower=0.004), marker, color=colour, alpha=0.85)
    for colour, estimator in zip(SERIES, estimators, strict=False):
        axis.plot([], [], "s", color=colour, label=estimator)
    for marker, model in zip(MARKERS, models, strict=False):
        axis.plot([], [], marker, color="black", label=model.replace("_with_", " + "))
    _log_log(axis)
    axis.set_xlim(0.016, 5000)  # room for the legend
    x, y = "spread / ‖true gradient‖   (left edge: none)", "bias / ‖true gradient‖   (lower edge: none)"
    _label(axis, "Estimators of ∇E[L]: bias against spread", x, y)
    axis.legend(loc="center right")


def _terms(axis: Axes, shares: pd.DataFrame) -> None:
    rows = shares[shares.weights == "eq2"]
    models = list(dict.fromkeys(zip(rows.policy, rows.reward, strict=True)))
    ticks, labels = [], []
    for number, space in enumerate("yz"):
        for index, (policy, reward) in enumerate(models):
            ticks.append(number * (len(models) + 0.5) + index)
            labels.append(f"∂L/∂{space}: {policy}, {reward}")
            part = rows[(rows.policy == policy) & (rows.reward == reward) & (rows.space == space)]
            left = 0.0
            for name, colour in TERM_COLOURS.items():
                value = 100 * np.average(part[f"{name}_share"], weights=part.positions)
                axis.barh(ticks[-1], value, left=left, color=colour, height=0.75)
                left += value
    axis.set_yticks(ticks, labels, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour, label=f"δ_{name}") for name, colour in TERM_COLOURS.items()]
    axis.legend(handles=handles, ncol=3, loc="lower center", bbox_to_anchor=(0.5, -0.32), frameon=False)
    _label(axis, "Prop. C.1: shares of the three terms", "mean share of the norms, %   (λ = ν = 1)")


def _postfix(axis: Axes, shares: pd.DataFrame) -> None:
    rows = shares[(shares.weights == "eq2") & (shares.space == "z")]
    lengths = rows.groupby("task").length.mean().sort_values()
    markers = dict(zip(lengths.index, MARKERS, strict=False))
    models = dict.fromkeys(zip(rows.policy, rows.reward, strict=True))
    for (policy, reward), colour in zip(models, SERIES, strict=False):
        for task, marker in markers.items():
            part = rows[(rows.policy == policy) & (rows.reward == reward) & (rows.task == task)].sort_values("quarter")
            axis.plot(part.quarter, 100 * part.postfix_share, f"{marker}-", color=colour, markersize=5, linewidth=1)
        axis.plot([], [], color=colour, label=f"{policy}, {reward}")
    for task, marker in markers.items():
        axis.plot([], [], marker, color="black", label=f"{task}, {lengths[task]:.0f} tokens")
    axis.set_xticks(range(4), QUARTERS)
    _label(axis, "δ_postfix by position and length", "quarter of the response", "share of δ_postfix in ∂L/∂z, %")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(ncol=2, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
