"""Table 3: which share of the candidates a method throws away, by two counting rules, beside what chance would give.

A candidate is rejected when its reward is not above the best so far. The paper's rule counts the first sample among the
candidates, as one that was not rejected; the other rule leaves it out.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..evaluation.records import read_records, stored_cells
from ..evaluation.statistics import Ratio, ratio_interval
from ..reporting import paper_numbers, tables
from ..reporting.tables import table_texts
from .command import Command
from .from_results import write_result_table

METHODS = ("best_of_n", "nabla_without_gradient", "nabla_reasoner", "nabla_reasoner_multipass")
RELEASE = "table1-release"  # the experiment whose records show the released acceptance test
COLUMNS = (
    "policy",
    "task",
    "method",
    "variant",
    "limit",
    "rejected",
    "ci_low",
    "ci_high",
    "rejected_of_proposed",
    "proposed_ci_low",
    "proposed_ci_high",
    "by_chance",
    "by_chance_of_proposed",
    "candidates",
    "num_problems",
    "num_seeds",
    "num_failed",
    "paper_value",
    "paper_source",
    "status",
)
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
Row = dict[str, Any]


class Tally(NamedTuple):
    """One record's candidates.

    Attributes:
        key: problem id, seed and repeat.
        proposed, rejected: candidates after the first, and those of them not better than the best before.
        chance: expected rejections if the order of the samples were random; None without their rewards.
    """

    key: tuple[str, int, int]
    proposed: int
    rejected: int
    chance: float | None


def theory(count: int) -> tuple[float, float]:
    """Best-of-N's expected rejections in percent when rewards are exchangeable and never tie, by either rule.

    Sample k is the best of the first k with probability 1/k, so H_N of N samples are kept, the first always.

    Args:
        count: N >= 2.

    Returns:
        100(1 - H_N/N), the first sample counted; 100(N - H_N)/(N - 1), not counted.
    """
    harmonic = sum(1 / k for k in range(1, count + 1))
    return 100 * (1 - harmonic / count), 100 * (count - harmonic) / (count - 1)


def expected_rejections(rewards: Sequence[float]) -> float:
    """Expected number of samples that do not exceed all before them, over random orders of these very rewards.

    Equal rewards (the same answer drawn twice) do not exceed each other: of a value that m samples have and g exceed,
    one is kept if it comes before those g, which has probability m/(m + g). Without ties this is N - H_N.
    """
    _, counts = np.unique(np.asarray(rewards, dtype=float), return_counts=True)
    above = counts[::-1].cumsum()[::-1]  # samples of this value or a greater one
    return float(len(rewards) - (counts / above).sum())


def read_tallies(path: Path) -> tuple[list[Tally], int]:
    """Tallies of the records that did not fail, and how many failed."""
    tallies, failed = [], 0
    for record in read_records(path):
        if record["status"] != "ok":
            failed += 1
            continue
        search = record["search"]
        rewards = [sample["reward"] for sample in search.get("samples", [])]
        chance = expected_rejections(rewards) if rewards and None not in rewards else None
        key = (record["problem_id"], record["seed"], record["repeat"])
        tallies.append(Tally(key, search["proposed"], search["rejected"], chance))
    return tallies, failed


def rates(tallies: Sequence[Tally]) -> tuple[Ratio, Ratio | None]:
    """Rejected share of all candidates by either rule, clustered by problem; None where nothing was proposed."""
    problems = sorted({tally.key[0] for tally in tallies})
    place = {problem: index for index, problem in enumerate(problems)}
    rejected, proposed, candidates = (np.zeros(len(problems)) for _ in range(3))
    for tally in tallies:
        at = place[tally.key[0]]
        rejected[at] += tally.rejected
        proposed[at] += tally.proposed
        candidates[at] += tally.proposed + 1
    return (
        ratio_interval(rejected, candidates, share=True),
        ratio_interval(rejected, proposed, share=True) if proposed.sum() else None,
    )


def table_rows(folder: Path) -> list[Row]:
    """Rows of `COLUMNS` for every policy and task of Table 1, the released acceptance test below them.

    Args:
        folder: results of a scale: `table1/records`, and `table1-release/records` where they were made.

    Raises:
        ValueError: no records of Best-of-N or ∇-Reasoner.
    """
    plain, release = (stored_cells(folder / name / "records") for name in ("table1", RELEASE))
    chosen = [key for key in plain if key[2] in METHODS]
    if not chosen:
        raise ValueError(
            f"{folder / 'table1' / 'records'} must hold records of {', '.join(METHODS)}; got none. "
            "Run ./reproduce.sh table1 first."
        )
    paper, rows = paper_numbers.paper_cells("table3"), []
    for policy, task in dict.fromkeys(key[:2] for key in chosen):
        for method in METHODS:
            if paths := plain.get((policy, task, method)):
                rows.append(_row((policy, task, method), paths, paper))
        if "nabla_reasoner" in {key[2] for key in chosen if key[:2] == (policy, task)}:
            key = (policy, task, "nabla_reasoner")
            rows.append(_row(key, release[key], paper) if key in release else _missing(key))
    return rows


def _missing(key: tuple[str, str, str]) -> Row:
    names = dict(zip(("policy", "task", "method"), key, strict=True))
    return dict.fromkeys(COLUMNS) | names | {"variant": "release", "status": "not run"}


def _row(key: tuple[str, str, str], paths: Sequence[Path], paper: Sequence[Row]) -> Row:
    policy, task, method = key
    read = [read_tallies(path) for path in paths]
    tallies = [tally for own, _ in read for tally in own]
    settings = [json.loads(path.with_suffix(".settings.json").read_text(encoding="utf-8"))["method"] for path in paths]
    limit = settings[0].get("num_samples", settings[0].get("max_rollouts"))
    cell = {"policy": paper_numbers.paper_name("policy", policy), "benchmark": None}  # the paper gives no benchmark
    value, source = paper_numbers.paper_value(
        {"policy": policy, "task": None, "method": method, "paper_cell": cell}, paper
    )
    result = dict.fromkeys(COLUMNS) | {
        "policy": policy,
        "task": task,
        "method": method,
        "variant": settings[0].get("variant"),
        "limit": limit,
        "num_failed": sum(failed for _, failed in read),
        "paper_value": value,
        "paper_source": source,
        "status": "ok" if tallies else "all failed",
    }
    if not tallies:
        return result
    counted, proposed = rates(tallies)
    result |= {"rejected": 100 * counted.value, "ci_low": 100 * counted.low, "ci_high": 100 * counted.high}
    if proposed is not None:
        names = ("rejected_of_proposed", "proposed_ci_low", "proposed_ci_high")
        result |= {name: 100 * value for name, value in zip(names, proposed, strict=True)}
    result["candidates"] = sum(tally.proposed + 1 for tally in tallies) / len(tallies)
    result["num_problems"] = len({tally.key[0] for tally in tallies})
    result["num_seeds"] = len({tally.key[1] for tally in tallies})
    if all(tally.chance is not None for tally in tallies):
        chance, offered = sum(tally.chance for tally in tallies), sum(tally.proposed for tally in tallies)
        result["by_chance"] = 100 * chance / (offered + len(tallies))
        result["by_chance_of_proposed"] = 100 * chance / offered if offered else None
    return result


def notes(rows: Sequence[Row], scale: str) -> list[str]:
    """Sentences below the table."""
    sizes = sorted({row["limit"] for row in rows if row["method"] == "best_of_n" and row["limit"] > 1})
    known = next(c for c in paper_numbers.paper_cells("table3") if c["method"] == "best_of_n_theory")["value"]
    words = "{:.1f} % (first sample counted) or {:.1f} % (not counted) for N = {}"
    lines = [words.format(*theory(size), size) for size in sizes]
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
            f"./reproduce.sh table1{scaled} variant=release method=nabla_reasoner seed=0 experiment_name={RELEASE}"
        )
    return text


def format_row(row: Row) -> list[str]:
    """A row as text under `HEADER`."""

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
    """Rejection rates; the files' texts by name."""
    rows = table_rows(results)
    body, own = [format_row(row) for row in rows], notes(rows, scale)
    return table_texts(tables.csv_text(COLUMNS, rows), HEADER, body, [*own, f"Made by {command}"])


def run(command: Command, settings: Mapping[str, str]) -> int:
    """Write the table; returns the exit status."""
    return write_result_table(command, settings, table3)
