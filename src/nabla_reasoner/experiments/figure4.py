"""Figure 4: accuracy against compute at every budget, from the trajectories in the records.

All curves of a policy and task are over the same problems and seeds. Best-of-N, Self-Consistency and the null arm are
read from their larger pools (`budget/`) if there are any.
"""

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from ..config.settings import ResultsSettings
from ..config.targets import how_to_make
from ..evaluation.lineage import start_policies
from ..evaluation.outcomes import (
    Experiment,
    Outcome,
    Outcomes,
    Row,
    correct_array,
    stopped_at,
)
from ..evaluation.records import CellKey
from ..evaluation.statistics import accuracy_interval
from ..reporting import tables
from ..reporting.budget_curves import BEST_REWARD, CEILING, COST_AXES, FILES, curves
from ..reporting.figures import Drawing, paragraphs
from ..reporting.method_names import ANYTIME, BEST_OF_N, MULTIPASS, NABLA_REASONER, STYLES
from . import reward_ceiling
from .command import Command
from .from_results import read_table1, write_result_figure

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
        ceilings: results of that search by task and problem (`reward_ceiling.search`); tasks may be missing.

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
            f"{how_to_make('table1', experiment.folder.parent)}"
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


def caption(rows: Sequence[Row], command: str, reasons: Mapping[str, str]) -> str:
    """Return the text of figure4.md: a description, and the end of one pass beside Best-of-N at no less compute.

    Args:
        rows: result of `curve_rows`.
        command: that made the figure.
        reasons: why the response of highest reward was not searched for, by task.
    """
    lines = [
        f"# figure4.png, figure4_flops.png, figure4_seconds.png\n\nMade by `{command}` from the records of Table 1 and "
        "its larger pools (`budget/`); rows in `figures/data/figure4.csv`.\n",
        "Accuracy against mean compute per problem: model calls (the paper's axis), FLOPs, seconds. Points of a curve "
        "are budgets: N samples, or up to N rollouts. All curves of a panel share problems and seeds. Bands and bars: "
        "95 % intervals over problems, bands for the three compared methods, bars at the end of the others. The paper "
        "claims to lie above Best-of-N and Self-Consistency at every budget; its points are unknown.\n",
        CEILINGS,
        _ends(rows),
        "Where ∇-Reasoner's full single pass ends, less Best-of-N's accuracy at the smallest N that costs no less "
        "(points; paired tests are in comparisons.csv):\n",
    ]
    cells = dict.fromkeys((row["policy"], row["task"]) for row in rows)
    lines += [_beside(rows, policy, task) for policy, task in cells]
    lines.append("\n" + " ".join(filter(None, [_best_rewards(rows), _unsearched(rows, reasons)])))
    return "\n".join(lines) + "\n"


CEILINGS = """Where the curves end, and why:

- **Greedy** has one budget; the dotted line extends it.
- **Self-Consistency** tends to the answer that the policy gives most often. Where that is wrong, more samples do not
  help.
- **Best-of-N** cannot be right where none of the N samples is. The dashed black line is this ceiling, any of N
  (pass@N). Points below it are lost by the reward model's choice.
- **∇-Reasoner in outcome form, and the null arm**, keep a response only if its reward is higher. They end after one
  pass over the uncertain positions (the dashed curve: several passes), or at N_max rollouts. Their ceiling is the
  response of highest reward.
- **∇-Reasoner in prefix form** is not bound by any of N: it changes single tokens as the reward model scores them. It
  can be as good as the reward model's own answers; Table 2 has those of likelihood rewards (`judge_greedy`).
"""


def _ends(rows: Sequence[Row]) -> str:
    """Return a Markdown table of the accuracy at the end of every curve, with its number of samples or rollouts."""
    ends = {(row["policy"], row["task"], row["method"]): row for row in rows if row["method"] != BEST_REWARD}
    names = {method: style.name for method, style in STYLES.items() if any(key[2] == method for key in ends)}
    names |= {MULTIPASS: f"{names[MULTIPASS]}, several passes"} if MULTIPASS in names else {}
    names |= {CEILING: "any of N"} if BEST_OF_N in names else {}
    lines = [f"| accuracy at the end, % (N) | {' | '.join(names.values())} |", "|---|" + "---|" * len(names)]
    for policy, task in dict.fromkeys(key[:2] for key in ends):
        cells = [ends.get((policy, task, method)) for method in names]
        texts = ["not run" if row is None else f"{row['accuracy']:.1f} ({row['rollouts']})" for row in cells]
        lines.append(f"| {policy}, {task} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def _best_rewards(rows: Sequence[Row]) -> str:
    """Return the sentences on the line of the best reward; nothing if there is none."""
    ceilings = [row for row in rows if row["method"] == BEST_REWARD]
    if not ceilings:
        return ""
    values = "; ".join(f"{row['policy']}, {row['task']}: {row['accuracy']:.1f} ({row['source']})" for row in ceilings)
    return (
        "Dash-dotted: the best possible under the reward model. It is the accuracy of the response of highest reward "
        "that was found by beam search with the reward model itself, or in a record of Table 1 if that is higher. The "
        f"highest possible reward may be higher still. {values}."
    )


def _unsearched(rows: Sequence[Row], reasons: Mapping[str, str]) -> str:
    """Return a sentence on where and why the line of the best reward is absent; nothing if it is everywhere."""
    searched = {(row["policy"], row["task"]) for row in rows if row["method"] == BEST_REWARD}
    cells: dict[str, list[str]] = {}
    for policy, task in dict.fromkeys((row["policy"], row["task"]) for row in rows):
        if (policy, task) not in searched:
            cells.setdefault(reasons.get(task, "some of the problems were not searched"), []).append(
                f"{policy}, {task}"
            )
    if not cells:
        return ""
    if len(cells) == 1 and not searched:
        return f"The response of highest reward was not searched for here: {next(iter(cells))}."
    parts = [f"{reason} ({'; '.join(names)})" for reason, names in cells.items()]
    return f"The response of highest reward was not searched for everywhere: {'; '.join(parts)}."


def _beside(rows: Sequence[Row], policy: str, task: str) -> str:
    cells = [(row["policy"], row["task"], row["method"]) for row in rows]
    ours, baseline = (
        [row for row, cell in zip(rows, cells, strict=True) if cell == (policy, task, method)]
        for method in (NABLA_REASONER, BEST_OF_N)
    )
    if not (ours and baseline):
        return f"- {policy}, {task}: not run"
    end, parts = ours[-1], []
    for axis, name in COST_AXES.items():
        match = at_cost(baseline, axis, end[axis])
        shortfall = "" if match[axis] >= end[axis] else f", {match[axis] / end[axis]:.2g} of the cost"
        parts.append(f"{end['accuracy'] - match['accuracy']:+.1f} at equal {name} (N = {match['rollouts']}{shortfall})")
    return f"- {policy}, {task}: {', '.join(parts)}"


def figure4(results: Path, scale: str, command: str) -> Drawing:
    """Return a figure for each measure of compute, their caption and rows."""
    experiment = read_table1(results)
    ceilings = reward_ceiling.search(results, scale)
    rows = curve_rows(experiment, ceilings.rows)
    figures = {name.removeprefix("figure4"): curves(pd.DataFrame(rows), axis) for name, axis in FILES.items()}
    text = caption(rows, command, ceilings.reasons) + paragraphs(experiment.notes())
    return Drawing(figures, text, tables.csv_text(COLUMNS, rows))


def run(command: Command, settings: ResultsSettings) -> int:
    """Draw the figures; return the exit status."""
    return write_result_figure(command, settings, figure4)
