"""Figure of the gradient's properties, from the rows of curves.csv and terms.csv."""

import functools

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .panels import MARKERS, SERIES, Panel, arranged, label, log_log

TERM_COLOURS = {"prefix": "#0072B2", "postfix": "#E69F00", "reward": "#D55E00"}
FILLS = ("full", "none", "left")  # of the markers of one kind of models
QUARTERS = ["1st", "2nd", "3rd", "4th"]


def gradients(curves: pd.DataFrame, terms: pd.DataFrame) -> Figure | None:
    """Draw the gradient checks in panels, those with rows; return None if there are none.

    Args:
        curves: rows of `curves.csv`.
        terms: rows of `terms.csv`, or of `terms_by_quarter`.
    """
    present = set(curves.curve)
    panels: list[Panel] = [(draw, curves) for name, draw in (("eq25", _eq25), ("bias", _bias)) if name in present]
    shares = terms if "quarter" in terms else terms_by_quarter(terms)
    if len(shares):
        panels.append((_terms, shares))
        logits = shares[(shares.weights == "eq2") & (shares.space == "z")]
        top = 140 * logits.postfix_share.max()
        lengths = logits.groupby("task").length.mean().sort_values()
        draw = functools.partial(_postfix, top=top)
        panels += [(draw, logits[logits.task == task]) for task in lengths.index]
    return arranged(panels, columns=2)


def terms_by_quarter(terms: pd.DataFrame) -> pd.DataFrame:
    """Return mean shares of the three terms by quarter of the response, policy, reward, task, weights and space."""
    quarter = np.minimum(3, 4 * terms.position // terms.length) if len(terms) else terms.position
    keys = ["policy", "reward", "task", "weights", "space", "quarter"]
    table = terms.assign(quarter=quarter).groupby(keys, sort=True)
    means = table[["length", "prefix_share", "postfix_share", "reward_share"]].mean()
    return means.assign(positions=table.size()).reset_index()


def _eq25(axis: Axes, curves: pd.DataFrame) -> None:
    """Draw a line of a shade for each size of the vocabulary, darker for larger ones."""
    rows = curves[curves.curve == "eq25"]
    sizes = rows.series.str.extract(r"V(\d+)")[0].astype(int)
    shades = colormaps["cividis_r"](np.linspace(0.15, 1, sizes.nunique()))
    for shade, (size, group) in zip(shades, rows.groupby(sizes), strict=True):
        prefix_term = group.series.str.contains("-log p", regex=False)
        for part, line in ((group[~prefix_term], "-"), (group[prefix_term], "--")):
            entropies = np.linspace(0, np.log(size), 80)
            sweeps = [sweep.sort_values("x") for _, sweep in part.groupby("series")]
            mean = np.mean([np.interp(entropies, sweep.x, sweep.y) for sweep in sweeps], axis=0)
            axis.plot(entropies, mean, color=shade, linestyle=line, linewidth=1.8)
        axis.plot([], [], color=shade, linewidth=3, label=f"V = {size:,}")
    axis.plot([], [], "k-", label="∂L/∂y alone")
    axis.plot([], [], "k--", label="with the row's own -log p")
    x = "entropy of the row, nats (0: confident, ln V: uniform)"
    label(axis, "Eq. 25: 0 where confident, 1/√V where uniform", x, "‖∂L/∂z‖ for a unit Gaussian ∂L/∂y")
    axis.grid(alpha=0.3)
    axis.legend()


def _bias(axis: Axes, curves: pd.DataFrame) -> None:
    """Draw a colour and a marker for each estimator, and its filling for the models."""
    rows = curves[curves.curve.isin(["bias", "spread"])].copy()
    names = rows.series.str.partition(": ")
    rows["model"], rows["estimator"] = names[0].str.replace(r"^random\d+$", "random models", regex=True), names[2]
    table = rows.pivot_table(index=["series", "model", "estimator"], columns="curve", values="y").reset_index()
    models = list(dict.fromkeys(rows.model))
    for colour, marker, estimator in zip(SERIES, MARKERS, dict.fromkeys(rows.estimator), strict=False):
        style = {"color": colour, "marker": marker, "linestyle": "none", "markersize": 7, "markerfacecoloralt": "white"}
        for fill, model in zip(FILLS, models, strict=False):
            pair = table[(table.estimator == estimator) & (table.model == model)]
            axis.plot(pair.spread.clip(lower=0.02), pair.bias.clip(lower=0.004), fillstyle=fill, **style)
        axis.plot([], [], label=estimator, **style)
    for fill, model in zip(FILLS, models, strict=False):
        style = {"color": "black", "marker": "o", "linestyle": "none", "markerfacecoloralt": "white"}
        axis.plot([], [], fillstyle=fill, label=model.replace("_with_", " + "), **style)
    log_log(axis)
    axis.set_xlim(0.016, 5000)  # room for the legend
    x, y = "spread / ‖true gradient‖   (left edge: none)", "bias / ‖true gradient‖   (lower edge: none)"
    label(axis, "Estimators of ∇E[L]: bias against spread", x, y)
    axis.legend(loc="center right")


def _bar(term: str) -> dict[str, str]:
    """Return the style of a term's bar."""
    hatch = {"prefix": "", "postfix": "..", "reward": "///"}[term]
    return {"facecolor": TERM_COLOURS[term], "edgecolor": "white", "hatch": hatch}


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
            for name in TERM_COLOURS:
                value = 100 * np.average(part[f"{name}_share"], weights=part.positions)
                axis.barh(ticks[-1], value, left=left, height=0.75, **_bar(name))
                left += value
    axis.set_yticks(ticks, labels, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    handles = [Rectangle((0, 0), 1, 1, label=f"δ_{name}", **_bar(name)) for name in TERM_COLOURS]
    axis.legend(handles=handles, ncol=3, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    label(axis, "Prop. C.1: shares of the three terms", "mean share of the norms, %   (λ = ν = 1)")


def _postfix(axis: Axes, shares: pd.DataFrame, *, top: float) -> None:
    """Draw the shares of one task: a colour for each reward, a line and filling for each policy.

    Args:
        top: end of the axis of shares, percent.
    """
    rewards, policies = list(dict.fromkeys(shares.reward)), list(dict.fromkeys(shares.policy))
    for colour, marker, reward in zip(SERIES, MARKERS, rewards, strict=False):
        for line, fill, policy in zip(("-", "--", ":"), FILLS, policies, strict=False):
            part = shares[(shares.policy == policy) & (shares.reward == reward)].sort_values("quarter")
            style = {"color": colour, "marker": marker, "linestyle": line, "fillstyle": fill, "markersize": 6}
            axis.plot(part.quarter, 100 * part.postfix_share, label=f"{policy}, {reward}", **style)
    axis.set_xticks(range(4), QUARTERS)
    title = f"δ_postfix, {shares.task.iloc[0]} ({shares.length.mean():.0f} tokens)"
    label(axis, title, "quarter of the response", "share of δ_postfix in ∂L/∂z, %")
    axis.set_ylim(0, top)
    axis.grid(alpha=0.3)
    axis.legend(loc="upper right")
