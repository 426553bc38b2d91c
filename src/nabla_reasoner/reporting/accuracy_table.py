"""Tables: accuracy and cost of every cell beside the paper's numbers, and paired comparisons at matched cost.

Everything is computed from the records; a cell without records says "not run". A row of the grid is a dict with
`policy`, `task`, `method`, `seeds` (list), `paper_cell` ({policy, benchmark} of the paper's cell that stands beside
ours, either may be None; `method` where the paper calls it otherwise) and, if it has no records for a reason, `absent`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..evaluation.outcomes import Row, row_outcomes
from ..evaluation.records import Outcome
from ..evaluation.statistics import accuracy_interval
from .paper_numbers import paper_value

COSTS = ("model_calls", "decode_tokens", "flops", "seconds")
COLUMNS = (
    "policy",
    "task",
    "method",
    "accuracy",
    "ci_low",
    "ci_high",
    "num_problems",
    "num_seeds",
    "num_failed",
    *COSTS,
    "paper_value",
    "paper_source",
    "status",
)


def table_rows(records: Path, grid: Sequence[Row], paper: Sequence[Row]) -> list[Row]:
    """One row of `COLUMNS` per row of the grid; what is not known is None.

    Failed problems count as wrong. Costs are means per problem and repeat, over those that did not fail.

    Args:
        records: folder of the record files.
        grid: see the module's docstring.
        paper: the paper's cells, as from `paper_cells`.
    """
    loaded = [row_outcomes(records, row) for row in grid]
    expected: dict[str, int] = {}  # records per seed: as many as the most complete file of the task has
    for row, outcomes in zip(grid, loaded, strict=True):
        for seed in row["seeds"]:
            count = sum(outcome.key[1] == seed for outcome in outcomes)
            expected[row["task"]] = max(expected.get(row["task"], 0), count)
    return [
        _table_row(row, outcomes, expected.get(row["task"], 0) * len(row["seeds"]), paper)
        for row, outcomes in zip(grid, loaded, strict=True)
    ]


def _table_row(row: Row, outcomes: list[Outcome], expected: int, paper: Sequence[Row]) -> Row:
    result: Row = dict.fromkeys(COLUMNS) | {key: row[key] for key in ("policy", "task", "method")}
    result["paper_value"], result["paper_source"] = paper_value(row, paper)
    result["status"] = row.get("absent", "not run")
    if not outcomes:
        return result
    problems = sorted({outcome.key[0] for outcome in outcomes})
    repeats = sorted({outcome.key[1:] for outcome in outcomes})
    correct = np.full((len(problems), len(repeats)), np.nan)
    where = {name: index for index, name in enumerate(problems)}, {pair: index for index, pair in enumerate(repeats)}
    for outcome in outcomes:
        correct[where[0][outcome.key[0]], where[1][outcome.key[1:]]] = outcome.correct
    interval = accuracy_interval(correct)
    solved = [outcome for outcome in outcomes if outcome.ok]
    result |= {
        "accuracy": interval.mean,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "num_problems": len(problems),
        "num_seeds": len({seed for seed, _ in repeats}),
        "num_failed": len(outcomes) - len(solved),
        "status": "ok" if len(outcomes) >= expected else f"partial: {len(outcomes)} of {expected}",
    }
    if solved:
        result |= {name: float(np.mean([outcome.cost[name] for outcome in solved])) for name in COSTS}
    return result


HEADER = (
    "policy",
    "task",
    "method",
    "accuracy, %",
    "95 % interval",
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
    "calls, decoded tokens, FLOPs and seconds: means per problem. Paper: reported in arXiv 2603.04948, never ours; "
    "? unknown, - not in the paper."
)


def format_row(row: Row, sources: list[str]) -> list[str]:
    """A table row as text."""
    paper = "-" if row["paper_source"] == "not in the paper" else "?"
    if row["paper_value"] is not None:
        paper = f"{row['paper_value']:.1f} [{sources.index(row['paper_source']) + 1}]"
    names = [row["policy"], row["task"], row["method"]]
    if row["accuracy"] is None:
        return [*names, "", "", paper, *[""] * 6, row["status"]]
    costs = ["" if row[name] is None else f"{row[name]:.3g}" for name in COSTS]
    interval = f"{row['ci_low']:.1f} to {row['ci_high']:.1f}"
    counts = [str(row["num_failed"]), f"{row['num_problems']} x {row['num_seeds']}"]
    return [*names, f"{row['accuracy']:.1f}", interval, paper, *costs, *counts, row["status"]]
