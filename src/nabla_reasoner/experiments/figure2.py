"""Figures 1 and 2, drawn from their rows: the landscape of two tokens, and the rounds of one decoding."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from ..config import build
from ..config.schema import Cell
from ..decoding import trace
from ..models.language_models import Policy, RewardModel
from ..reporting.figures import BLUE, GREEN, GREY, ORANGE
from ..tasks import grading
from .case_figure import Rows, write_case_figure
from .command import Command

NAMES = ("rollouts", "tokens", "visits")  # of its tables, in the order in which the drawing takes them


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
        axis.text(
            x + 0.5,
            y + 0.2,
            token.token,
            ha="center",
            va="center",
            fontsize=7 if small else 11,
            color=ink,
            family="monospace",
            weight="bold" if token.position == replaced else "normal",
        )
        axis.text(
            x + 0.5,
            y - 0.09,
            f"{100 * token.confidence:.0f}",
            ha="center",
            va="center",
            fontsize=6.5,
            color="black" if token.confidence <= 0.97 else "#AAAAAA",
        )
    for visit in visits[visits.response == rollout.rollout].itertuples():
        fresh = visit.evaluations > 0
        axis.plot(
            visit.position + 0.3, y + 0.56, "v", color=BLUE, markerfacecolor=BLUE if fresh else "white", markersize=7
        )
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
        Line2D(
            [],
            [],
            marker="$97$",
            markersize=11,
            linestyle="none",
            color="black",
            label="confidence, % (grey: above the gate, skipped)",
        ),
        Patch(facecolor="#EEEEEE", edgecolor=GREY, label="committed, or kept from the current response"),
        Patch(facecolor=GREEN, label="new token, accepted"),
        Patch(facecolor=ORANGE, label="new token, rejected"),
    ]


def trace_rows(cell: Cell) -> Rows:
    """Rows of Figure 2 by file: the rollouts, their tokens, and every visited position.

    Raises:
        ValueError: no problem shows everything that can happen.
    """
    policy, reward = build.load_models(cell)
    traces = trace.record(build.build_method(cell), build.build_problems(cell), policy, reward, seed=cell["seed"])
    for number, each in enumerate(traces):
        accepted = sum(response.accepted for response in each.responses[1:])
        kinds = {
            "rejected": accepted < len(each.responses) - 1,
            "kept": any(v.proposal is None for v in each.visits),
            "reused": any(v.reused and not v.evaluations for v in each.visits),
        }
        texts = [policy.decode(tokens) for tokens in (each.responses[0].tokens, each.solution.token_ids)]
        right = [grading.grade(each.problem, text, True).correct for text in texts]
        if accepted >= 2 and all(kinds.values()) and right == [False, True]:
            return _traced(each, number, policy, reward)
    raise ValueError("no problem among these shows every step of the loop; look at more with num_problems=NUMBER.")


def _traced(each: trace.Trace, number: int, policy: Policy, reward: RewardModel) -> Rows:
    def word(token: int) -> str:
        return "end" if token in policy.eos_ids else policy.decode([token])

    names = {
        "problem": each.problem.id,
        "question": each.problem.question,
        "answer": each.problem.answer,
        "looked_at": number + 1,
    }
    return {
        "rollouts": [
            {**names, "rollout": k, "kept": r.kept, "reward": r.reward, "accepted": r.accepted}
            for k, r in enumerate(each.responses)
        ],
        "tokens": [
            {"rollout": k, "position": p, "token": word(token), "confidence": confidence}
            for k, r in enumerate(each.responses)
            for p, (token, confidence) in enumerate(zip(r.tokens, r.confidence, strict=True))
        ],
        "visits": [{**visit._asdict(), "old": word(visit.old), "new": word(visit.new)} for visit in each.visits],
    }


def trace_caption(rows: Rows, command: str, cell: Cell) -> str:
    """figure2.md."""
    case, visits = rows["rollouts"][0], rows["visits"]
    proposals = [visit for visit in visits if visit["proposal"] is not None]
    free = sum(visit["reused"] and not visit["evaluations"] for visit in visits)
    evaluations = sum(visit["evaluations"] for visit in visits)
    settled = sum(
        row["confidence"] > cell["method"]["confidence_threshold"] for row in rows["tokens"] if row["rollout"] == 0
    )
    length = sum(row["rollout"] == 0 for row in rows["tokens"])
    return f"""# figure2.png

Made by `{command}`; rows in `figures/data/figure2_*.csv`.

The framework on one problem: {case["question"]} ({cell["policy"]["name"]}, reward {cell["reward"]["name"]}, answer \
{case["answer"]}). Each line is a rollout; its tokens stand in cells. The first rollout had {settled} of {length} \
tokens above the confidence gate ({cell["method"]["confidence_threshold"]}), which are skipped. At {len(visits)} \
others the loop stopped: DTO moved the token's logits ({cell["method"]["num_iterations"]} steps) and a token was \
drawn from them. {len(visits) - len(proposals)} draws were the old token; {len(proposals)} differed and were rolled \
out behind, and stay only where the reward rose (r in nats, the log-likelihood under the reward model). The stops took \
{evaluations} gradient evaluations in all; {free} stop{"s" * (free != 1)} needed none, because ∂L/∂y \
depends on the hard tokens and these had not changed.

The case: the first test problem (number {case["looked_at"]} of {cell["num_problems"]}, {cell["task"]["name"]}, seed \
{cell["seed"]}) whose first rollout is wrong and whose answer is right, with at least two accepted and one rejected \
proposal, a draw of the old token and a reused gradient. A problem in which less happens is more common.
"""


def run(command: Command, cell: Cell) -> int:
    """Compute the rows, draw the figure and write its caption; returns the exit status."""
    return write_case_figure(command, cell, trace_rows, trace_caption, framework)
