"""Drawing of Figure 1: L of every pair of tokens beside L of mixtures of two pairs.

Pairs stand in the order of their rows, the second token varying fastest; two tokens may have the same text.
"""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..reporting.figures import ORANGE, PLAIN, YELLOW, without_marks


def alphabet_texts(pairs: pd.DataFrame) -> list[str]:
    """Return the text of each token of the alphabet; two tokens may have the same."""
    return pairs.second.fillna("").tolist()[: math.isqrt(len(pairs))]


def indices(case: pd.Series, name: str, pairs: pd.DataFrame) -> list[int]:
    """Return where the two tokens of a pair stand in the alphabet.

    Args:
        case: row of figure1_search.csv. Earlier rows have no ids, and tokens of one character.
        name: `own` or `best`.
        pairs: rows of figure1_pairs.csv.
    """
    if f"{name}_ids" in case:
        tokens, known = [int(token) for token in case[f"{name}_ids"].split()], pairs.second_id.tolist()
    else:
        tokens, known = list(case[name]), pairs.second.tolist()
    return [known.index(token) for token in tokens]


MAX_LABELS = 40  # tokens named on both axes; of more, every second, third and so on is named, at the left only
LEGEND = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "ncol": 3, "fontsize": 8, "frameon": False}


@plt.rc_context(PLAIN)
def draw(search: pd.DataFrame, pairs: pd.DataFrame, square: pd.DataFrame, path: pd.DataFrame) -> Figure:
    """Draw L of every pair of tokens with the policy's draws, and L of their mixtures with DTO's steps.

    Args:
        search, pairs, square, path: rows of figure1_*.csv.
    """
    case = search[search.drawn].iloc[0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.2))
    own_pair, best_pair = (indices(case, name, pairs) for name in ("own", "best"))
    _draw_pairs(left, case, pairs, own_pair, best_pair)
    texts = alphabet_texts(pairs)
    _draw_square(right, case, square, path, [texts[index] for index in own_pair], [texts[index] for index in best_pair])
    figure.tight_layout()
    return figure


def _draw_pairs(
    axis: Axes, case: pd.Series, pairs: pd.DataFrame, own_pair: Sequence[int], best_pair: Sequence[int]
) -> None:
    """Draw the left panel: L of every pair of tokens, and the policy's draws.

    Args:
        own_pair, best_pair: where the two tokens stand in the alphabet.
    """
    texts = alphabet_texts(pairs)
    table = pairs.loss.to_numpy().reshape(len(texts), len(texts)).T  # lines: the second token
    image = axis.imshow(table, origin="lower", cmap="cividis", aspect="auto")
    axis.figure.colorbar(image, ax=axis, label="L, nats")
    for place in np.flatnonzero(pairs.draws):
        first, second = divmod(place, len(texts))
        count = pairs.draws[place]
        numbers = np.arange(count)
        x = first + 0.2 * (numbers % 4 - (min(count, 4) - 1) / 2)
        y = second + 0.2 * (numbers // 4 - (count - 1) // 4 / 2)
        axis.plot(x, y, "x", color=ORANGE, markersize=5, markeredgewidth=1.4)
    axis.plot([], [], "x", color=ORANGE, label=f"{pairs.draws.sum()} draws of the policy")
    for (first, second), is_best in ((own_pair, False), (best_pair, True)):
        _mark_pair(axis, first - 0.28, second + 0.28, is_best)
    step = -(-len(texts) // MAX_LABELS)
    if step == 1:
        axis.set_xticks(range(len(texts)), texts)
    else:
        axis.set_xticks([])
    axis.set_yticks(range(0, len(texts), step), texts[::step])
    axis.set_xlabel(f"token at position {case['first']}{'' if step == 1 else ', in the same order'}")
    axis.set_ylabel(f"token at position {case.second}")
    axis.set_title("zeroth order: sampling sees single pairs", fontsize=10)
    axis.legend(**LEGEND, handletextpad=0.3)


def _draw_square(
    axis: Axes,
    case: pd.Series,
    square: pd.DataFrame,
    path: pd.DataFrame,
    own_pair: Sequence[str],
    best_pair: Sequence[str],
) -> None:
    """Draw the right panel: L of mixtures of the two pairs' tokens, and DTO's path.

    Args:
        own_pair, best_pair: texts of the two tokens.
    """
    table = square.pivot(index="u_second", columns="u_first", values="loss")
    filled = axis.contourf(table.columns, table.index, table, levels=20, cmap="cividis")
    axis.contour(table.columns, table.index, table, levels=20, colors="white", linewidths=0.3)
    axis.figure.colorbar(filled, ax=axis, label="L, nats")
    _draw_path(axis, path)
    (a, b), (c, d) = own_pair, best_pair
    for x, y, pair in ((0, 0, (a, b)), (1, 0, (c, b)), (0, 1, (a, d)), (1, 1, (c, d))):
        axis.annotate(
            f"{pair[0]} … {pair[1]}",
            (x, y),
            xytext=(8 - 16 * x, 9 - 18 * y),
            textcoords="offset points",
            ha="right" if x else "left",
            va="center",
            fontsize=9,
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.85, "linewidth": 0},
        )
    _mark_pair(axis, 0, 0, False)
    _mark_pair(axis, 1, 1, True)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel(f"u of position {case['first']}: from “{a}” to “{c}”")
    axis.set_ylabel(f"u of position {case.second}: from “{b}” to “{d}”")
    axis.set_title("first order: DTO follows the gradient between them", fontsize=10)
    axis.legend(*without_marks(axis), **LEGEND, handletextpad=0.3)


def _draw_path(axis: Axes, path: pd.DataFrame) -> None:
    """Draw DTO's steps, with marks for the first and the last."""
    u, v = path.u_first, path.u_second
    dots = {"markersize": 3.5, "markeredgecolor": "white", "markeredgewidth": 0.4}
    start = {"markersize": 8, "markeredgecolor": "black", "label": "start: the policy's own logits"}
    axis.plot(u, v, "-", color=ORANGE, linewidth=2)
    axis.plot(u, v, "o", color=ORANGE, label=f"DTO, {len(path) - 1} steps", **dots)
    axis.plot(u.iloc[0], v.iloc[0], "s", color=YELLOW, **start)
    axis.plot(u.iloc[-1], v.iloc[-1], "D", color="white", markersize=7, markeredgecolor=ORANGE, label="end")


def _mark_pair(axis: Axes, x: float | int, y: float | int, is_best: bool) -> None:
    """Mark the best pair with a star, or the response's own pair with a circle."""
    axis.plot(
        x,
        y,
        "*" if is_best else "o",
        markersize=15 if is_best else 9,
        markerfacecolor="white",
        markeredgecolor="black",
        zorder=5,
        clip_on=False,
        label="best pair (lowest L)" if is_best else "the response's own pair",
    )
