"""Table 1: accuracy and cost of every method beside the paper's Table 1."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..config.cell import Cell
from ..config.schema import ROOT
from ..config.sweeps import Sweep
from ..evaluation.outcomes import Row, lineage, load_outcomes, start_policies
from ..evaluation.records import CellKey, stored_cells, stored_seed
from ..reporting import paper_numbers
from ..reporting.accuracy_table import COLUMNS, HEADER, NOTE, format_row, table_rows
from ..reporting.comparisons import COMPARED, COMPARISON_COLUMNS, comparison_rows, format_comparisons
from ..reporting.figures import legend_below
from ..reporting.method_names import METHODS, STYLES
from ..reporting.paper_numbers import paper_cells
from ..reporting.tables import csv_text, latex, markdown, replace_file
from .cell_sweep import run_cells
from .command import Command


def accuracy_against_flops(table: pd.DataFrame) -> Figure:
    """Draw accuracy with its 95 % interval against mean FLOPs per problem; one panel per policy and task.

    A policy improved by training is a point in the panels of the policy it started from, if that has panels.

    Args:
        table: rows of `table.csv` (columns policy, task, method, accuracy, ci_low, ci_high in percent, flops).

    Raises:
        ValueError: no row holds a result.
    """
    done = table.dropna(subset=["accuracy", "flops"])
    if done.empty:
        raise ValueError("a figure needs at least one finished row; got none. Run ./reproduce.sh table1 first.")
    policies, tasks = start_policies(done.policy), list(dict.fromkeys(done.task))
    figure, panels = plt.subplots(
        len(policies),
        len(tasks),
        figsize=(3.4 * len(tasks), 2.8 * len(policies) + 0.6),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for policy, row in zip(policies, panels, strict=True):
        for task, panel in zip(tasks, row, strict=True):
            for method, style in STYLES.items():
                cell = done[(done.policy == policy) & (done.task == task) & (done.method == method)]
                if len(cell):
                    low, high = cell.accuracy - cell.ci_low, cell.ci_high - cell.accuracy
                    panel.errorbar(
                        cell.flops,
                        cell.accuracy,
                        yerr=[low, high],
                        label=style.label,
                        color=style.colour,
                        marker=style.marker,
                        markersize=9 if style.marker in "*P" else 6,
                        linestyle="none",
                        capsize=2,
                    )
            panel.set_xscale("log")
            panel.set_title(f"{policy}, {task}", fontsize=9)
            panel.grid(alpha=0.3)
    for panel in panels[-1]:
        panel.set_xlabel("FLOPs per problem (policy and reward)")
    for row in panels:
        row[0].set_ylabel("accuracy, %")
    legend_below(figure, ncol=4)
    return figure


def reward_note(cell: Cell) -> str:
    """Return a sentence on the reward model: its kind and, if it was measured, its own accuracy on the problems."""
    reward = cell.reward
    note = f"Variant {cell.variant.name}. Reward {reward.name}: kind {reward.kind}, {reward.path}"
    manifest = reward.manifest
    if manifest and (ROOT / manifest["file"]).is_file():
        entry = json.loads((ROOT / manifest["file"]).read_text(encoding="utf-8"))["models"][manifest["entry"]]
        accuracies = ", ".join(f"{task} {value} %" for task, value in entry["greedy_accuracy"].items())
        return f"{note}; its own greedy accuracy: {accuracies} (the same reward serves every method)."
    return f"{note}."


def table_grid(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the table's rows, each with its seeds and the paper's cell beside it.

    There is a row for every policy, task and method of this command, and for all that earlier commands left records of:
    a narrowed command does not remove rows from the table. The greedy row of a policy improved by training is also the
    row `sft` or `grpo` of the policy it started from. Methods that the scale calls absent have a row that says why.
    """
    first = cells[0]
    seeds: dict[CellKey, set[int]] = {}
    for cell in cells:
        if not cell.budget:
            key = CellKey(cell.policy.name, cell.task.name, cell.method.name)
            seeds.setdefault(key, set()).add(cell.seed)
    for key, paths in stored_cells(Path(first.records, "records")).items():
        seeds.setdefault(key, set()).update(map(stored_seed, paths))
    for key, values in list(seeds.items()):
        origin = lineage(key.policy)
        if key.method == "greedy" and origin is not None:
            seeds.setdefault(CellKey(origin.base, key.task, origin.trained_by), set()).update(values)
    absent = first.absent if first.experiment_name == "table1" else {}
    starts = {cell.policy.name for cell in cells} & set(first.grid["policy"].split(","))
    for policy, task in {key[:2] for key in seeds if key.policy in starts}:
        for method in absent:
            seeds.setdefault(CellKey(policy, task, method), set())
    policies, tasks = (
        {getattr(cell, group).name: getattr(cell, group).paper for cell in cells} for group in ("policy", "task")
    )
    rows = []
    for key in sorted(seeds, key=lambda key: (key[:2], METHODS.index(key.method))):
        policy, task, method = key
        paper = {
            "policy": policies.get(policy, paper_numbers.paper_name("policy", policy)),
            "benchmark": tasks.get(task, paper_numbers.paper_name("task", task)),
        }
        if first.experiment_name == "table2":
            paper["method"] = f"{method}_{first.reward.paper}"  # the paper's columns are the reward's sizes
        names = {"policy": policy, "task": task, "method": method}
        row = {**names, "seeds": sorted(seeds[key]), "paper_cell": paper}
        rows.append({**row, "absent": absent.get(method, "not run")})
    return rows


def write_table(folder: Path, *, grid: Sequence[Row], table: str = "table1", notes: Sequence[str] = ()) -> None:
    """Write `table.csv`, `table.md`, `table.tex` and `comparisons.csv` from the records in `folder`.

    May be called at any time: cells that were not run say so, and each file is replaced as a whole.

    Args:
        folder: the experiment's folder, with `records/` and possibly `budget/`.
        grid: see `accuracy_table`.
        table: the paper's table that is printed beside ours.
        notes: sentences printed below the table, e.g. the reward model's kind and accuracy.
    """
    records, pools = load_outcomes(folder / "records"), load_outcomes(folder / "budget")
    rows = table_rows(records, grid, paper_cells(table))
    comparisons = comparison_rows(records, pools, grid)
    replace_file(folder / "table.csv", csv_text(COLUMNS, rows))
    replace_file(folder / "comparisons.csv", csv_text(COMPARISON_COLUMNS, comparisons))
    sources = list(dict.fromkeys(row["paper_source"] for row in rows if row["paper_value"] is not None))
    notes = [NOTE, *notes, *(f"[{i}] {source}" for i, source in enumerate(sources, start=1))]
    body = [format_row(row, sources) for row in rows]
    text = markdown(HEADER, body) + "".join(f"\n{note}\n" for note in notes)
    compared = format_comparisons(comparisons)
    if compared:
        text += f"\nDifference in points [95 % interval], p-value and verdict:\n\n{markdown(COMPARED, compared)}"
    replace_file(folder / "table.md", text)
    replace_file(folder / "table.tex", latex(HEADER, body, notes))


def run(command: Command, sweeps: Sequence[Sweep]) -> int:
    """Run every cell and write the table; return the exit status."""
    from .table2 import write_tables

    return run_cells(command, sweeps, write_tables)
