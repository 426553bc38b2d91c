"""Figure 2: the framework, drawn from the trace of one problem."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Patch, Rectangle

from ..config import build
from ..config.cell import Cell
from ..decoding import trace
from ..models.language_models import Policy
from ..reporting.figures import BLUE, GREEN, GREY, ORANGE, PLAIN
from ..tasks import grading
from .case_figure import Rows, printable, write_case_figure
from .command import Command

NAMES = ("rollouts", "tokens", "visits")  # tables of the figure, in the order of `draw`'s parameters
VISIT_COLUMNS = ("response", "position", "old", "new", "evaluations", "reused", "proposal")


@plt.rc_context(PLAIN)
def draw(rollouts: pd.DataFrame, tokens: pd.DataFrame, visits: pd.DataFrame) -> Figure:
    """Draw a line of token cells for each rollout, the visited positions above it, and its outcome beside it.

    Args:
        rollouts, tokens, visits: rows of figure2_*.csv.
    """
    lines, longest = len(rollouts), int(tokens.position.max()) + 1
    figure, axis = plt.subplots(figsize=(0.42 * longest + 5.2, 1.05 * lines + 1.5))
    for line, rollout in enumerate(rollouts.itertuples()):
        _draw_tokens(axis, -line, rollout, tokens[tokens.rollout == rollout.rollout])
        _draw_visits(axis, -line, visits[visits.response == rollout.rollout])
        _draw_outcome(axis, longest + 0.4, -line, rollout, rollouts, visits)
    last = rollouts[rollouts.accepted].rollout.max()
    answer = "".join(tokens[(tokens.rollout == last) & (tokens.token != "end")].token)
    axis.text(0, -lines + 0.25, f"decoded: {answer}   (answer {rollouts.answer.iloc[0]})", fontsize=11, weight="bold")
    axis.set_title(rollouts.question.iloc[0], fontsize=10, loc="left")
    axis.set_xlim(-0.2, longest + 9.2)
    axis.set_ylim(0.1 - lines, 0.75)
    axis.set_axis_off()
    figure.legend(handles=_legend_handles(), ncol=3, loc="lower center", fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.75 / figure.get_figheight(), 1, 1))
    return figure


def _draw_tokens(axis: Axes, y: float | int, rollout: Any, tokens: pd.DataFrame) -> None:
    """Draw the tokens of one rollout in cells, with their confidence in percent.

    Args:
        rollout: row of figure2_rollouts.csv, as `itertuples` gives it.
    """
    replaced = rollout.kept - 1  # position of a proposal's new token
    centred = {"ha": "center", "va": "center"}
    for token in tokens.itertuples():
        face, ink = "white", "black"
        if token.position < replaced:
            face, ink = "#EEEEEE", "#777777"
        elif token.position == replaced:
            face, ink = (GREEN if rollout.accepted else ORANGE), "white"
        axis.add_patch(Rectangle((token.position + 0.04, y), 0.92, 0.42, facecolor=face, edgecolor=GREY, linewidth=0.8))
        axis.text(
            token.position + 0.5,
            y + 0.2,
            token.token,
            fontsize=7 if token.token == "end" else 11,
            color=ink,
            family="monospace",
            weight="bold" if token.position == replaced else "normal",
            **centred,
        )
        ink = "black" if token.uncertain else "#AAAAAA"
        axis.text(token.position + 0.5, y - 0.09, f"{100 * token.confidence:.0f}", fontsize=6.5, color=ink, **centred)


def _draw_visits(axis: Axes, y: float | int, visits: pd.DataFrame) -> None:
    """Draw the positions at which DTO ran while this rollout was the current response, with the tokens drawn there."""
    for visit in visits.itertuples():
        face = BLUE if visit.evaluations > 0 else "white"
        axis.plot(visit.position + 0.3, y + 0.56, "v", color=BLUE, markerfacecolor=face, markersize=7)
        axis.text(visit.position + 0.52, y + 0.57, visit.new, fontsize=9, va="center", color=BLUE, family="monospace")


def _draw_outcome(
    axis: Axes, x: float, y: float | int, rollout: Any, rollouts: pd.DataFrame, visits: pd.DataFrame
) -> None:
    """Write the reward of a rollout, and whether it was accepted, beside its line."""
    if rollout.rollout == 0:
        text, colour = f"first rollout        r = {rollout.reward:.3g}", "black"
    else:
        visit = visits[visits.proposal == rollout.rollout].iloc[0]
        current = rollouts.reward[rollouts.rollout == visit.response].iloc[0]
        sign, outcome, colour = (">", "accepted", GREEN) if rollout.accepted else ("≤", "rejected", ORANGE)
        values = f"r = {rollout.reward:.3g} {sign} {current:.3g}"
        text = f"proposal {rollout.rollout}: {visit.old} → {visit.new}   {values}   {outcome}"
    axis.text(x, y + 0.2, text, fontsize=9, va="center", color=colour)


def _legend_handles() -> list[Artist]:
    marker = {"linestyle": "none", "marker": "v", "color": BLUE}
    with plt.rc_context({"text.parse_math": True}):
        number = MarkerStyle("$97$")
    confidence = {"linestyle": "none", "marker": number, "markersize": 11, "color": "black"}
    return [
        Line2D([], [], **marker, label="DTO here, ∂L/∂y computed; beside it the token drawn"),
        Line2D([], [], **marker, markerfacecolor="white", label="DTO here, ∂L/∂y reused; beside it the token drawn"),
        Line2D([], [], **confidence, label="confidence, % (grey: above the gate, skipped)"),
        Patch(facecolor="#EEEEEE", edgecolor=GREY, label="committed, or kept from the current response"),
        Patch(facecolor=GREEN, label="new token, accepted"),
        Patch(facecolor=ORANGE, label="new token, rejected"),
    ]


def figure_rows(cell: Cell) -> Rows:
    """Return the rows of Figure 2 by table: rollouts, their tokens, and the visited positions.

    Raises:
        ValueError: no problem shows every step of the loop.
    """
    policy, reward = build.load_models(cell)
    settings = build.build_method(cell).settings
    traces = trace.record(settings, build.build_problems(cell), policy, reward, seed=cell.seed)
    for number, candidate in enumerate(traces, start=1):
        if _shows_every_step(candidate, policy):
            return _rows_of(candidate, number, policy, settings.confidence_threshold)
    raise ValueError(
        f"none of {len(traces)} problems shows every step of the loop. Look at more with num_problems=NUMBER."
    )


def _shows_every_step(candidate: trace.Trace, policy: Policy) -> bool:
    """Return whether a wrong first rollout becomes a right answer, and every kind of visit and proposal occurs."""
    proposals, visits = candidate.responses[1:], candidate.visits
    accepted = sum(proposal.accepted for proposal in proposals)
    old_token = any(visit.proposal is None for visit in visits)
    reused_gradient = any(visit.reused and not visit.evaluations for visit in visits)
    responses = (candidate.responses[0].tokens, candidate.solution.token_ids)
    correct = [grading.grade(candidate.problem, policy.response_text(tokens), True).correct for tokens in responses]
    return 2 <= accepted < len(proposals) and old_token and reused_gradient and correct == [False, True]


def _rows_of(case: trace.Trace, number: int, policy: Policy, threshold: float) -> Rows:
    """Return the rows of one trace.

    Args:
        number: that of the problem, counted from 1.
        threshold: confidence above which a token is skipped.
    """

    def text(token: int) -> str:
        return "end" if token in policy.eos_ids else printable(policy.decode([token]))

    problem = {
        "problem": case.problem.id,
        "question": case.problem.question,
        "answer": case.problem.answer,
        "looked_at": number,
    }
    rollouts, tokens = [], []
    for index, response in enumerate(case.responses):
        outcome = {"kept": response.prefix_length, "reward": response.reward, "accepted": response.accepted}
        rollouts.append({**problem, "rollout": index, **outcome})
        for position, (token, confidence) in enumerate(zip(response.tokens, response.confidence, strict=True)):
            gate = {"confidence": confidence, "uncertain": confidence <= threshold}
            tokens.append({"rollout": index, "position": position, "token": text(token), **gate})
    visits = [
        {
            **{name: getattr(visit, name) for name in VISIT_COLUMNS},
            "old": text(visit.old),
            "new": text(visit.new),
        }
        for visit in case.visits
    ]
    return {"rollouts": rollouts, "tokens": tokens, "visits": visits}


def caption(rows: Rows, command: str, cell: Cell) -> str:
    """Return figure2.md."""
    case, visits, method = rows["rollouts"][0], rows["visits"], cell.method.keywords()
    changed = sum(visit["proposal"] is not None for visit in visits)
    reused = sum(visit["reused"] and not visit["evaluations"] for visit in visits)
    evaluations = sum(visit["evaluations"] for visit in visits)
    first = [token["uncertain"] for token in rows["tokens"] if token["rollout"] == 0]
    skipped = first.count(False)
    return f"""# figure2.png

Made by `{command}`; rows in `figures/data/figure2_*.csv`.

The framework on one problem: {case["question"]} ({cell.policy.name}, reward {cell.reward.name}, answer \
{case["answer"]}). Each line is a rollout, with its tokens in cells. In the first rollout {skipped} of {len(first)} \
tokens were above the confidence gate ({method["confidence_threshold"]}) and were skipped. The loop visited \
{len(visits)} positions: there DTO updated the token's logits ({method["num_iterations"]} steps), and a token was \
drawn from them. {len(visits) - changed} draws were the old token. The other {changed} gave proposals: a rollout \
followed the new token, and the proposal was accepted only if the reward rose (r in nats, the log-likelihood under \
the reward model). The visits took {evaluations} gradient evaluations in all. {reused} visit{"s" * (reused != 1)} \
needed none, because ∂L/∂y depends on the hard tokens and these had not changed.

The case is the first test problem (number {case["looked_at"]} of {cell.num_problems}, {cell.task.name}, seed \
{cell.seed}) that shows every step: the first rollout is wrong and the final answer right; at least two proposals \
were accepted and one rejected; one draw was the old token, and one gradient was reused. Most problems show fewer of \
these steps.
"""


def run(command: Command, cell: Cell) -> int:
    """Compute the rows, draw the figure and write its caption; return the exit status."""
    return write_case_figure(command, cell, figure_rows, caption, draw)
