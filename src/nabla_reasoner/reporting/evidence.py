"""Evidence for the claims: typed rows of the result files, and the counts and ranges that verdicts are made of."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..evaluation.lineage import lineage
from ..evaluation.stored_cells import is_test
from .method_names import NABLA_REASONER
from .tables import FileRow, read_csv, text_columns

NOT_RUN = "not run"
NAMES = ("policy", "task", "method", "name", "setting")  # columns without gaps
SWITCHES = ("True", "False")
REPEAT = "Repeat the command that made the file."
BROKE_OFF = "_broke_off_"  # in the name of a check that stands for a group of checks which an error ended
FLOW_CHECKS = ("argmin_", "velocity_", "jko_", "particles_", "long_run_", "noise_")  # beginnings of their names
PAPER_SAMPLES = 8  # N of the paper's Best-of-N
Row = dict[str, str | float | int | None]
Rows = Sequence[Row]


class Evidence(NamedTuple):
    """Rows of the files that claims are decided from; empty if a command was not run.

    Attributes:
        comparisons: `table1/comparisons.csv`.
        rewards: `table2/table.csv`.
        rejections: `table3/table.csv`.
        expenses: `table5/table.csv`.
        calls: rows of Figure 3.
        budgets: rows of Figure 4.
        checks: `theory/checks.csv`.
        terms: `theory/terms.csv`, or its means by quarter of the answer.
        ppo: `ppo/ppo.csv`.
        bench: `bench/bench.csv`.
        ablations: `ablations/table.csv`.
        movement: `ablations/row_movement.csv`.
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
    movement: Rows = ()

    def of_test_problems(self) -> "Evidence":
        """Leave out rows of other problems; of ablations the whole policy, whose row over all tasks has them too."""
        others = {row["policy"] for row in self.ablations if not is_test(row["task"])}
        selected = {
            name: [row for row in rows if is_test(str(row.get("task", "")))] for name, rows in self._asdict().items()
        }
        ablations = [row for row in selected["ablations"] if row["policy"] not in others]
        return Evidence(**{**selected, "ablations": ablations})


def typed_rows(path: Path) -> list[Row]:
    """Read a CSV file: numbers as floats, empty cells as None, the rest as text; none if it is missing or damaged.

    Names and words stay text, whatever they look like.

    Raises:
        ValueError: a text in place of a number, or a row without one of its names; says file, row and column.
    """
    rows = read_csv(path)
    texts = text_columns(rows[0]) if rows else set()
    return [
        FileRow(
            path,
            {name: _typed(cell, name, name in texts, f"{path}: {name} of row {number}") for name, cell in row.items()},
        )
        for number, row in enumerate(rows, start=1)
    ]


def _typed(cell: str, column: str, is_text: bool, place: str) -> str | float | None:
    """Return a cell's value; `place` names the cell in errors."""
    if not cell and column in NAMES:
        raise ValueError(f"{place} must not be empty. {REPEAT}")
    if not cell or is_text or cell in SWITCHES:
        return cell or None
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"{place} must be a number; got {cell[:40]!r}. {REPEAT}") from None


def improved(policy: str) -> bool:
    """Return whether a policy was improved by training; those do not count as cells of their own."""
    return lineage(policy) is not None


def num_samples(row: Row) -> float | int | None:
    """Return the N of the Best-of-N that a row of Table 5 is relative to; None if its records do not say it.

    Rows from before there was a column for it are those of default runs, whose N is the paper's.
    """
    return row.get("num_samples", PAPER_SAMPLES)


def best_of(sizes: Iterable[float | int | None]) -> str:
    """Return the name of Best-of-N by its sizes, e.g. "Best-of-8"; an unknown one is N."""
    known = sorted({size for size in sizes if size is not None})
    return f"Best-of-{' and '.join(f'{size:g}' for size in known) or 'N'}"


def cell_of(row: Row) -> tuple[str, str]:
    """Return policy and task."""
    return row["policy"], row["task"]


def span(values: Iterable[float | int], form: str = "+.1f") -> str:
    """Format the range of values, "low to high"; a single number if both are printed the same."""
    ordered = sorted(values)
    low, high = format(ordered[0], form), format(ordered[-1], form)
    return low if low == high else f"{low} to {high}"


def compared(rows: Rows, baseline: str, matched_on: str, method: str = NABLA_REASONER) -> list[Row]:
    """Return the comparisons of a form of ∇-Reasoner with a baseline that were run."""
    return [
        row
        for row in rows
        if (row["method"], row["baseline"], row["matched_on"]) == (method, baseline, matched_on)
        and row["verdict"] != NOT_RUN
        and not improved(row["policy"])
    ]


def better_count(rows: Rows) -> str:
    """Format how many comparisons were better, of all, and how many were worse if there are any."""
    better, worse = (sum(row["verdict"] == verdict for row in rows) for verdict in ("better", "worse"))
    return f"{better}{f' (worse {worse})' if worse else ''} of {len(rows)}"


def above(point: Row, curve: Rows, axis: str) -> bool:
    """Return whether a point is above a curve's cheapest point that costs no less, or its most expensive one."""
    ordered = sorted(curve, key=lambda row: row[axis])
    match = next((row for row in ordered if row[axis] >= point[axis]), ordered[-1])
    return point["accuracy"] > match["accuracy"]


def checked(rows: Rows, *prefixes: str) -> tuple[list[Row], list[Row]]:
    """Return the checks of these name prefixes that were made, and those of them that failed.

    Left out are checks that were skipped, and groups that an error broke off: they say nothing about the claim.
    """
    named = [row for row in rows if row["name"].startswith(prefixes) and BROKE_OFF not in row["name"]]
    checks = [row for row in named if not row["passed"].startswith("skipped")]
    return checks, [row for row in checks if row["passed"] != "True"]


def rejection_rows(evidence: Evidence) -> list[Row]:
    """Return the rejection rates of the method itself, without those of its other variants."""
    return [row for row in evidence.rejections if row["variant"] in ("fixed", None) and row["rejected"] is not None]


def pooled(rows: Rows, setting: str) -> list[Row]:
    """Return an ablation's comparisons with the default: over all tasks, or by task if those were not pooled."""
    comparisons = [row for row in rows if row["setting"] == setting and row["difference"] is not None]
    return [row for row in comparisons if row["task"] == "all"] or comparisons


def postfix_shares(rows: Rows, weights: str) -> list[float]:
    """Return the mean share of δ_postfix in percent, by policy, reward and task."""
    sums: dict[tuple[str, ...], tuple[float, float]] = {}
    for row in rows:
        if (row["weights"], row["space"]) == (weights, "z"):
            key, count = (row["policy"], row["reward"], row["task"]), row.get("positions", 1)
            total, number = sums.get(key, (0.0, 0.0))
            sums[key] = total + count * row["postfix_share"], number + count
    return [100 * total / number for total, number in sums.values()]
