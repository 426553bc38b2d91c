"""Rows that the claims are judged from, and the counts and ranges that verdicts are made of."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

REPRODUCED, PARTLY, NOT, NOT_RUN = "reproduced", "partly", "not reproduced", "not run"
OURS, NULL = "nabla_reasoner", "nabla_without_gradient"
SEARCHES = ("self_consistency", "best_of_n", "tree_of_thoughts", "rap", "tpo")
LABELS = {
    "greedy": "greedy",
    "self_consistency": "Self-Consistency",
    "best_of_n": "Best-of-N",
    "rap": "RAP",
    "tpo": "TPO",
    "tree_of_thoughts": "Tree-of-Thoughts",
    "sft": "SFT",
    "grpo": "GRPO",
}
Row = dict[str, str]
Rows = Sequence[Row]


class Evidence(NamedTuple):
    """Rows of the files that claims are judged from; empty where a command was not run.

    Attributes:
        comparisons: `table1/comparisons.csv`.
        rewards: `table2/table.csv`.
        rejections: `table3/table.csv`.
        expenses: `table5/table.csv`.
        calls: `figure3` rows.
        budgets: `figure4` rows.
        checks: `theory/checks.csv`.
        terms: `theory/terms.csv`, or its means by quarter of the answer.
        ppo: `ppo/ppo.csv`.
        bench: `bench/bench.csv`.
        ablations: `ablations/table.csv`.
    """

    comparisons: Rows = ()
    rewards: Rows = ()
    rejections: Rows = ()
    expenses: Rows = ()
    calls: Rows = ()
    budgets: Rows = ()
    checks: Rows = ()
    terms: Rows = ()
    ppo: Rows = ()
    bench: Rows = ()
    ablations: Rows = ()


class Claim(NamedTuple):
    """A claim with its verdict.

    Attributes:
        name, text: C1 to C10, and what the paper says.
        verdict: reproduced, partly, not reproduced, or not run.
        evidence: a sentence with numbers.
        source: the commands that the evidence comes from.
        rule: when each verdict is given.
    """

    name: str
    text: str
    verdict: str
    evidence: str
    source: str
    rule: str


def improved(policy: str) -> bool:
    return policy.endswith(("-sft", "-grpo"))


def cell_name(row: Row) -> tuple[str, str]:
    return row["policy"], row["task"]


def span(values: Iterable[float], form: str = "+.1f") -> str:
    """ "low to high", or the one value there is."""
    ordered = sorted(values)
    low, high = format(ordered[0], form), format(ordered[-1], form)
    return low if low == high else f"{low} to {high}"


def compared(rows: Rows, baseline: str, matched_on: str) -> list[Row]:
    """∇-Reasoner's comparisons with a baseline that were run."""
    return [
        row
        for row in rows
        if (row["method"], row["baseline"], row["matched_on"]) == (OURS, baseline, matched_on)
        and row["verdict"] != NOT_RUN
        and not improved(row["policy"])
    ]


def better(rows: Rows) -> str:
    """How many comparisons were won, and lost where any was, of all."""
    better, worse = (sum(row["verdict"] == verdict for row in rows) for verdict in ("better", "worse"))
    return f"{better}{f' (worse {worse})' if worse else ''} of {len(rows)}"


def above(point: Row, other: Rows, axis: str) -> bool:
    ordered = sorted(other, key=lambda row: float(row[axis]))
    match = next((row for row in ordered if float(row[axis]) >= float(point[axis])), ordered[-1])
    return float(point["accuracy"]) > float(match["accuracy"])


def checked(rows: Rows, *starts: str) -> tuple[list[Row], list[Row]]:
    """Checks whose names start so and that were made: all, and those that failed."""
    made = [row for row in rows if row["name"].startswith(starts) and not row["passed"].startswith("skipped")]
    return made, [row for row in made if row["passed"] != "True"]


def pooled(rows: Rows, setting: str) -> list[Row]:
    """An ablation's comparisons with the default: over all tasks, or by task where that was not made."""
    own = [row for row in rows if row["setting"] == setting and row["difference"]]
    return [row for row in own if row["task"] == "all"] or own


def postfix_shares(rows: Rows, weights: str) -> list[float]:
    """Mean share of δ_postfix in percent, by policy, reward and task."""
    sums: dict[tuple[str, ...], tuple[float, float]] = {}
    for row in rows:
        if (row["weights"], row["space"]) == (weights, "z"):
            key, count = (row["policy"], row["reward"], row["task"]), float(row.get("positions", 1))
            total, number = sums.get(key, (0.0, 0.0))
            sums[key] = total + count * float(row["postfix_share"]), number + count
    return [100 * total / number for total, number in sums.values()]
