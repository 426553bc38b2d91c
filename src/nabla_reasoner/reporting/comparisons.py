"""Paired differences between ∇-Reasoner and every other method, at equal rollouts and at equal cost."""

from collections.abc import Sequence

import numpy as np

from ..evaluation.outcomes import (
    Outcome,
    Outcomes,
    Row,
    Step,
    charged_steps,
    correct_array,
    paired_keys,
    row_outcomes,
)
from ..evaluation.statistics import LEVEL, NO_DIFFERENCE, cut_at_cost, holm, paired_difference
from .method_names import NABLA_METHODS, base_name

MATCHED_ON = Step._fields[:-1]  # rollouts, model_calls, flops, seconds
COMPARISON_COLUMNS = (
    *("policy", "task", "method", "baseline", "matched_on", "difference", "ci_low", "ci_high", "p_value"),
    *("num_problems", "verdict", "note", "p_adjusted"),
)


def comparison_rows(records: Outcomes, pools: Outcomes, grid: Sequence[Row]) -> list[Row]:
    """Compare each ∇-Reasoner row with every other method of its policy and task, paired by problem, seed and repeat.

    Matched on rollouts: the records as they are. Matched on a cost: the baseline is cut at the smallest number of
    rollouts whose mean cost is at least ∇-Reasoner's, so that it never gets less. It is taken from its larger pool if
    there is one, otherwise from its records. The `note` says at what size it was cut, or that its largest costs less.

    p-values are adjusted by Holm's method over all comparisons of one method matched on one quantity. A verdict needs
    an interval that excludes zero and an adjusted p-value below the level.

    Args:
        records: outcomes of the experiment's records.
        pools: outcomes of the larger pools.
        grid: see `accuracy_table`.
    """
    rows = []
    for row in grid:
        if base_name(row["method"]) not in NABLA_METHODS:
            continue
        ours = row_outcomes(records, row)
        for other in grid:
            same_cells = (other["policy"], other["task"]) == (row["policy"], row["task"])
            if not same_cells or base_name(other["method"]) == base_name(row["method"]):
                continue
            plain = row_outcomes(records, other)
            pool = row_outcomes(pools, other) or plain
            for matched_on in MATCHED_ON:
                names = {"policy": row["policy"], "task": row["task"], "method": row["method"]}
                names |= {"baseline": other["method"], "matched_on": matched_on}
                rows.append(names | _compare(ours, plain if matched_on == "rollouts" else pool, matched_on))
    for method, matched_on in dict.fromkeys((row["method"], row["matched_on"]) for row in rows):
        family = [row for row in rows if (row["method"], row["matched_on"]) == (method, matched_on)]
        _adjust([row for row in family if row["p_value"] is not None])
    return rows


def _adjust(family: Sequence[Row]) -> None:
    """Set the adjusted p-values of comparisons made together, and take back verdicts that they do not support."""
    for row, p_value in zip(family, holm([row["p_value"] for row in family]), strict=True):
        row["p_adjusted"] = p_value
        if p_value >= 1 - LEVEL:
            row["verdict"] = NO_DIFFERENCE


def _compare(ours: list[Outcome], baseline: list[Outcome], matched_on: str) -> Row:
    mine, theirs = ({outcome.key: outcome for outcome in outcomes} for outcomes in (ours, baseline))
    keys = paired_keys(mine, theirs)
    if not keys:
        nothing = dict.fromkeys(("difference", "ci_low", "ci_high", "p_value", "p_adjusted"))
        same_ids = {key._replace(answer=None) for key in mine} & {key._replace(answer=None) for key in theirs}
        note = "the problems of one id have different answers" if same_ids else ""
        return nothing | {"num_problems": 0, "verdict": "not run", "note": note}
    if matched_on == "rollouts":
        correct = [theirs[key].correct for key in keys]
        rollouts = [np.mean([side[key].steps[-1].rollouts for key in keys]) for side in (theirs, mine)]
        note = f"{rollouts[0]:.3g} rollouts against {rollouts[1]:.3g}"
    else:
        costs = [mine[key].cost[matched_on] for key in keys if mine[key].ok]
        steps = charged_steps([theirs[key] for key in keys])
        target = float(np.mean(costs)) if costs else 0.0
        correct, size, mean = cut_at_cost(steps, target, MATCHED_ON.index(matched_on))
        where = f"baseline at n = {size}" if mean >= target else f"baseline's largest budget, n = {size}"
        note = f"{where}: {mean / target:.2g}x the cost" if target > 0 else where
    result = paired_difference(correct_array(keys, (mine[key].correct for key in keys)), correct_array(keys, correct))
    return {
        "difference": result.difference,
        "ci_low": result.low,
        "ci_high": result.high,
        "p_value": result.p_value,
        "num_problems": len({key.problem for key in keys}),
        "verdict": result.verdict,
        "note": note,
    }


COMPARED = ("policy", "task", "method", "baseline", "equal rollouts", "equal FLOPs")


def format_comparisons(rows: Sequence[Row]) -> list[list[str]]:
    """Format comparisons, equal rollouts beside equal FLOPs; those not run are in the CSV file only."""
    pairs: dict[tuple, dict[str, str]] = {}
    for row in rows:
        if row["verdict"] != "not run":
            text = f"{row['difference']:+.1f} [{row['ci_low']:+.1f}, {row['ci_high']:+.1f}] p={row['p_adjusted']:.2g} "
            less = " (baseline spent less)" if "largest" in row["note"] else ""
            key = tuple(row[name] for name in COMPARED[:4])
            pairs.setdefault(key, {})[row["matched_on"]] = text + row["verdict"] + less
    return [
        [*key, *(texts.get(matched, "not run") for matched in ("rollouts", "flops"))] for key, texts in pairs.items()
    ]
