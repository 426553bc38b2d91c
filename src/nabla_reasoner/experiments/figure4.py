"""Figure 4: accuracy against compute at every budget, from the trajectories in the records.

All curves of a policy and task are over the same problems and seeds. Best-of-N, Self-Consistency and the null arm are
read from their larger pools (`budget/`) if there are any.
"""

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation.outcomes import (
    Experiment,
    Outcome,
    Outcomes,
    Row,
    correct_array,
    read_table1,
    start_policies,
    stopped_at,
)
from ..evaluation.records import CellKey
from ..evaluation.statistics import accuracy_interval
from ..reporting import tables
from ..reporting.figures import legend_below, log_ticks, paragraphs
from ..reporting.method_names import ANYTIME, BEST_OF_N, OURS, STYLES
from . import reward_ceiling
from .command import Command
from .from_results import write_result_figure

COST_AXES = {"model_calls": "model calls", "flops": "FLOPs", "seconds": "seconds"}


def curves(rows: pd.DataFrame) -> Figure:
    """Draw accuracy with 95 % bands against three measures of compute; one row of panels per policy and task.

    Args:
        rows: columns `COLUMNS`.

    Raises:
        ValueError: there are no rows.
    """
    if rows.empty:
        raise ValueError("a figure needs at least one curve; got none. Run ./reproduce.sh table1 first.")
    cells = list(dict.fromkeys(zip(rows.policy, rows.task, strict=True)))
    shape = {"figsize": (12.5, 3.1 * len(cells) + 0.9), "squeeze": False, "sharey": "row"}
    figure, panels = plt.subplots(len(cells), len(COST_AXES), **shape)
    for (policy, task), panel_row in zip(cells, panels, strict=True):
        cell_rows = rows[(rows.policy == policy) & (rows.task == task)]
        for (axis, name), panel in zip(COST_AXES.items(), panel_row, strict=True):
            _curves(panel, cell_rows, axis)
            panel.set_xlabel(f"{name} per problem")
            panel.set_title(f"{policy}, {task}", fontsize=9, parse_math=False)
        panel_row[0].set_ylabel("accuracy, %")
    legend_below(figure, ncol=4, inches=0.7)
    return figure


def _curves(panel: Axes, rows: pd.DataFrame, axis: str) -> None:
    for method, style in STYLES.items():
        points, colour = rows[rows.method == method], style.colour
        if points.empty:
            continue
        if method == "greedy":
            panel.axhline(points.accuracy.iloc[0], color=colour, linestyle=":", linewidth=1)
        ends = points.rollouts.isin([1, 2, 4, 8, 16, 32]) | (points.rollouts == points.rollouts.max())
        panel.plot(
            points[axis],
            points.accuracy,
            color=colour,
            marker=style.marker,
            label=style.name if method in ("self_consistency", BEST_OF_N) else style.label,
            linewidth=1.2,
            markevery=ends.to_numpy().nonzero()[0].tolist(),
            markersize=9 if style.marker in "*P" else 5,
        )
        panel.fill_between(points[axis], points.ci_low, points.ci_high, color=colour, alpha=0.12, linewidth=0)
        if len(points) == 1:  # a band of one point would be invisible
            low, high = points.accuracy - points.ci_low, points.ci_high - points.accuracy
            panel.errorbar(points[axis], points.accuracy, yerr=[low, high], color=colour, linestyle="none", capsize=2)
    ceiling = rows[rows.method == CEILING]
    panel.plot(ceiling[axis], ceiling.accuracy, color="black", linestyle="--", linewidth=1, label="ceiling: any of N")
    for height in rows.accuracy[rows.method == BEST_REWARD]:
        panel.axhline(height, color="black", linestyle="-.", linewidth=1, label="ceiling: highest reward found")
    panel.set_xscale("log")
    log_ticks(panel.xaxis, labelsize=8)
    panel.grid(alpha=0.3)


CEILING, BEST_REWARD = "any_of_n", "best_reward"
ROUNDING = 1e-3  # of rewards: records keep six digits
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32)
COLUMNS = (
    "policy task method rollouts model_calls flops seconds accuracy ci_low ci_high num_problems num_seeds source"
).split()


def curve(outcomes: Sequence[Outcome]) -> Iterator[Row]:
    """Yield accuracy and mean cost at the sizes that the outcomes reach.

    A failed outcome counts as wrong and is left out of the mean cost.
    """
    keys = [outcome.key for outcome in outcomes]
    most = max(outcome.steps[-1].rollouts for outcome in outcomes)
    for size in [size for size in SIZES if size < most] + [most]:
        steps = [stopped_at(outcome, size if size < most else math.inf) for outcome in outcomes]
        solved = [step for step in steps if step is not None]
        if not solved:
            return
        correct = correct_array(keys, (step is not None and bool(step.correct) for step in steps))
        yield {
            "rollouts": size,
            **{axis: float(np.mean([getattr(step, axis) for step in solved])) for axis in COST_AXES},
            **accuracy_interval(correct).columns(),
            "num_problems": len(correct),
            "num_seeds": len({key.seed for key in keys}),
        }


def any_of_n(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return Best-of-N's outcomes with the best possible selection: correct once any sample is, at the same cost."""
    results = []
    for outcome in outcomes:
        correct, steps = False, []
        for sample, step in zip(outcome.samples, outcome.steps, strict=False):
            correct = correct or sample.correct
            steps.append(step._replace(correct=correct))
        results.append(outcome._replace(steps=steps or outcome.steps, correct=correct))
    return results


def best_reward(
    searched: Mapping[str, Row], outcomes: Sequence[Outcome], problems: Sequence[str]
) -> tuple[Float[np.ndarray, "problem 1"], int]:
    """Return, by problem, whether the response of the highest known reward is correct.

    Args:
        searched: result of a search for the highest reward, by problem (`reward_ceiling`).
        outcomes: their responses count too.

    Returns:
        0 and 1 by problem; the number of problems for which an outcome has a higher reward than the search.
    """
    rewards = {problem: searched[problem]["reward"] for problem in problems}
    correct = {problem: bool(searched[problem]["correct"]) for problem in problems}
    exceeded = set()
    for outcome in outcomes:
        problem = outcome.key.problem
        if problem in rewards and outcome.reward is not None and outcome.reward > rewards[problem] + ROUNDING:
            rewards[problem], correct[problem] = outcome.reward, outcome.correct
            exceeded.add(problem)
    return np.array([[float(correct[problem])] for problem in problems]), len(exceeded)


def curve_rows(experiment: Experiment, ceilings: Mapping[str, Mapping[str, Row]]) -> list[Row]:
    """Return rows of `COLUMNS` for every policy and task, the two ceilings as methods `any_of_n` and `best_reward`.

    Args:
        experiment: Table 1's, with its larger pools.
        ceilings: results of that search by task and problem (`reward_ceiling.rows`); tasks may be missing.

    Raises:
        ValueError: no records in common.
    """
    records, pools = experiment.records, experiment.pools
    policies = start_policies(key.policy for key in records)
    rows = []
    for policy, task in dict.fromkeys(key[:2] for key in records if key.policy in policies):
        rows += _cell_rows(records, pools, policy, task, ceilings.get(task, {}))
    if not rows:
        raise ValueError(
            "the records of table1 must hold methods with problems and seeds in common; got none. "
            "Run ./reproduce.sh table1 first."
        )
    return rows


def _cell_rows(records: Outcomes, pools: Outcomes, policy: str, task: str, searched: Mapping[str, Row]) -> list[Row]:
    """Return the rows of one policy and task, over the problems and seeds that all its methods have."""
    selected: dict[str, tuple[list[Outcome], str]] = {}
    for method in ANYTIME:
        key = CellKey(policy, task, method)
        outcomes, source = (pools[key], "budget") if key in pools else (records.get(key, []), "records")
        if outcomes and method == BEST_OF_N:
            selected[CEILING] = any_of_n(outcomes), source
        if outcomes:
            selected[method] = outcomes, source
    if not selected:
        return []
    shared = set.intersection(*({outcome.key for outcome in outcomes} for outcomes, _ in selected.values()))
    rows = []
    for method, (outcomes, source) in selected.items() if shared else ():
        names = {"policy": policy, "task": task, "method": method, "source": source}
        rows += [{**names, **row} for row in curve([outcome for outcome in outcomes if outcome.key in shared])]
    problems = sorted({key.problem for key in shared})
    if problems and all(problem in searched for problem in problems):
        cells = [cells for loaded in (records, pools) for key, cells in loaded.items() if key[:2] == (policy, task)]
        correct, exceeded = best_reward(searched, [outcome for cell in cells for outcome in cell], problems)
        rows.append(_ceiling_row(policy, task, correct, exceeded))
    return rows


def _ceiling_row(policy: str, task: str, correct: Float[np.ndarray, "problem 1"], exceeded: int) -> Row:
    source = "beam search of the reward" + (f", {exceeded} from records" if exceeded else "")
    return {
        "policy": policy,
        "task": task,
        "method": BEST_REWARD,
        **dict.fromkeys(("rollouts", *COST_AXES)),
        **accuracy_interval(correct).columns(),
        "num_problems": len(correct),
        "num_seeds": None,
        "source": source,
    }


def at_cost(rows: Sequence[Row], axis: str, target: float | int) -> Row:
    """Return the cheapest point of a curve that costs at least `target`, or its most expensive one."""
    ordered = sorted(rows, key=operator.itemgetter(axis))
    return next((row for row in ordered if row[axis] >= target), ordered[-1])


def caption(rows: Sequence[Row], command: str) -> str:
    """Return the text of figure4.md: a description, and the end of one pass beside Best-of-N at no less compute."""
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
    cells = dict.fromkeys((row["policy"], row["task"]) for row in rows)
    lines += [_beside(rows, policy, task) for policy, task in cells]
    lines.append("\n" + _ceilings(rows))
    return "\n".join(lines) + "\n"


def _ceilings(rows: Sequence[Row]) -> str:
    """Return the sentences on the line of the best reward, or on the reason why it is absent."""
    ceilings = [row for row in rows if row["method"] == BEST_REWARD]
    if not ceilings:
        return (
            "The best possible under the reward model was not searched for here: these records were not made with a "
            "likelihood reward, or its model is too large to be searched."
        )
    values = "; ".join(f"{row['policy']}, {row['task']}: {row['accuracy']:.1f} ({row['source']})" for row in ceilings)
    return (
        "Dash-dotted: the best possible under the reward model. It is the accuracy of the response of highest reward "
        "that was found by beam search with the reward model itself, or in a record of Table 1 if that is higher. The "
        "highest possible reward may be higher still. A method that always maximised the reward would end here. "
        f"{values}."
    )


def _beside(rows: Sequence[Row], policy: str, task: str) -> str:
    cells = [(row["policy"], row["task"], row["method"]) for row in rows]
    ours, baseline = (
        [row for row, cell in zip(rows, cells, strict=True) if cell == (policy, task, method)]
        for method in (OURS, BEST_OF_N)
    )
    if not (ours and baseline):
        return f"- {policy}, {task}: not run"
    end, parts = ours[-1], []
    for axis, name in COST_AXES.items():
        match = at_cost(baseline, axis, end[axis])
        shortfall = "" if match[axis] >= end[axis] else f", {match[axis] / end[axis]:.2g} of the cost"
        parts.append(f"{end['accuracy'] - match['accuracy']:+.1f} at equal {name} (N = {match['rollouts']}{shortfall})")
    return f"- {policy}, {task}: {', '.join(parts)}"


def figure4(results: Path, scale: str, command: str) -> tuple[Figure, str, str]:
    """Return figure, caption and rows (CSV text)."""
    experiment = read_table1(results)
    rows = curve_rows(experiment, reward_ceiling.rows(results, scale))
    figure = curves(pd.DataFrame(rows))
    return figure, caption(rows, command) + paragraphs(experiment.notes()), tables.csv_text(COLUMNS, rows)


def run(command: Command, settings: Mapping[str, str]) -> int:
    """Draw the figure; return the exit status."""
    return write_result_figure(command, settings, figure4)
