"""Table 5: seconds, FLOPs, decoded tokens and memory of ∇-Reasoner against Best-of-N, from the records of Table 1."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config.compose import compose_cells
from ..config.fingerprint import differing
from ..config.schema import choices
from ..config.settings import ResultsSettings
from ..config.targets import how_to_make
from ..evaluation.outcomes import Experiment, Row, RunKey
from ..evaluation.provenance import read_summary
from ..evaluation.records import CellKey
from ..evaluation.statistics import ratio_interval
from ..reporting import paper_numbers, tables
from ..reporting.method_names import BEST_OF_N, NABLA_REASONER, PREFIX
from ..reporting.tables import table_texts
from .command import Command
from .from_results import read_table1, write_result_table

FORMS = (NABLA_REASONER, PREFIX)  # each is compared with Best-of-N; the first is the paper's
QUANTITIES = {"seconds": "seconds", "flops": "FLOPs", "decode_tokens": "tokens", "peak_bytes": "bytes"}
COLUMNS = (
    "policy task method quantity best_of_n nabla_reasoner ratio ci_low ci_high paper_best_of_n paper_nabla_reasoner "
    "paper_ratio num_problems num_seeds note num_samples"
).split()
HEADER = (
    "policy",
    "task",
    "method",
    "quantity",
    "Best-of-N",
    "∇-Reasoner",
    "ratio",
    "95 % interval",
    "paper: Best-of-8",
    "paper: ∇-Reasoner",
    "paper: ratio",
    "problems x seeds",
)
PROMPTS = 83  # of AMC, which the paper's totals are over


def table_rows(folder: Path) -> list[Row]:
    """Return rows of `COLUMNS`: each quantity of each policy and task, over problems and seeds that both solved.

    `num_samples` is the N of Best-of-N; None if the records do not say it.

    Args:
        folder: results of a scale, with `table1/records`.

    Raises:
        ValueError: no policy and task has records of both methods with a problem and seed in common.
    """
    experiment = read_table1(folder)
    rows = []
    for policy, task in dict.fromkeys(key[:2] for key in experiment.records):
        for method in FORMS:
            rows += _cell_rows(experiment, policy, task, method)
    if not rows:
        raise ValueError(
            f"{folder / 'table1' / 'records'} must hold records of {BEST_OF_N} and {NABLA_REASONER}, each of one "
            f"setting, for a policy and task{_unmet(experiment)}. {how_to_make('table1', folder)}"
        )
    return rows


def _unmet(experiment: Experiment) -> str:
    """Return what the records have instead of two methods to compare."""
    for base in [key for key in experiment.records if key.method == BEST_OF_N]:
        for other in [base._replace(method=method) for method in FORMS]:
            if other in experiment.records:
                seeds = [", ".join(map(str, experiment.cells[key].seeds)) for key in (base, other)]
                return (
                    ", with problems and seeds that both solved; got no such problem and seed of "
                    f"{BEST_OF_N} (seeds {seeds[0]}) and {other.method} (seeds {seeds[1]})"
                )
    return f"; got {', '.join(sorted({key.method for key in experiment.records}))}"


def _cell_rows(experiment: Experiment, policy: str, task: str, method: str) -> list[Row]:
    cells = [CellKey(policy, task, name) for name in (BEST_OF_N, method)]
    base, ours = (
        {outcome.key: outcome.cost for outcome in experiment.records.get(cell, []) if outcome.ok} for cell in cells
    )
    keys, rows = sorted(base.keys() & ours.keys()), []
    size = experiment.cells[cells[0]].settings.get("method", {}).get("num_samples") if keys else None
    for quantity, unit in QUANTITIES.items() if keys else ():
        values = [[costs[key][quantity] for key in keys] for costs in (base, ours)]
        names = {"policy": policy, "task": task, "method": method, "quantity": quantity}
        row = names | _compared(keys, *values, quantity) | _paper_values(unit, method) | {"num_samples": size}
        partial = [f"{cell.method} {experiment.status(cell)}" for cell in cells if experiment.status(cell) != "ok"]
        rows.append(row | {"note": "; ".join(filter(None, [row["note"], *partial]))})
    return rows


def _paper_values(unit: str, method: str) -> Row:
    """Return the paper's values per prompt, and their ratio; None if it does not report both methods."""
    reported = {(cell["method"], cell["unit"]): cell["value"] for cell in paper_numbers.paper_cells("table5")}
    base, ours = (reported.get((name, unit)) for name in (BEST_OF_N, method))
    if base is None or ours is None:
        return dict.fromkeys(("paper_best_of_n", "paper_nabla_reasoner", "paper_ratio"))
    return {
        "paper_best_of_n": base / PROMPTS,
        "paper_nabla_reasoner": ours / PROMPTS,
        "paper_ratio": ours / base,
    }


def _compared(keys: Sequence[RunKey], base: Sequence[float | int], ours: Sequence[float | int], quantity: str) -> Row:
    problems = sorted({key.problem for key in keys})
    counts = {"num_problems": len(problems), "num_seeds": len({key.seed for key in keys}), "note": ""}
    if quantity == "peak_bytes":  # of a process that ran several methods: no quantity of single problems
        note = "largest of the process up to then, which later methods inherit"
        largest = {"best_of_n": max(base) or None, "nabla_reasoner": max(ours) or None}  # 0: not measured
        return {**largest, "ratio": None, "ci_low": None, "ci_high": None, **counts, "note": note}
    indices = {problem: index for index, problem in enumerate(problems)}
    totals = np.zeros((2, len(problems)))
    for key, denominator, numerator in zip(keys, base, ours, strict=True):
        totals[:, indices[key.problem]] += numerator, denominator
    ratio = ratio_interval(*totals)
    return {
        "best_of_n": float(np.mean(base)),
        "nabla_reasoner": float(np.mean(ours)),
        "ratio": ratio.value,
        "ci_low": ratio.low,
        "ci_high": ratio.high,
        **counts,
    }


def hardware(folder: Path) -> str:
    """Return a sentence on the machine of Table 1's run, from its summary.json."""
    run = read_summary(folder / "table1")
    config, peak = (run.get("config"), run.get("peak_bytes")) if run else (None, None)
    if not config:
        return "Hardware: unknown, there is no summary.json."
    threads = "torch's own number of" if config["threads"] is None else config["threads"]
    text = f"Hardware: {run['device']}, {run['count']} visible; device {config['device']}, {config['dtype']}, "
    text += f"{threads} threads, up to {config.get('workers', 1)} cells side by side, batches of {config['batch_size']}"
    return text + (f"; peak of the whole run {peak / 2**20:.0f} MiB." if peak else ".")


@functools.cache
def _defaults(scale: str, task: str) -> dict[str, dict[str, Any]]:
    """Return the settings that the compared methods have on a task by default, by method.

    None of them have any where the task needs a setting that has no default.
    """
    words = ["experiment=table1", f"scale={scale}", f"task={task}", f"method={','.join((BEST_OF_N, *FORMS))}", "seed=0"]
    try:
        contents = [cell.method.content() for cell in compose_cells(words)]
    except ValueError:
        return {}
    return {content["name"]: json.loads(json.dumps(content)) for content in contents}


def changed_settings(experiment: Experiment, scale: str) -> list[str]:
    """Return a sentence on the settings of the compared methods that are not the scale's defaults; none if all are."""
    changed: dict[str, None] = {}
    for key, cell in experiment.cells.items():
        if key.method not in (BEST_OF_N, *FORMS) or cell.names.task not in choices("task"):
            continue
        used, default = cell.settings.get("method", {}), _defaults(scale, cell.names.task).get(key.method, {})
        for name in differing(used, default, but=()):
            changed[f"{key.method} {name}={used[name]} (default {default[name]})"] = None
    return [f"Settings other than the defaults: {', '.join(changed)}."] if changed else []


def notes(folder: Path, scale: str) -> list[str]:
    """Return the sentences below the table."""
    experiment = read_table1(folder)
    return [
        "Per problem, means over problems and seeds that both methods solved; seconds are a problem's share of its "
        "batch. Ratio: ∇-Reasoner over Best-of-N, of totals, with its interval by bootstrap over problems. Peak memory "
        "is the process's largest up to then, which later methods inherit: no ratio.",
        f"Paper: totals over {PROMPTS} AMC prompts (arXiv 2603.04948) divided by {PROMPTS}, of other models on unknown "
        "hardware: only the ratio compares. ? unknown.",
        *changed_settings(experiment, scale),
        hardware(folder),
        *experiment.notes(),
    ]


def format_row(row: Row) -> list[str]:
    """Format a row under `HEADER`."""

    def number(name: str, unknown: str = "") -> str:
        return unknown if row[name] is None else f"{row[name]:.3g}"

    interval = "" if row["ci_low"] is None else f"{row['ci_low']:.3g} to {row['ci_high']:.3g}"
    return [
        row["policy"],
        row["task"],
        row["method"],
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
    """Return the texts of the table's files, by name."""
    rows = table_rows(results)
    body, below = [format_row(row) for row in rows], [*notes(results, scale), f"Made by {command}"]
    return table_texts(tables.csv_text(COLUMNS, rows), HEADER, body, below)


def run(command: Command, settings: ResultsSettings) -> int:
    """Write the table; return the exit status."""
    return write_result_table(command, settings, table5)
