"""Figure of Theorem 4.1, from the rows of curves.csv."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .panels import MARKERS, SERIES, arranged, label, log_log


class Style(NamedTuple):
    """Label, colour and marker of a series."""

    label: str
    colour: str
    marker: str


SPACES = {
    "line": Style("one dimension", "#0072B2", "o"),
    "plane": Style("two dimensions", "#D55E00", "s"),
    "text": Style("two-token text", "#009E73", "^"),
}


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
    return arranged([(draw, curves) for name, draw in panels.items() if name in present], columns=3)


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
    label(axis, "Noise makes ρ*; plain descent ends in minima of L", "x", "density")
    axis.legend(loc="upper center", ncol=2)


def _from_flow(axis: Axes, curves: pd.DataFrame) -> None:
    for name, (space, colour, marker) in SPACES.items():
        for curve, face, reference in (("from_flow", colour, "from the flow"), ("from_limit", "white", "from ρ*")):
            rows = curves[(curves.curve == curve) & (curves.series == name)]
            style = {"color": colour, "markerfacecolor": face, "linewidth": 0.8}
            axis.plot(rows.x, rows.y / rows.floor, f"{marker}:", label=f"{space}, {reference}", **style)
    axis.axhline(1, color="black", linewidth=1)
    axis.axhline(0.5, color="black", linewidth=1, linestyle="--")
    for height, text in ((1.1, "tolerance: distance of two runs"), (0.31, "dashed: expected without a difference")):
        axis.text(0.99, height, text, transform=axis.get_yaxis_transform(), fontsize=7, ha="right")
    log_log(axis)
    axis.set_ylim(0.25, 300)
    label(axis, "Particles are distributed as the flow at every time", "time t", "distance of particles / noise floor")
    axis.legend(ncol=2, loc="upper center")


def _mixing(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve == "mixing"]
    for name, (space, colour, _) in SPACES.items():
        for sampler, note, line in (("flow", " (exact)", "-"), ("Euler", "", "x"), ("MALA", "", "o")):
            series = rows[rows.series == f"{name}: {sampler}"]
            if len(series):
                style = {"color": colour, "markerfacecolor": "none", "label": f"{space}: {sampler}{note}"}
                axis.plot(series.x, series.y.clip(lower=2e-3), line, **style)
        floors = rows[rows.series.str.startswith(f"{name}: ")].floor.dropna()
        if len(floors):
            axis.axhline(floors.mean() / 2, color=colour, linewidth=0.9, linestyle="--")
    log_log(axis)
    axis.set_ylim(2e-3, 2.5)
    x = "time t   (dashed: noise alone)"
    label(axis, "Long run: early distance is slow mixing, not error", x, "total variation from ρ*")
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
    label(axis, "The noise must be √(2β)", "noise / √(2β)", "distance from the flow / noise floor")
    axis.legend()


def _convergence(axis: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves.curve == "convergence"]
    for series, name, colour, line in (
        ("gap_time", "1 / spectral gap of the flow", "#0072B2", "-"),
        ("kramers_time", "Eyring-Kramers formula", "#777777", "--"),
        ("particle_time", "particles (4 standard deviations)", "#D55E00", "o"),
    ):
        times = rows[rows.series == series]
        errors = 4 * times.floor if series == "particle_time" else None
        axis.errorbar(times.x, times.y, errors, fmt=line, color=colour, markersize=4, capsize=2, label=name)
    axis.set_yscale("log")
    label(axis, "Relaxation time grows as exp(barrier)", "barrier of L between two modes, nats", "relaxation time")
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
    label(axis, "A relaxed two-token text has two modes", share.format("first"), share.format("second"))
    axis.legend(loc="center left")
