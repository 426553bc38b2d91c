"""Table 3: share of rejected candidates by two counting rules, beside the share expected by chance.

A candidate is rejected if its reward is not above the best so far. The paper's rule counts the first sample among the
candidates, as one that was not rejected; the other rule leaves it out.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..config.fingerprint import without_places
from ..config.settings import ResultsSettings
from ..config.targets import how_to_make
from ..evaluation.outcomes import Experiment, Outcome, Row, read_experiment
from ..evaluation.records import CellKey
from ..evaluation.statistics import Ratio, ratio_interval
from ..evaluation.stored_cells import StoredCell, conditions
from ..reporting import paper_numbers, tables
from ..reporting.method_names import BEST_OF_N, NABLA_REASONER, REJECTING, base_name, rank
from ..reporting.tables import table_texts
from .command import Command
from .from_results import write_result_table

RELEASE = "table1-release"  # the experiment whose records show the released acceptance test
COLUMNS = (
    "policy task method variant limit rejected ci_low ci_high rejected_of_proposed proposed_ci_low "
    "proposed_ci_high by_chance by_chance_of_proposed candidates num_problems num_seeds num_failed "
    "paper_value paper_source status"
).split()
HEADER = (
    "policy",
    "task",
    "method",
    "variant",
    "N",
    "rejected, %",
    "95 % interval",
    "paper, %",
    "of proposed, %",
    "95 % interval",
    "by chance, %",
    "of proposed, %",
    "candidates",
    "problems x seeds",
    "status",
)


def theory(count: int) -> tuple[float, float]:
    """Return Best-of-N's expected rejections in percent, by either rule, if rewards are exchangeable and never tie.

    Sample k is the best of the first k with probability 1/k, so H_N of N samples are accepted, the first always.

    Args:
        count: N >= 2.

    Returns:
        100(1 - H_N/N), the first sample counted; 100(N - H_N)/(N - 1), not counted.
    """
    harmonic = sum(1 / k for k in range(1, count + 1))
    return 100 * (1 - harmonic / count), 100 * (count - harmonic) / (count - 1)


def expected_rejections(rewards: Sequence[float]) -> float:
    """Return the expected number of samples that do not exceed all before them, over random orders of these rewards.

    Equal rewards (the same answer drawn twice) do not exceed each other. If m samples have a value and g exceed it, one
    of the m is accepted if it comes before those g, with probability m/(m + g). Without ties this is N - H_N.
    """
    _, counts = np.unique(np.asarray(rewards, dtype=float), return_counts=True)
    above = counts[::-1].cumsum()[::-1]  # samples of this value or a greater one
    return float(len(rewards) - (counts / above).sum())


def by_chance(outcome: Outcome) -> float | None:
    """Return the expected rejections if the order of the samples were random; None if their rewards are not known."""
    rewards = [sample.reward for sample in outcome.samples]
    return expected_rejections(rewards) if rewards and None not in rewards else None


def rates(solved: Sequence[Outcome]) -> tuple[Ratio, Ratio | None]:
    """Return the rejected share of all candidates, and of those proposed (None if there are none), over problems."""
    problems = sorted({outcome.key.problem for outcome in solved})
    indices = {problem: index for index, problem in enumerate(problems)}
    rejected, proposed, candidates = (np.zeros(len(problems)) for _ in range(3))
    for outcome in solved:
        index = indices[outcome.key.problem]
        rejected[index] += outcome.rejected
        proposed[index] += outcome.proposed
        candidates[index] += outcome.proposed + 1
    return (
        ratio_interval(rejected, candidates, share=True),
        ratio_interval(rejected, proposed, share=True) if proposed.sum() else None,
    )


def table_rows(folder: Path) -> list[Row]:
    """Return rows of `COLUMNS` for every policy and task of Table 1, with one for the released acceptance test.

    Args:
        folder: results of a scale: `table1/records`, and `table1-release/records` if they were made.

    Raises:
        ValueError: there are no records of Best-of-N or ∇-Reasoner.
    """
    records = folder / "table1" / "records"
    experiment, release = read_experiment(folder / "table1"), read_experiment(folder / RELEASE)
    counted = [key for key in experiment.records if base_name(key.method) in REJECTING]
    if not counted:
        raise ValueError(
            f"{records} must hold records of {', '.join(REJECTING)}; got none. {how_to_make('table1', folder)}"
        )
    rows = []
    for policy, task in dict.fromkeys(key[:2] for key in counted):
        keys = sorted((key for key in counted if key[:2] == (policy, task)), key=lambda key: rank(key.method))
        rows += [_row(key, experiment) for key in keys]
        ours = CellKey(policy, task, NABLA_REASONER)
        if ours in experiment.records:
            rows.append(_release_row(ours, experiment.cells[ours], release))
    return rows


def _release_row(key: CellKey, cell: StoredCell, release: Experiment) -> Row:
    """Return the row of the released acceptance test; not run if there are no records of the same questions."""
    missing = dict.fromkeys(COLUMNS) | key._asdict() | {"variant": "release", "status": "not run"}
    others = [made for name, made in release.cells.items() if name in release.records and made.names == cell.names]
    if not others:
        return missing
    other = release.cells.get(key, others[0])
    ours, theirs = ({**(conditions(side.settings) or {}), "method.variant": ""} for side in (cell, other))
    policies = [without_places(side.settings).get("policy") for side in (cell, other)]
    if policies[0] != policies[1] or ours != theirs:
        return missing | {"status": "not run: the records of the release have other settings"}
    return _row(key, release)


def _row(key: CellKey, experiment: Experiment) -> Row:
    outcomes, settings = experiment.records[key], experiment.cells[key].settings.get("method", {})
    cell = {"policy": paper_numbers.paper_name("policy", key.policy), "benchmark": None}  # the paper names no benchmark
    value, source = paper_numbers.paper_value(
        {"policy": key.policy, "task": None, "method": key.method, "paper_cell": cell},
        paper_numbers.paper_cells("table3"),
    )
    solved = [outcome for outcome in outcomes if outcome.ok]
    result = dict.fromkeys(COLUMNS) | {
        **key._asdict(),
        "variant": settings.get("variant"),
        "limit": settings.get("num_samples", settings.get("max_rollouts")),
        "num_failed": len(outcomes) - len(solved),
        "paper_value": value,
        "paper_source": source,
        "status": experiment.status(key) if solved else "all failed",
    }
    if not solved:
        return result
    all_candidates, proposals = rates(solved)
    names = {"rejected": all_candidates.value, "ci_low": all_candidates.low, "ci_high": all_candidates.high}
    if proposals is not None:
        names |= {"rejected_of_proposed": proposals.value}
        names |= {"proposed_ci_low": proposals.low, "proposed_ci_high": proposals.high}
    result |= {name: 100 * share for name, share in names.items()}
    proposed = sum(outcome.proposed for outcome in solved)
    result["candidates"] = (proposed + len(solved)) / len(solved)
    result["num_problems"] = len({outcome.key.problem for outcome in solved})
    result["num_seeds"] = len({outcome.key.seed for outcome in solved})
    expected = [by_chance(outcome) for outcome in solved]
    if None not in expected:
        result["by_chance"] = 100 * sum(expected) / (proposed + len(solved))
        result["by_chance_of_proposed"] = 100 * sum(expected) / proposed if proposed else None
    return result


def notes(rows: Sequence[Row], scale: str) -> list[str]:
    """Return the sentences below the table."""
    sizes = sorted({row["limit"] for row in rows if row["method"] == BEST_OF_N and (row["limit"] or 0) > 1})
    known = next(c for c in paper_numbers.paper_cells("table3") if c["method"] == "best_of_n_theory")["value"]
    line = "{:.1f} % (first sample counted) or {:.1f} % (not counted) for N = {}"
    lines = [line.format(*theory(size), size) for size in sizes]
    text = [
        "Rejected: candidates whose reward is not above the best so far, the first sample counted as one that was kept "
        "(the paper's rule). Of proposed: the first sample not counted. Totals over problems, intervals by "
        "bootstrap over problems (seeds clustered); failed problems are left out. Paper: reported in arXiv 2603.04948 "
        "for other models, without a benchmark; ? unknown, - not in the paper.",
        f"Best-of-N if rewards are exchangeable and never tie: {'; '.join(lines) or 'no records'} (the paper: {known} "
        "% for N = 8). By chance: the same for the very rewards drawn, whose ties (one answer drawn twice) cannot "
        "exceed each other.",
        "Best-of-N's candidates are independent draws, ∇-Reasoner's are single-token revisions of the best so far, "
        "made only where the redrawn token differs: the two rates are of different experiments.",
    ]
    if any(row["status"] == "not run" for row in rows):
        scaled = "" if scale == "tiny" else f" scale={scale}"
        text.append(
            "variant=release (the current response is scored with the prompt repeated inside it) is made by "
            f"`./reproduce.sh {RELEASE}{scaled}`."
        )
    return text


def format_row(row: Row) -> list[str]:
    """Format a row under `HEADER`."""

    def percent(*names: str) -> str:
        return " to ".join(f"{row[name]:.1f}" for name in names) if row[names[0]] is not None else ""

    paper = "-" if row["paper_source"] in (None, "not in the paper") else percent("paper_value") or "?"
    counts = "" if row["num_seeds"] is None else f"{row['num_problems']} x {row['num_seeds']}"
    return [
        row["policy"],
        row["task"],
        row["method"],
        row["variant"] or "",
        str(row["limit"] or ""),
        percent("rejected"),
        percent("ci_low", "ci_high"),
        paper,
        percent("rejected_of_proposed"),
        percent("proposed_ci_low", "proposed_ci_high"),
        percent("by_chance"),
        percent("by_chance_of_proposed"),
        "" if row["candidates"] is None else f"{row['candidates']:.2f}",
        counts,
        row["status"],
    ]


def table3(results: Path, scale: str, command: str) -> dict[str, str]:
    """Return the texts of the table's files, by name."""
    rows = table_rows(results)
    made = read_experiment(results / "table1").notes()
    body, below = [format_row(row) for row in rows], [*notes(rows, scale), *made, f"Made by {command}"]
    return table_texts(tables.csv_text(COLUMNS, rows), HEADER, body, below)


def run(command: Command, settings: ResultsSettings) -> int:
    """Write the table; return the exit status."""
    return write_result_table(command, settings, table3)
