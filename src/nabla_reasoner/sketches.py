"""Figures 1 and 2, drawn from their rows: the landscape of two tokens, and the rounds of one decoding."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

FILES = {"figure1": ("search", "pairs", "square", "path"), "figure2": ("rollouts", "tokens", "visits")}
# Tokens are text, also where they look like numbers.
TEXT = dict.fromkeys(("own", "best", "dto", "one_by_one", "first", "second", "tokens", "token", "old", "new"), str)
BLUE, ORANGE, GREEN, GREY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#999999", "#F0E442"


def read(folder: Path, target: str) -> list[pd.DataFrame]:
    """The tables of a figure, in the order in which its drawing takes them."""
    return [pd.read_csv(folder / f"{target}_{name}.csv", dtype=TEXT) for name in FILES[target]]


def landscape(search: pd.DataFrame, pairs: pd.DataFrame, square: pd.DataFrame, path: pd.DataFrame) -> Figure:
    """Figure 1: L of every pair of tokens with the policy's draws; L of their mixtures with DTO's steps.

    Args:
        search, pairs, square, path: rows of figure1_*.csv.
    """
    case = search[search.drawn].iloc[0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.2))
    _draws(left, case, pairs)
    _descent(right, case, square, path)
    figure.tight_layout()
    return figure


def _mark(axis: Axes, x: float | int, y: float | int, star: bool, colour: str = "white") -> None:
    """The response's own pair, or the best one."""
    marker, size = ("*", 15) if star else ("o", 9)
    axis.plot(x, y, marker=marker, markersize=size, markerfacecolor=colour, markeredgecolor="black", linestyle="none",
              zorder=5, clip_on=False, label="best pair (lowest L)" if star else "the response's own pair")  # fmt: skip


def _draws(axis: Axes, case: pd.Series, pairs: pd.DataFrame) -> None:
    words = list(dict.fromkeys(pairs["first"]))
    table = pairs.pivot(index="second", columns="first", values="loss").loc[words, words]
    image = axis.imshow(table, origin="lower", cmap="cividis", aspect="auto")
    axis.figure.colorbar(image, ax=axis, label="L, nats")
    for _, row in pairs[pairs.darts > 0].iterrows():
        places = np.arange(row.darts)
        x = words.index(row["first"]) + 0.2 * (places % 4 - (min(row.darts, 4) - 1) / 2)
        y = words.index(row.second) + 0.2 * (places // 4 - (row.darts - 1) // 4 / 2)
        axis.plot(x, y, "x", color=ORANGE, markersize=5, markeredgewidth=1.4)
    axis.plot([], [], "x", color=ORANGE, label=f"{pairs.darts.sum()} draws of the policy")
    for pair, star in ((case.own, False), (case.best, True)):
        _mark(axis, words.index(pair[0]) - 0.28, words.index(pair[1]) + 0.28, star)
    axis.set_xticks(range(len(words)), words)
    axis.set_yticks(range(len(words)), words)
    axis.set_xlabel(f"token at position {case['first']}")
    axis.set_ylabel(f"token at position {case.second}")
    axis.set_title("zeroth order: sampling sees single pairs", fontsize=10)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncol=3, fontsize=8, frameon=False, handletextpad=0.3)


def _descent(axis: Axes, case: pd.Series, square: pd.DataFrame, path: pd.DataFrame) -> None:
    table = square.pivot(index="u_second", columns="u_first", values="loss")
    filled = axis.contourf(table.columns, table.index, table, levels=20, cmap="cividis")
    axis.contour(table.columns, table.index, table, levels=20, colors="white", linewidths=0.3)
    axis.figure.colorbar(filled, ax=axis, label="L, nats")
    axis.plot(path.u_first, path.u_second, "-", color=ORANGE, linewidth=2)
    axis.plot(path.u_first, path.u_second, "o", color=ORANGE, markersize=3.5, markeredgecolor="white",
              markeredgewidth=0.4, label=f"DTO, {len(path) - 1} steps")  # fmt: skip
    axis.plot(path.u_first.iloc[0], path.u_second.iloc[0], "s", color=YELLOW, markeredgecolor="black", markersize=8,
              label="start: the policy's own logits", linestyle="none")  # fmt: skip
    axis.plot(path.u_first.iloc[-1], path.u_second.iloc[-1], "D", color="white", markeredgecolor=ORANGE, markersize=7,
              label="end", linestyle="none")  # fmt: skip
    (a, b), (c, d) = case.own, case.best
    for x, y, pair in ((0, 0, a + b), (1, 0, c + b), (0, 1, a + d), (1, 1, c + d)):
        box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.85, "linewidth": 0}
        axis.annotate(f"{pair[0]} … {pair[1]}", (x, y), xytext=(8 - 16 * x, 9 - 18 * y), textcoords="offset points",
                      ha="right" if x else "left", va="center", fontsize=9, bbox=box)  # fmt: skip
    _mark(axis, 0, 0, False)
    _mark(axis, 1, 1, True)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel(f"u of position {case['first']}: from “{a}” to “{c}”")
    axis.set_ylabel(f"u of position {case.second}: from “{b}” to “{d}”")
    axis.set_title("first order: DTO follows the gradient between them", fontsize=10)
    axis.legend(*_without_marks(axis), loc="upper center", bbox_to_anchor=(0.5, -0.12), ncol=3, fontsize=8,
                frameon=False, handletextpad=0.3)  # fmt: skip


def _without_marks(axis: Axes) -> tuple[list, list[str]]:
    """Legend entries that the other panel does not have."""
    found = [(handle, label) for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
             if "pair" not in label]  # fmt: skip
    return [handle for handle, _ in found], [label for _, label in found]


def framework(rollouts: pd.DataFrame, tokens: pd.DataFrame, visits: pd.DataFrame) -> Figure:
    """Figure 2: one line of token cells per rollout, the stops of the loop above them, and what became of each.

    Args:
        rollouts, tokens, visits: rows of figure2_*.csv.
    """
    lines, longest = len(rollouts), int(tokens.position.max()) + 1
    figure, axis = plt.subplots(figsize=(0.42 * longest + 5.2, 1.05 * lines + 1.5))
    for line, row in enumerate(rollouts.itertuples()):
        _cells(axis, -line, row, tokens[tokens.rollout == row.rollout], visits)
        _fate(axis, -line, row, rollouts, visits, longest)
    last = rollouts[rollouts.accepted].rollout.max()
    answer = "".join(tokens[(tokens.rollout == last) & (tokens.token != "end")].token)
    axis.text(0, -lines + 0.25, f"decoded: {answer}   (answer {rollouts.answer.iloc[0]})", fontsize=11, weight="bold")
    axis.set_title(rollouts.question.iloc[0], fontsize=10, loc="left")
    axis.set_xlim(-0.2, longest + 9.2)
    axis.set_ylim(0.1 - lines, 0.75)
    axis.set_axis_off()
    figure.legend(handles=_key(), ncol=3, loc="lower center", fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.75 / figure.get_figheight(), 1, 1))
    return figure


def _cells(axis: Axes, y: float | int, rollout: Any, tokens: pd.DataFrame, visits: pd.DataFrame) -> None:
    """Tokens of one rollout, and over them the stops that were made while it was the current response."""
    replaced = rollout.kept - 1  # of a proposal: its new token
    for token in tokens.itertuples():
        x, colour, edge, ink = token.position, "white", GREY, "black"
        if token.position < replaced:
            colour, ink = "#EEEEEE", "#777777"
        elif token.position == replaced:
            colour, ink = (GREEN, "white") if rollout.accepted else (ORANGE, "white")
        axis.add_patch(Rectangle((x + 0.04, y), 0.92, 0.42, facecolor=colour, edgecolor=edge, linewidth=0.8))
        small = token.token == "end"
        axis.text(x + 0.5, y + 0.2, token.token, ha="center", va="center", fontsize=7 if small else 11, color=ink,
                  family="monospace", weight="bold" if token.position == replaced else "normal")  # fmt: skip
        axis.text(x + 0.5, y - 0.09, f"{100 * token.confidence:.0f}", ha="center", va="center", fontsize=6.5,
                  color="black" if token.confidence <= 0.97 else "#AAAAAA")  # fmt: skip
    for visit in visits[visits.response == rollout.rollout].itertuples():
        fresh = visit.evaluations > 0
        axis.plot(visit.position + 0.3, y + 0.56, "v", color=BLUE, markerfacecolor=BLUE if fresh else "white",
                  markersize=7)  # fmt: skip
        axis.text(visit.position + 0.52, y + 0.57, visit.new, fontsize=9, va="center", color=BLUE, family="monospace")


def _fate(axis: Axes, y: float | int, row: Any, rollouts: pd.DataFrame, visits: pd.DataFrame, longest: int) -> None:
    """What stands beside a line: its reward, and whether it was accepted."""
    if row.rollout == 0:
        text = f"first rollout        r = {row.reward:.3g}"
        colour = "black"
    else:
        before = visits[visits.proposal == row.rollout].iloc[0]
        beaten = rollouts.reward[rollouts.rollout == before.response].iloc[0]
        sign, word = (">", "accepted") if row.accepted else ("≤", "rejected")
        change, value = f"{before.old} → {before.new}", f"r = {row.reward:.3g} {sign} {beaten:.3g}"
        text = f"proposal {row.rollout}: {change}   {value}   {word}"
        colour = GREEN if row.accepted else ORANGE
    axis.text(longest + 0.4, y + 0.2, text, fontsize=9, va="center", color=colour)


def _key() -> list:
    def stop(full: bool, label: str) -> Line2D:
        face = BLUE if full else "white"
        return Line2D([], [], marker="v", linestyle="none", color=BLUE, markerfacecolor=face, label=label)

    return [
        stop(True, "DTO here, ∂L/∂y computed; beside it the token drawn"),
        stop(False, "DTO here, ∂L/∂y reused; beside it the token drawn"),
        Line2D([], [], marker="$97$", markersize=11, linestyle="none", color="black",
               label="confidence, % (grey: above the gate, skipped)"),
        Patch(facecolor="#EEEEEE", edgecolor=GREY, label="committed, or kept from the current response"),
        Patch(facecolor=GREEN, label="new token, accepted"),
        Patch(facecolor=ORANGE, label="new token, rejected"),
    ]  # fmt: skip


TERMS = {"prefix": ("δ_prefix", "#56B4E9", "v"), "postfix": ("δ_postfix", GREEN, "^"),
         "reward": ("δ_reward", ORANGE, "o"), "total": ("all", "black", ".")}  # fmt: skip


def token_gradients(tokens: pd.DataFrame, candidates: pd.DataFrame, position: int) -> Figure:
    """What every token of a response feels, and what DTO does at one of them.

    Args:
        tokens: of `walkthrough.gradient_rows`.
        candidates: of `walkthrough.candidate_rows`, at `position`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 1))
    for name, (label, colour, marker) in TERMS.items():
        shown = tokens[name].where(tokens[name] > 0)  # a logarithmic axis has no place for 0
        left.plot(tokens.position, shown, marker, color=colour, label=label, markersize=5, alpha=0.85)
    left.axvspan(position - 0.5, position + 0.5, color="#DDDDDD", zorder=0, label="the token on the right")
    left.set_yscale("log")
    left.set_xticks(tokens.position, tokens.token, fontsize=8 if len(tokens) < 30 else 6, family="monospace")
    left.set_xlabel("token of the response")
    left.set_ylabel("norm of the term of ∂L/∂z")
    left.legend(fontsize=8, ncol=5, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
    left.grid(alpha=0.3, axis="y")
    places = np.arange(len(candidates))
    right.bar(places - 0.2, candidates.before, 0.4, color="#999999", label="policy")
    right.bar(places + 0.2, candidates.after, 0.4, color=ORANGE, hatch="//", edgecolor="white", label="after DTO")
    right.set_xticks(places, candidates.token, family="monospace")
    right.set_xlabel(f"token at position {position}")
    right.set_ylabel("probability")
    right.set_ylim(0, 1.02)
    right.legend(fontsize=8, ncol=2, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
    figure.tight_layout(w_pad=2)
    return figure
