"""Settings of the methods compared on validation problems, and which of them are chosen."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..config.sweeps import Sweep
from ..config.target_cells import AblationCell
from ..evaluation.outcomes import Row
from ..evaluation.provenance import mixed_versions
from ..evaluation.stored_cells import split_suffix
from ..reporting import ablations, tables
from ..reporting.ablation_runs import load_runs
from ..reporting.ablations import DEFAULT, POOLED
from .cell_sweep import run_cells
from .command import Command
from .table1 import reward_note

COLUMNS = [*ablations.COLUMNS, "mean_accuracy", "chosen"]
HEADER = (
    *("method", "setting", "accuracy, %, over all cells", "minus Best-of-N, by policy", "FLOPs / Best-of-N"),
    *("problems", ""),
)
OTHER_PROBLEMS = "other problems or seeds than Best-of-N's"
NOTE = (
    "Validation problems; test problems are never read here. Accuracy: mean over policies and tasks. The setting of "
    "highest accuracy is chosen for each method (of equal ones the cheapest), if every cell was run."
)


def mark_chosen(rows: Sequence[Row]) -> list[Row]:
    """Add to each row its setting's mean accuracy over all cells, and whether it is chosen.

    The mean is over the rows of one task each. Settings with an unfinished cell, or with fewer problems or seeds than
    the default, have no mean and are not chosen.
    """
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["task"] != POOLED:
            cells.setdefault((row["group"], row["setting"]), []).append(row)
    sizes = {(row["policy"], row["task"]): row.get("num_runs") for row in rows if row["group"] == DEFAULT}
    complete = {
        key: part
        for key, part in cells.items()
        if all(row["status"] == "ok" and row.get("num_runs") == sizes.get((row["policy"], row["task"])) for row in part)
    }
    means = {key: float(np.mean([row["accuracy"] for row in part])) for key, part in complete.items()}
    flops = {key: _mean_flops(part) for key, part in complete.items()}
    best = {
        group: max((key for key in means if key[0] == group), key=lambda key: (means[key], -flops[key]))
        for group in {group for group, _ in means} - {DEFAULT}
    }
    return [
        row
        | {
            "mean_accuracy": means.get((row["group"], row["setting"])),
            "chosen": best.get(row["group"]) == (row["group"], row["setting"]),
        }
        for row in rows
    ]


def _mean_flops(rows: Sequence[Row]) -> float:
    """Return the mean cost of a setting; infinite if it solved no problem of a cell, so that any other is cheaper."""
    return float(np.mean([math.inf if row["flops"] is None else row["flops"] for row in rows]))


def format_settings(rows: Sequence[Row]) -> list[list[str]]:
    """Format one line per setting under `HEADER`."""
    lines = []
    for group, setting in dict.fromkeys((row["group"], row["setting"]) for row in rows):
        part = [row for row in rows if (row["group"], row["setting"]) == (group, setting)]
        pooled = [row for row in part if row["task"] == POOLED] or part
        mean = part[0]["mean_accuracy"]
        differences = ", ".join(f"{row['difference']:+.1f}" for row in pooled if row["difference"] is not None)
        ratios = ", ".join(f"{row['flops_ratio']:.2f}" for row in pooled if row["flops_ratio"] is not None)
        status = "chosen" if part[0]["chosen"] else ""
        unfinished = next((row["status"] for row in part if row["status"] != "ok"), OTHER_PROBLEMS)
        told = unfinished if mean is None else f"{mean:.1f}"
        problems = ", ".join(dict.fromkeys(str(row["num_problems"] or 0) for row in part if row["task"] != POOLED))
        lines.append([group, setting, told, differences, ratios, problems, status])
    return lines


def write(cell: AblationCell) -> None:
    """Write table.csv and table.md from the records on disk; each file is replaced as a whole.

    Args:
        cell: any cell of the command.
    """
    root, settings = Path(cell.folder), ablations.table_settings(cell)
    loaded = {folder: load_runs(root / folder) for folder in {setting.folder for setting in settings}}
    suffix = split_suffix(cell.split)  # of every row, and said below the table
    rows = [{**row, "task": row["task"].removesuffix(suffix)} for row in ablations.table_rows(settings, loaded)]
    rows = mark_chosen(rows)
    if not rows:
        return
    tables.replace_file(root / "table.csv", tables.csv_text(COLUMNS, rows))
    body = tables.markdown(HEADER, format_settings(rows))
    notes = [f"{text}\n" for text in [NOTE, reward_note(cell), *mixed_versions(root)]]
    tables.replace_file(root / "table.md", "\n".join([body, *notes]))


def run(command: Command, sweeps: Sequence[Sweep]) -> int:
    """Run every setting on validation problems, and write the table; return the exit status."""
    return run_cells(command, sweeps, lambda cells: write(cells[0]))
