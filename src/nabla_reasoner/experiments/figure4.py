"""Figure 4: accuracy against compute at every budget, from the trajectories in the records.

All curves of a policy and task are over the same problems and seeds. Best-of-N, Self-Consistency and the null arm are
read from their larger pools (`budget/`) if there are any.
"""

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation.outcomes import base_policies, mean_point, read_cells
from ..evaluation.records import Outcome, read_outcomes, read_records, stored_cells
from ..evaluation.statistics import accuracy_interval
from ..reporting import tables
from ..reporting.method_names import STYLES
from . import reward_ceiling
from .command import Command
from .from_results import write_result_figure

AXES = {
    "model_calls": "model calls per problem",
    "flops": "FLOPs per problem",
    "seconds": "seconds per problem",
}


def curves(rows: pd.DataFrame) -> Figure:
    """Accuracy with 95 % bands against three kinds of compute; one line of panels per policy and task.

    Args:
        rows: of `curves.COLUMNS`.

    Raises:
        ValueError: no rows.
    """
    if rows.empty:
        raise ValueError("a figure needs at least one curve; got none. Run ./reproduce.sh table1 first.")
    places = list(dict.fromkeys(zip(rows.policy, rows.task, strict=True)))
    shape = {"figsize": (12.5, 3.1 * len(places) + 0.9), "squeeze": False, "sharey": "row"}
    figure, panels = plt.subplots(len(places), len(AXES), **shape)
    for (policy, task), line in zip(places, panels, strict=True):
        own = rows[(rows.policy == policy) & (rows.task == task)]
        for (axis, label), panel in zip(AXES.items(), line, strict=True):
            _curves(panel, own, axis)
            panel.set_xlabel(label)
            panel.set_title(f"{policy}, {task}", fontsize=9)
        line[0].set_ylabel("accuracy, %")
    handles: dict[str, object] = {}
    for panel in panels.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), ncol=4, loc="lower center", fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.7 / figure.get_figheight(), 1, 1))
    return figure


def _curves(panel: Axes, own: pd.DataFrame, axis: str) -> None:
    for method, (label, colour, marker) in STYLES.items():
        points = own[own.method == method]
        if points.empty:
            continue
        if method == "greedy":
            panel.axhline(points.accuracy.iloc[0], color=colour, linestyle=":", linewidth=1)
        words = label.split(",")[0] if method == "self_consistency" else label.replace("Best-of-8", "Best-of-N")
        ends = points.rollouts.isin([1, 2, 4, 8, 16, 32]) | (points.rollouts == points.rollouts.max())
        panel.plot(
            points[axis],
            points.accuracy,
            color=colour,
            marker=marker,
            label=words,
            linewidth=1.2,
            markevery=ends.to_numpy().nonzero()[0].tolist(),
            markersize=9 if marker in "*P" else 5,
        )
        panel.fill_between(points[axis], points.ci_low, points.ci_high, color=colour, alpha=0.12, linewidth=0)
        if len(points) == 1:  # a band of one point would not be seen
            low, high = points.accuracy - points.ci_low, points.ci_high - points.accuracy
            panel.errorbar(points[axis], points.accuracy, yerr=[low, high], color=colour, linestyle="none", capsize=2)
    ceiling = own[own.method == "any_of_n"]
    panel.plot(ceiling[axis], ceiling.accuracy, color="black", linestyle="--", linewidth=1, label="ceiling: any of N")
    for height in own.accuracy[own.method == "best_reward"]:
        panel.axhline(height, color="black", linestyle="-.", linewidth=1, label="ceiling: highest reward found")
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    panel.xaxis.set_minor_formatter(ticker.NullFormatter())
    panel.tick_params(axis="x", labelsize=8)
    panel.grid(alpha=0.3)


METHODS = (
    "greedy",
    "self_consistency",
    "best_of_n",
    "nabla_without_gradient",
    "nabla_reasoner",
    "nabla_reasoner_multipass",
)
CEILING, BEST_REWARD = "any_of_n", "best_reward"
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32)
COLUMNS = (
    "policy",
    "task",
    "method",
    "rollouts",
    "model_calls",
    "flops",
    "seconds",
    "accuracy",
    "ci_low",
    "ci_high",
    "num_problems",
    "num_seeds",
    "source",
)
Row = dict[str, Any]


def curve(outcomes: Sequence[Outcome]) -> Iterator[Row]:
    """Accuracy and mean cost at the sizes the outcomes reach; failures are wrong, and left out of the mean cost."""
    most = max(outcome.steps[-1][0] for outcome in outcomes)
    for size in [size for size in SIZES if size < most] + [most]:
        points = [mean_point(outcome, size if size < most else math.inf) for outcome in outcomes]
        solved = [each for each in points if each is not None]
        if not solved:
            return
        calls, flops, seconds = (float(np.mean([each[i] for each in solved])) for i in range(3))
        correct = _array(outcomes, [each is not None and bool(each[3]) for each in points])
        interval = accuracy_interval(correct)
        yield {
            "rollouts": size,
            "model_calls": calls,
            "flops": flops,
            "seconds": seconds,
            "accuracy": interval.mean,
            "ci_low": interval.low,
            "ci_high": interval.high,
            "num_problems": len(correct),
            "num_seeds": len({outcome.key[1] for outcome in outcomes}),
        }


def _array(outcomes: Sequence[Outcome], correct: Sequence[bool]) -> np.ndarray:
    """[problem, repeat] of 0 and 1, NaN where a repeat was not run."""
    problems = {key: i for i, key in enumerate(sorted({outcome.key[0] for outcome in outcomes}))}
    repeats = {key: i for i, key in enumerate(sorted({outcome.key[1:] for outcome in outcomes}))}
    values = np.full((len(problems), len(repeats)), np.nan)
    for outcome, right in zip(outcomes, correct, strict=True):
        values[problems[outcome.key[0]], repeats[outcome.key[1:]]] = right
    return values


def any_of_n(paths: Sequence[Path]) -> list[Outcome]:
    """Outcomes of a chooser that knows the answers: right as soon as one sample is; at the cost of Best-of-N."""
    plain = {outcome.key: outcome for path in paths for outcome in read_outcomes(path)}
    outcomes = []
    for record in (record for path in paths for record in read_records(path)):
        outcome = plain[record["problem_id"], record["seed"], record["repeat"]]
        found, steps = False, []
        for sample, step in zip(record["search"].get("samples", []), outcome.steps, strict=False):
            found = found or bool(sample["correct"])
            steps.append((*step[:-1], found))
        outcomes.append(outcome._replace(steps=steps or outcome.steps, correct=found))
    return outcomes


def best_reward(found: Mapping[str, Row], paths: Sequence[Path], problems: Sequence[str]) -> tuple[np.ndarray, int]:
    """Whether the response of the highest reward that was found anywhere is correct, by problem; [problem, 1].

    Args:
        found: what a search of the reward itself found, by problem (`ceiling`).
        paths: records whose responses count too.

    Returns:
        0 and 1 by problem, and for how many of them a record holds a higher reward than the search.
    """
    best = {problem: (found[problem]["reward"], bool(found[problem]["correct"]), False) for problem in problems}
    for record in (record for path in paths for record in read_records(path)):
        value, problem = record.get("reward"), record["problem_id"]
        if problem in best and value is not None and value > best[problem][0] + 1e-3:  # records keep six digits
            best[problem] = value, bool(record["correct"]), True
    return np.array([[float(right)] for _, right, _ in best.values()]), sum(recorded for *_, recorded in best.values())


def curve_rows(folder: Path, ceilings: Mapping[str, Mapping[str, Row]]) -> list[Row]:
    """Rows of `COLUMNS` for every policy and task, the two ceilings among the methods as `any_of_n`, `best_reward`.

    Args:
        folder: results of a scale, with `table1/records` and possibly `table1/budget`.
        ceilings: by task and problem, what a search of the reward found (`ceiling.rows`); tasks may lack.

    Raises:
        ValueError: no records.
    """
    records, pools = (stored_cells(folder / "table1" / name) for name in ("records", "budget"))
    kept = base_policies(list(read_cells(folder / "table1" / "records")))
    rows = []
    for policy, task in dict.fromkeys(key[:2] for key in records if key[0] in kept):
        chosen: dict[str, tuple[list[Outcome], str]] = {}
        for method in METHODS:
            key = (policy, task, method)
            paths = pools.get(key) or records.get(key)
            if not paths:
                continue
            source = "budget" if key in pools else "records"
            if method == "best_of_n":
                chosen[CEILING] = any_of_n(paths), source
            chosen[method] = [outcome for path in paths for outcome in read_outcomes(path)], source
        shared = set.intersection(*({outcome.key for outcome in own} for own, _ in chosen.values())) if chosen else ()
        for method, (outcomes, source) in chosen.items() if shared else ():
            names = {"policy": policy, "task": task, "method": method, "source": source}
            own = [outcome for outcome in outcomes if outcome.key in shared]
            rows += [{**names, **row} for row in curve(own)]
        problems = sorted({key[0] for key in shared})
        if problems and all(problem in ceilings.get(task, {}) for problem in problems):
            files = [
                path
                for cells in (records, pools)
                for key, own in cells.items()
                if key[:2] == (policy, task)
                for path in own
            ]
            rows.append(_ceiling_row(policy, task, *best_reward(ceilings[task], files, problems)))
    if not rows:
        raise ValueError(
            f"{folder / 'table1' / 'records'} must hold methods with problems and seeds in common; got none. "
            "Run ./reproduce.sh table1 first."
        )
    return rows


def _ceiling_row(policy: str, task: str, correct: np.ndarray, recorded: int) -> Row:
    interval = accuracy_interval(correct)
    source = "beam search of the reward" + (f", {recorded} from records" if recorded else "")
    return {
        "policy": policy,
        "task": task,
        "method": BEST_REWARD,
        **dict.fromkeys(("rollouts", *COST_AXES)),
        "accuracy": interval.mean,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "num_problems": len(correct),
        "num_seeds": None,
        "source": source,
    }


COST_AXES = {"model_calls": "model calls", "flops": "FLOPs", "seconds": "seconds"}


def at_cost(rows: Sequence[Row], axis: str, target: float | int) -> Row:
    """The cheapest point of a curve that costs at least `target`; its dearest where none does."""
    ordered = sorted(rows, key=operator.itemgetter(axis))
    return next((row for row in ordered if row[axis] >= target), ordered[-1])


def caption(rows: Sequence[Row], command: str) -> str:
    """figure4.md: what is drawn, and where one pass of ∇-Reasoner ends beside Best-of-N at no less compute."""
    lines = [
        f"# figure4.png\n\nMade by `{command}` from the records of Table 1 and its larger pools (`budget/`); rows in "
        "`figures/data/figure4.csv`.\n",
        "Accuracy against mean compute per problem (model calls, FLOPs, seconds), with 95 % intervals over problems. "
        "Points of a curve are budgets: N samples, or up to N rollouts. All curves of a row share problems and seeds. "
        "Dashed: at least one correct among Best-of-N's samples. Dotted: the floor, greedy decoding. "
        "The paper draws model calls only and claims to lie above Best-of-N and Self-Consistency at every budget; its "
        "points are unknown.\n",
        "Where ∇-Reasoner's full single pass ends, less Best-of-N's accuracy at the smallest N that costs no less "
        "(points; paired tests are in comparisons.csv):\n",
    ]
    places = dict.fromkeys((row["policy"], row["task"]) for row in rows)
    lines += [_beside(rows, *place) for place in places]
    lines.append("\n" + _ceilings(rows))
    return "\n".join(lines) + "\n"


def _ceilings(rows: Sequence[Row]) -> str:
    """What the line of the best reward is, or that it was not made."""
    own = [row for row in rows if row["method"] == BEST_REWARD]
    if not own:
        return (
            "The best possible under the reward model was not searched for here: no likelihood reward, or no judge "
            "small enough, made these records."
        )
    shown = "; ".join(f"{row['policy']}, {row['task']}: {row['accuracy']:.1f} ({row['source']})" for row in own)
    return (
        "Dash-dotted: the best possible under the reward model, the accuracy of the response of highest reward that "
        "was found, by beam search with the judge itself, or in any record of Table 1 where that is higher. The "
        "highest reward there is may be higher still; what was found bounds it from below. A method that maximised "
        f"the reward without fail would end here. {shown}."
    )


def _beside(rows: Sequence[Row], policy: str, task: str) -> str:
    own = [row for row in rows if (row["policy"], row["task"]) == (policy, task)]
    ours, other = ([row for row in own if row["method"] == name] for name in ("nabla_reasoner", "best_of_n"))
    if not (ours and other):
        return f"- {policy}, {task}: not run"
    end, found = ours[-1], []
    for axis, words in COST_AXES.items():
        match = at_cost(other, axis, end[axis])
        less = "" if match[axis] >= end[axis] else f", {match[axis] / end[axis]:.2g} of the cost"
        found.append(f"{end['accuracy'] - match['accuracy']:+.1f} at equal {words} (N = {match['rollouts']}{less})")
    return f"- {policy}, {task}: {', '.join(found)}"


def figure4(results: Path, scale: str, command: str) -> tuple[Figure, str, str]:
    """Accuracy against compute: figure, caption, rows."""
    rows = curve_rows(results, reward_ceiling.rows(results, scale))
    figure = curves(pd.DataFrame(rows))
    return figure, caption(rows, command), tables.csv_text(COLUMNS, rows)


def run(command: Command, settings: Mapping[str, str]) -> int:
    """Draw the figure; returns the exit status."""
    return write_result_figure(command, settings, figure4)
