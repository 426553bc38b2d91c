"""Figure 1: loss over two tokens, with draws of the policy and the path of DTO."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..config import build
from ..config.schema import Cell
from ..engine.sampling import keyed_uniforms
from ..reporting.figures import ORANGE, YELLOW, without_marks
from . import token_pairs
from .case_figure import Rows, write_case_figure
from .command import Command
from .token_pairs import Pair

NUM_DRAWS = 32  # Figure 4's largest N
SHARES = np.linspace(0, 1, 31)
BUDGETS = (1, 2, 8, 32)  # numbers of draws that DTO is compared with
NAMES = ("search", "pairs", "square", "path")  # of its tables, in the order in which the drawing takes them


def best_of(losses: np.ndarray, chances: np.ndarray, count: int) -> float:
    """Expected lowest L of `count` independent draws, exactly; what lies outside the alphabet is left out."""
    order = np.argsort(losses, axis=None)
    above = 1 - np.cumsum(chances.ravel()[order] / chances.sum()).clip(max=1)
    tail = np.concatenate([[1.0], above]) ** count
    return float((losses.ravel()[order] * (tail[:-1] - tail[1:])).sum())


def search(cell: Cell) -> tuple[list[dict[str, Any]], list[tuple[Pair, np.ndarray, np.ndarray]], list[int]]:
    """Rows of figure1_search.csv, what each is about, and the alphabet."""
    policy, reward = build.load_models(cell)
    method, rows, about = build.build_method(cell), [], []
    found, alphabet = token_pairs.find(build.build_problems(cell), policy, reward, method, cell["seed"])
    for pair in found:
        losses = token_pairs.losses(pair, policy, reward, alphabet, **method.weights)
        chances = token_pairs.chances(pair, policy, alphabet, method.rollout_sampling)
        first, second = np.unravel_index(losses.argmin(), losses.shape)
        best = alphabet[first], alphabet[second]
        path = token_pairs.descend(pair, policy, reward, method.descent, (0, 1), **method.weights)
        alone = token_pairs.one_by_one(pair, policy, reward, method.descent, **method.weights)
        rows.append(
            {
                "problem_id": pair.problem.id,
                "response": policy.decode(pair.sequence.rollout),
                "first": pair.positions[0],
                "second": pair.positions[1],
                **{
                    name: policy.decode(list(tokens))
                    for name, tokens in (
                        ("own", pair.tokens),
                        ("best", best),
                        ("dto", path[-1].tokens),
                        ("one_by_one", alone.tokens),
                    )
                },
                "own_loss": path[0].loss,
                "best_loss": losses.min(),
                "dto_loss": path[-1].loss,
                "one_by_one_loss": alone.loss,
                "evaluations": len({step.tokens for step in path}),
                "chance": chances[first, second],
                **{f"best_of_{count}_loss": best_of(losses, chances, count) for count in BUDGETS},
                "drawn": False,
            }
        )
        about.append((pair, losses, chances))
    return rows, about, alphabet


def chosen_case(rows: Sequence[Mapping[str, Any]]) -> int:
    """The first row whose best pair differs from the response's own in both tokens and is where DTO ends.

    Raises:
        ValueError: there is none.
    """
    for number, row in enumerate(rows):
        if row["best"] == row["dto"] and all(a != b for a, b in zip(row["own"], row["best"], strict=True)):
            return number
    raise ValueError("no searched response lets DTO mend both tokens; search more with num_problems=NUMBER.")


def landscape_rows(cell: Cell) -> Rows:
    """Rows of Figure 1 by file: the search, every pair of tokens, the relaxed square, DTO's steps."""
    rows, about, alphabet = search(cell)
    number = chosen_case(rows)
    rows[number]["drawn"] = True
    pair, losses, chances = about[number]
    policy, reward = build.load_models(cell)
    method = build.build_method(cell)
    path = token_pairs.descend(pair, policy, reward, method.descent, (0, 1), **method.weights)
    others = path[-1].tokens
    darts = _draw_pairs(pair, chances, cell["seed"])
    words = [policy.decode([token]) for token in alphabet]
    square = token_pairs.relaxed(pair, policy, reward, others, SHARES.tolist(), **method.weights)
    steps = []
    for step, (logits, tokens, loss) in enumerate(path):
        mass = logits.softmax(-1)
        row: dict[str, Any] = {"step": step, "tokens": policy.decode(list(tokens)), "loss": loss}
        for name, own, other, part in zip(("first", "second"), pair.tokens, others, mass, strict=True):
            inside = (part[own] + part[other]).item()
            row |= {f"u_{name}": part[other].item() / inside, f"inside_{name}": inside}
        steps.append(row)
    return {
        "search": rows,
        "pairs": [
            {
                "first": words[i],
                "second": words[j],
                "loss": losses[i, j],
                "chance": chances[i, j],
                "darts": darts.count((i, j)),
            }
            for i in range(len(words))
            for j in range(len(words))
        ],
        "square": [
            {"u_first": u, "u_second": v, "loss": square[i, j]}
            for i, u in enumerate(SHARES)
            for j, v in enumerate(SHARES)
        ],
        "path": steps,
    }


def _draw_pairs(pair: Pair, chances: np.ndarray, seed: int) -> list[tuple[int, int]]:
    """Draws of the policy at the two positions, as places in the alphabet; those outside it are left out."""
    at = np.searchsorted(chances.cumsum(), keyed_uniforms(seed, pair.problem.id, 0, "darts", NUM_DRAWS))
    width = chances.shape[1]
    return [(int(place) // width, int(place) % width) for place in at if place < chances.size]


def landscape_caption(rows: Rows, command: str, cell: Cell) -> str:
    """figure1.md."""
    table = pd.DataFrame(rows["search"])
    case, wrong = table[table.drawn].iloc[0], table[table.best != table.own]
    ends = pd.DataFrame(rows["path"]).iloc[[0, -1]]
    hit, rowwise = ((wrong[name] == wrong.best).mean() for name in ("dto", "one_by_one"))

    def above(column: str) -> str:
        return f"{(wrong[f'{column}_loss'] - wrong.best_loss).mean():.1f}"

    chance = {count: (1 - (1 - wrong.chance) ** count).mean() for count in BUDGETS}
    return f"""# figure1.png

Made by `{command}`; rows in `figures/data/figure1_*.csv`.

Zeroth-order search beside first-order descent on the landscape of two tokens. The response `{case.response}` \
({cell["policy"]["name"]}, {case.problem_id}) is kept but for the tokens at positions {case["first"]} and \
{case.second}, `{case.own[0]}` and `{case.own[1]}`. L = −λ r − ν log π in nats, λ = {cell["method"]["reward_weight"]}, \
ν = {cell["method"]["nll_weight"]}, as {cell["reward"]["name"]} and the policy compute it. Left: L of every pair of \
tokens, with {NUM_DRAWS} draws of the policy (temperature {cell["method"]["rollout_temperature"]}; the second token drawn \
behind the first): what sampling sees. Right: the same L where the two tokens are mixtures of embeddings between the \
response's own (u = 0) and the best pair (u = 1), with DTO's T = {cell["method"]["num_iterations"]} steps on both rows \
of logits, from the policy's own; u is the share of the new token in the two tokens' probability, which holds \
{100 * ends.inside_first.iloc[0]:.0f} and {100 * ends.inside_second.iloc[0]:.0f} % of the rows' mass at the start and \
{100 * ends.inside_first.iloc[1]:.0f} and {100 * ends.inside_second.iloc[1]:.0f} % at the end. DTO takes its gradient \
at the hard tokens, that is at a corner, and not where the marker stands.

The case: the first of {len(table)} responses ({cell["task"]["name"]}, {cell["split"]} problems; those among the first \
{cell["num_problems"]} whose first rollout has two tokens below the confidence gate; the two least confident) in which \
the best pair differs in both tokens and DTO ends there. It is not typical. In the {len(wrong)} responses whose own \
pair is not the best one:

| from the response's own tokens | ends at the best pair | mean L above the best pair, nats |
|---|---|---|
| as sampled | 0 % | {above("own")} |
| DTO, both rows at once, {wrong.evaluations.mean():.1f} gradient evaluations on average | {100 * hit:.0f} % | \
{above("dto")} |
| DTO, one row after the other, each change kept only where L falls | {100 * rowwise:.0f} % | {above("one_by_one")} |
""" + "".join(
        f"| best of {count} draw{'s' * (count > 1)} (exact expectation) | {100 * chance[count]:.0f} % | "
        f"{above(f'best_of_{count}')} |\n"
        for count in BUDGETS
    )


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
    axis.plot(
        x,
        y,
        marker=marker,
        markersize=size,
        markerfacecolor=colour,
        markeredgecolor="black",
        linestyle="none",
        zorder=5,
        clip_on=False,
        label="best pair (lowest L)" if star else "the response's own pair",
    )


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
    axis.plot(
        path.u_first,
        path.u_second,
        "o",
        color=ORANGE,
        markersize=3.5,
        markeredgecolor="white",
        markeredgewidth=0.4,
        label=f"DTO, {len(path) - 1} steps",
    )
    axis.plot(
        path.u_first.iloc[0],
        path.u_second.iloc[0],
        "s",
        color=YELLOW,
        markeredgecolor="black",
        markersize=8,
        label="start: the policy's own logits",
        linestyle="none",
    )
    axis.plot(
        path.u_first.iloc[-1],
        path.u_second.iloc[-1],
        "D",
        color="white",
        markeredgecolor=ORANGE,
        markersize=7,
        label="end",
        linestyle="none",
    )
    (a, b), (c, d) = case.own, case.best
    for x, y, pair in ((0, 0, a + b), (1, 0, c + b), (0, 1, a + d), (1, 1, c + d)):
        box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.85, "linewidth": 0}
        axis.annotate(
            f"{pair[0]} … {pair[1]}",
            (x, y),
            xytext=(8 - 16 * x, 9 - 18 * y),
            textcoords="offset points",
            ha="right" if x else "left",
            va="center",
            fontsize=9,
            bbox=box,
        )
    _mark(axis, 0, 0, False)
    _mark(axis, 1, 1, True)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel(f"u of position {case['first']}: from “{a}” to “{c}”")
    axis.set_ylabel(f"u of position {case.second}: from “{b}” to “{d}”")
    axis.set_title("first order: DTO follows the gradient between them", fontsize=10)
    axis.legend(
        *without_marks(axis),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
        ncol=3,
        fontsize=8,
        frameon=False,
        handletextpad=0.3,
    )


def run(command: Command, cell: Cell) -> int:
    """Compute the rows, draw the figure and write its caption; returns the exit status."""
    return write_case_figure(command, cell, landscape_rows, landscape_caption, landscape)
