"""Table 5 and Figure 3: what a method spends per problem, by what it is spent on, from the records of Table 1."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.outcomes import read_cells
from ..evaluation.statistics import ratio_interval
from ..reporting import paper_numbers, tables
from ..reporting.tables import table_texts
from .command import Command
from .from_results import write_result_table

COMPARED = ("best_of_n", "nabla_reasoner")  # of the paper's Table 5
QUANTITIES = {"seconds": "seconds", "flops": "FLOPs", "decode_tokens": "tokens", "peak_bytes": "bytes"}
COLUMNS = (
    "policy",
    "task",
    "quantity",
    "best_of_n",
    "nabla_reasoner",
    "ratio",
    "ci_low",
    "ci_high",
    "paper_best_of_n",
    "paper_nabla_reasoner",
    "paper_ratio",
    "num_problems",
    "num_seeds",
    "note",
)
HEADER = (
    "policy",
    "task",
    "quantity",
    "Best-of-8",
    "∇-Reasoner",
    "ratio",
    "95 % interval",
    "paper: Best-of-8",
    "paper: ∇-Reasoner",
    "paper: ratio",
    "problems x seeds",
)
PROMPTS = 83  # of AMC, which the paper's totals are over
Row = dict[str, Any]


def table_rows(folder: Path) -> list[Row]:
    """Table 5: rows of `COLUMNS`, each quantity of each policy and task, over problems and seeds that both solved.

    Args:
        folder: results of a scale, with `table1/records`.

    Raises:
        ValueError: no policy and task with records of both methods.
    """
    cells = read_cells(folder / "table1" / "records")
    reported = {(c["method"], c["unit"]): c["value"] for c in paper_numbers.paper_cells("table5")}
    rows = []
    for policy, task in dict.fromkeys(key[:2] for key in cells):
        both = [{o.key: o.cost for o in cells.get((policy, task, m), []) if o.ok} for m in COMPARED]
        keys = sorted(both[0].keys() & both[1].keys())
        for quantity, unit in QUANTITIES.items() if keys else ():
            sides = [[own[key][quantity] for key in keys] for own in both]
            rows.append({"policy": policy, "task": task, "quantity": quantity} | _compared(keys, *sides, quantity))
            paper = [reported.get((method, unit)) for method in COMPARED]
            known = None not in paper
            rows[-1] |= {
                "paper_best_of_n": paper[0] / PROMPTS if known else None,
                "paper_nabla_reasoner": paper[1] / PROMPTS if known else None,
                "paper_ratio": paper[1] / paper[0] if known else None,
            }
    if not rows:
        raise ValueError(
            f"{folder / 'table1' / 'records'} must hold records of {' and '.join(COMPARED)} for one policy and task; "
            "got none. Run ./reproduce.sh table1 first."
        )
    return rows


def _compared(keys: list[tuple], base: Sequence[float | int], own: Sequence[float | int], quantity: str) -> Row:
    problems = sorted({key[0] for key in keys})
    counts = {"num_problems": len(problems), "num_seeds": len({key[1] for key in keys}), "note": ""}
    if quantity == "peak_bytes":  # of a process that ran several methods: no quantity of single problems
        note = "largest of the process up to then, which later methods inherit"
        pair = {"best_of_n": max(base), "nabla_reasoner": max(own)}
        return {**pair, "ratio": None, "ci_low": None, "ci_high": None, **counts, "note": note}
    place = {problem: index for index, problem in enumerate(problems)}
    totals = np.zeros((2, len(problems)))
    for key, below, above in zip(keys, base, own, strict=True):
        totals[:, place[key[0]]] += above, below
    ratio = ratio_interval(*totals)
    return {
        "best_of_n": float(np.mean(base)),
        "nabla_reasoner": float(np.mean(own)),
        "ratio": ratio.value,
        "ci_low": ratio.low,
        "ci_high": ratio.high,
        **counts,
    }


def hardware(folder: Path) -> str:
    """The machine of Table 1's run, as its summary.json says."""
    path = folder / "table1" / "summary.json"
    if not path.exists():
        return "Hardware: unknown, there is no summary.json."
    run = json.loads(path.read_text(encoding="utf-8"))
    config, peak = run["config"], run.get("peak_bytes")
    threads = "torch's own number of" if config["threads"] is None else config["threads"]
    words = f"Hardware: {run['device']}, {run['count']} visible; device {config['device']}, {config['dtype']}, "
    words += f"{threads} threads, batches of {config['batch_size']}"
    return words + (f"; peak of the whole run {peak / 2**20:.0f} MiB." if peak else ".")


def notes(folder: Path) -> list[str]:
    """Sentences below Table 5."""
    return [
        "Per problem, means over problems and seeds that both methods solved; seconds are a problem's share of its "
        "batch. Ratio: ∇-Reasoner over Best-of-8, of totals, with its interval by bootstrap over problems. Peak memory "
        "is the process's largest up to then, which later methods inherit: no ratio.",
        f"Paper: totals over {PROMPTS} AMC prompts (arXiv 2603.04948) divided by {PROMPTS}, of other models on unknown "
        "hardware: only the ratio compares. ? unknown.",
        hardware(folder),
    ]


def format_row(row: Row) -> list[str]:
    """A row of Table 5 as text under `HEADER`."""

    def number(name: str, unknown: str = "") -> str:
        return unknown if row[name] is None else f"{row[name]:.3g}"

    interval = "" if row["ratio"] is None else f"{row['ci_low']:.3g} to {row['ci_high']:.3g}"
    return [
        row["policy"],
        row["task"],
        row["quantity"],
        number("best_of_n"),
        number("nabla_reasoner"),
        number("ratio"),
        interval,
        number("paper_best_of_n", "?"),
        number("paper_nabla_reasoner", "?"),
        number("paper_ratio", "?"),
        f"{row['num_problems']} x {row['num_seeds']}",
    ]


def table5(results: Path, scale: str, command: str) -> dict[str, str]:
    """Seconds, FLOPs, decoded tokens and memory."""
    rows = table_rows(results)
    body, own = [format_row(row) for row in rows], notes(results)
    return table_texts(tables.csv_text(COLUMNS, rows), HEADER, body, [*own, f"Made by {command}"])


def run(command: Command, settings: Mapping[str, str]) -> int:
    """Write the table; returns the exit status."""
    return write_result_table(command, settings, table5)
