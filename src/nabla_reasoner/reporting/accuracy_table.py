"""Accuracy and cost of every cell, beside the paper's numbers.

Rows are computed from outcomes; a cell without outcomes is "not run". A row of the grid is a dict with `policy`,
`task`, `method`, `seeds` (list), and `paper_cell`: {policy, benchmark} of the paper's cell beside ours, either may be
None, and `method` if the paper's name differs. `absent` says why there are no records, if there is a reason; `expected`
is the number of records of a complete run, if the settings say it; `training_flops` is what the policy's training cost.
"""

import math
from collections.abc import Sequence

import numpy as np

from ..evaluation.lineage import lineage
from ..evaluation.outcomes import Outcome, Outcomes, Row, completeness, correct_array, row_outcomes
from ..evaluation.statistics import accuracy_interval
from .method_names import NABLA_REASONER, PREFIX, SELECTORS, TRAINED
from .paper_numbers import paper_value

COSTS = ("model_calls", "decode_tokens", "flops", "seconds")
COLUMNS = (
    "policy task method accuracy ci_low ci_high num_problems num_seeds num_failed model_calls decode_tokens flops "
    "seconds paper_value paper_source status valid_steps training_flops break_even_outcome break_even_prefix "
    "any_of_n regret"
).split()
BREAK_EVEN = {
    "break_even_outcome": NABLA_REASONER,
    "break_even_prefix": PREFIX,
}  # column, and the method it compares with


def table_rows(outcomes: Outcomes, grid: Sequence[Row], paper: Sequence[Row]) -> list[Row]:
    """Return one row of `COLUMNS` per row of the grid; unknown values are None.

    `any_of_n` is the accuracy of the best possible selection from a selector's samples (pass@N), and `regret` what the
    selection loses to it. Failed problems count as wrong. Costs are means per problem and repeat, over those that did
    not fail.

    Args:
        outcomes: of the experiment's records.
        grid: see the module's docstring.
        paper: the paper's cells, as from `paper_cells`.
    """
    loaded = [row_outcomes(outcomes, row) for row in grid]
    longest: dict[str, int] = {}  # records per seed, where the settings do not say how many there should be
    for row, attempts in zip(grid, loaded, strict=True):
        for seed in row["seeds"]:
            count = sum(outcome.key.seed == seed for outcome in attempts)
            longest[row["task"]] = max(longest.get(row["task"], 0), count)
    rows = []
    for row, attempts in zip(grid, loaded, strict=True):
        expected = row.get("expected")
        if expected is None:
            expected = longest.get(row["task"], 0) * len(row["seeds"])
        rows.append(_table_row(row, attempts, expected, paper))
    for row in rows:
        row |= _break_even(row, rows)
    return rows


def _break_even(row: Row, rows: Sequence[Row]) -> Row:
    """Return from how many questions on a trained policy costs less than each form of ∇-Reasoner, training included.

    The number is None if it is not known, or if its answers cost more than ∇-Reasoner's.
    """
    if row["training_flops"] is None or row["flops"] is None:
        return {}
    origin = lineage(row["policy"])
    start = row["policy"] if row["method"] in TRAINED else origin and origin.base
    answers = {}
    for column, method in BREAK_EVEN.items():
        cell = {"policy": start, "task": row["task"], "method": method}
        costs = [other["flops"] for other in rows if other["flops"] and cell.items() <= other.items()]
        if costs and costs[0] > row["flops"]:
            answers[column] = math.ceil(row["training_flops"] / (costs[0] - row["flops"]))
    return answers


def _table_row(row: Row, outcomes: list[Outcome], expected: int, paper: Sequence[Row]) -> Row:
    result: Row = dict.fromkeys(COLUMNS) | {key: row[key] for key in ("policy", "task", "method")}
    result["paper_value"], result["paper_source"] = paper_value(row, paper)
    result["training_flops"] = row.get("training_flops")
    result["status"] = row.get("absent", "not run")
    if not outcomes:
        return result
    keys = [outcome.key for outcome in outcomes]
    correct = correct_array(keys, (outcome.correct for outcome in outcomes))
    solved = [outcome for outcome in outcomes if outcome.ok]
    result |= {
        **accuracy_interval(correct).columns(),
        "num_problems": len(correct),
        "num_seeds": len({key.seed for key in keys}),
        "num_failed": len(outcomes) - len(solved),
        "status": completeness([outcome.key.seed for outcome in outcomes], expected),
    }
    right = [outcome.true_steps for outcome in outcomes if outcome.correct]
    if right and None not in right:
        result["valid_steps"] = 100 * float(np.mean(right))
    if solved and row["method"] in SELECTORS and all(outcome.samples for outcome in solved):
        any_correct = correct_array(keys, (any(sample.correct for sample in outcome.samples) for outcome in outcomes))
        result["any_of_n"] = accuracy_interval(any_correct).mean
        result["regret"] = result["any_of_n"] - result["accuracy"]
    if solved:
        result |= {name: float(np.mean([outcome.cost[name] for outcome in solved])) for name in COSTS}
    return result


HEADER = (
    "policy",
    "task",
    "method",
    "accuracy, %",
    "95 % interval",
    "true steps, %",
    "paper, %",
    "model calls",
    "decoded",
    "FLOPs",
    "seconds",
    "failed",
    "problems x seeds",
    "status",
)
NOTE = (
    "Accuracy: failed problems count as wrong; interval over problems (bootstrap, repeats and seeds clustered). Model "
    "calls, decoded tokens, FLOPs and seconds: means per problem. True steps: share of the right answers all of whose "
    "written steps are true by arithmetic. Paper: reported in arXiv 2603.04948, never ours; "
    "? unknown, - not in the paper."
)


def training_notes(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each trained policy: what its training cost, and from where on it is the cheaper way."""
    notes = []
    for row in rows:
        if row["training_flops"] is not None and row["method"] in TRAINED and row["break_even_prefix"] is not None:
            outcome = row["break_even_outcome"]
            paid = "" if outcome is None else f" ({outcome:,} for the outcome form)"
            notes.append(
                f"{row['method'].upper()} of {row['policy']}: {row['training_flops']:.2g} FLOPs to the weights kept. "
                f"With these it costs less than ∇-Reasoner in prefix form from {row['break_even_prefix']:,} questions "
                f"of {row['task']} on{paid}."
            )
    return notes


def format_row(row: Row, sources: list[str]) -> list[str]:
    """Format a row under `HEADER`; the paper's value refers to its source by number."""
    paper = "-" if row["paper_source"] == "not in the paper" else "?"
    if row["paper_value"] is not None:
        paper = f"{row['paper_value']:.1f} [{sources.index(row['paper_source']) + 1}]"
    names = [row["policy"], row["task"], row["method"]]
    if row["accuracy"] is None:
        return [*names, "", "", "", paper, *[""] * 6, row["status"]]
    costs = ["" if row[name] is None else f"{row[name]:.3g}" for name in COSTS]
    interval = f"{row['ci_low']:.1f} to {row['ci_high']:.1f}"
    counts = [f"{row['num_failed']:.0f}", f"{row['num_problems']:.0f} x {row['num_seeds']:.0f}"]
    steps = "" if row["valid_steps"] is None else f"{row['valid_steps']:.1f}"
    return [*names, f"{row['accuracy']:.1f}", interval, steps, paper, *costs, *counts, row["status"]]
