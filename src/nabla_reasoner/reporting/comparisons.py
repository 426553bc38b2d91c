"""Paired differences between ∇-Reasoner and every other method, at equal rollouts and at equal cost."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..evaluation.outcomes import Row, row_outcomes
from ..evaluation.records import Outcome
from ..evaluation.statistics import cut_at_cost, paired_difference

NABLA = ("nabla_reasoner", "nabla_reasoner_multipass")
MATCHED_ON = ("rollouts", "model_calls", "flops", "seconds")  # in the order of `Outcome.steps`
COMPARISON_COLUMNS = (
    "policy",
    "task",
    "method",
    "baseline",
    "matched_on",
    "difference",
    "ci_low",
    "ci_high",
    "p_value",
    "num_problems",
    "verdict",
    "note",
)


def comparison_rows(records: Path, budget: Path, grid: Sequence[Row]) -> list[Row]:
    """Each ∇-Reasoner row against every other method of its policy and task, paired by problem, seed and repeat.

    Matched on rollouts: the records as they are. Matched on a cost: the baseline is cut at the smallest number of
    rollouts whose mean cost is at least ∇-Reasoner's, so that it never gets less. It is read from its larger pool in
    `budget` where there is one, otherwise from its records. The `note` says at what size it was cut, or that even its
    largest costs less.

    Args:
        records: folder of the record files.
        budget: folder of the larger pools, same format.
        grid: see the module's docstring.
    """
    rows = []
    for row in grid:
        if row["method"] not in NABLA:
            continue
        own = row_outcomes(records, row)
        for other in grid:
            if (other["policy"], other["task"]) != (row["policy"], row["task"]) or other["method"] == row["method"]:
                continue
            plain = row_outcomes(records, other)
            pool = row_outcomes(budget, other) or plain
            for matched_on in MATCHED_ON:
                names = {"policy": row["policy"], "task": row["task"], "method": row["method"]}
                names |= {"baseline": other["method"], "matched_on": matched_on}
                rows.append(names | _compare(own, plain if matched_on == "rollouts" else pool, matched_on))
    return rows


def _compare(own: list[Outcome], other: list[Outcome], matched_on: str) -> Row:
    common = {outcome.key for outcome in own} & {outcome.key for outcome in other}
    repeats = sorted({key[1:] for key in common})
    problems = sorted({key[0] for key in common})
    problems = [problem for problem in problems if all((problem, *pair) in common for pair in repeats)]
    if not problems:
        nothing = dict.fromkeys(("difference", "ci_low", "ci_high", "p_value"))
        return nothing | {"num_problems": 0, "verdict": "not run", "note": ""}
    keys = [(problem, *pair) for problem in problems for pair in repeats]
    mine, theirs = ({o.key: o for o in outcomes} for outcomes in (own, other))
    a = np.array([mine[key].correct for key in keys])
    if matched_on == "rollouts":
        b = np.array([theirs[key].correct for key in keys])
        spent = [np.mean([o.steps[-1][0] for o in map(side.get, keys)]) for side in (theirs, mine)]
        note = f"{spent[0]:.3g} rollouts against {spent[1]:.3g}"
    else:
        costs = [mine[key].cost[matched_on] for key in keys if mine[key].ok]
        steps = [theirs[key].steps if theirs[key].ok else [] for key in keys]
        target = float(np.mean(costs)) if costs else 0.0
        b, size, mean = cut_at_cost(steps, target, MATCHED_ON.index(matched_on))
        where = f"baseline at n = {size}" if mean >= target else f"baseline's largest budget, n = {size}"
        note = f"{where}: {mean / target:.2g}x the cost" if target > 0 else where
    shape = (len(problems), len(repeats))
    result = paired_difference(a.reshape(shape), b.reshape(shape))
    return {
        "difference": result.difference,
        "ci_low": result.low,
        "ci_high": result.high,
        "p_value": result.p_value,
        "num_problems": len(problems),
        "verdict": result.verdict,
        "note": note,
    }


COMPARED = ("policy", "task", "method", "baseline", "equal rollouts", "equal FLOPs")


def format_comparisons(rows: Sequence[Row]) -> list[list[str]]:
    """Comparisons as text, equal rollouts and equal FLOPs side by side; those not run are left to the CSV file."""
    pairs: dict[tuple, dict[str, str]] = {}
    for row in rows:
        if row["verdict"] != "not run":
            text = f"{row['difference']:+.1f} [{row['ci_low']:+.1f}, {row['ci_high']:+.1f}] p={row['p_value']:.2g} "
            less = " (baseline spent less)" if "largest" in row["note"] else ""
            key = tuple(row[name] for name in COMPARED[:4])
            pairs.setdefault(key, {})[row["matched_on"]] = text + row["verdict"] + less
    return [[*key, texts["rollouts"], texts["flops"]] for key, texts in pairs.items()]
