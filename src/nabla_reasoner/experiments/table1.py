"""Table 1: accuracy and cost of every method beside the paper's Table 1."""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..config import fingerprint
from ..config.cell import Cell
from ..config.data_folder import locate
from ..config.schema import choice_file
from ..config.sweeps import Sweep
from ..evaluation.cell_records import record_file
from ..evaluation.lineage import improved_policy, lineage, start_policies, training_flops
from ..evaluation.outcomes import Experiment, Row, read_experiment
from ..evaluation.record_files import RecordFile
from ..evaluation.records import CellKey
from ..evaluation.stored_cells import Cells, StoredCell
from ..json_text import parse_json
from ..reporting import paper_numbers
from ..reporting.accuracy_table import COLUMNS, HEADER, NOTE, format_row, table_rows, training_notes
from ..reporting.comparisons import COMPARED, COMPARISON_COLUMNS, comparison_rows, format_comparisons
from ..reporting.evidence import typed_rows
from ..reporting.figures import legend_below, save
from ..reporting.method_names import STYLES, TRAINED, rank
from ..reporting.paper_numbers import paper_cells
from ..reporting.tables import csv_text, latex, markdown, one_line, replace_file
from .cell_sweep import run_cells
from .command import Command

DRAWN = ("policy", "task", "method", "accuracy", "ci_low", "ci_high", "flops")  # columns that the figure needs


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
        figsize=(3.4 * len(tasks), 2.7 * len(policies)),
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
                        markeredgewidth=1.8 if style.marker in "1234x+" else 1.0,
                        linestyle="none",
                        capsize=2,
                    )
            panel.set_xscale("log")
            panel.set_title(f"{policy}, {task}", fontsize=9, parse_math=False)
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
    note = f"Variant {cell.variant.name}. {_reward_sentence(reward.name, reward.kind, reward.path)}"
    shipped = choice_file("reward", reward.name).get("path") == reward.path  # a manifest is of the shipped model
    manifest = reward.manifest if shipped else None
    file = Path(locate(manifest["file"])) if manifest else None
    if file is not None and file.is_file():
        entry = parse_json(file.read_text(encoding="utf-8"))["models"][manifest["entry"]]
        accuracies = ", ".join(f"{task} {value} %" for task, value in entry["greedy_accuracy"].items())
        return f"{note}; its own greedy accuracy: {accuracies} (the same reward serves every method)."
    return f"{note}."


def _reward_sentence(name: str | None, kind: str | None, path: str | None) -> str:
    return f"Reward {name}: kind {kind}, {path}"


def planned_files(cells: Sequence[Cell]) -> list[RecordFile]:
    """Return the record files that these cells will have, with their settings."""
    files = []
    for cell in cells:
        names = CellKey(cell.policy.name, cell.task.name, cell.method.name)
        settings = json.loads(json.dumps(fingerprint.fingerprint(cell)))
        files.append(RecordFile(record_file(cell), names, cell.seed, settings))
    return files


def table_grid(cells: Sequence[Cell], stored: Cells) -> list[Row]:
    """Return the table's rows, each with its seeds and the paper's cell beside it.

    There is a row for every policy, task and method of this command, and for all that earlier commands left records of:
    a narrowed command does not remove rows from the table. The greedy row of a policy improved by training is also the
    row `sft` or `grpo` of the policy it started from. Methods that the scale calls absent have a row that says why.

    Args:
        cells: of the command.
        stored: the experiment's cells, those of the command among them.
    """
    first, sources = cells[0], dict(stored)
    greedy: dict[str, list[str]] = {}  # policies by task
    for key in stored:
        if key.method == "greedy":
            greedy.setdefault(key.task, []).append(key.policy)
    for task, names in greedy.items():
        for origin in {lineage(name) for name in names} - {None}:
            policy = improved_policy(*origin, names)
            if policy is not None:
                cell = stored[CellKey(policy, task, "greedy")]
                sources.setdefault(CellKey(origin.base, task, origin.trained_by), cell)
    absent = first.absent if first.experiment_name == "table1" else {}
    starts = {cell.policy.name for cell in cells} & set(first.grid["policy"].split(","))
    for key, cell in list(sources.items()):
        for method in absent if key.policy in starts else ():
            sources.setdefault(key._replace(method=method), StoredCell(cell.names._replace(method=method), []))
    policies, tasks = (
        {getattr(cell, group).name: getattr(cell, group).paper for cell in cells} for group in ("policy", "task")
    )
    rows = []
    for key in sorted(sources, key=lambda key: (key[:2], rank(key.method))):
        names, seeds = sources[key].names, sources[key].seeds
        paper = {
            "policy": policies.get(key.policy, paper_numbers.paper_name("policy", key.policy)),
            "benchmark": tasks.get(names.task, paper_numbers.paper_name("task", names.task)),
        }
        if first.experiment_name == "table2":
            paper["method"] = f"{key.method}_{first.reward.paper}"  # the paper's columns are the reward's sizes
        row = {**key._asdict(), "seeds": seeds, "paper_cell": paper, "expected": sources[key].expected(seeds)}
        policy = improved_policy(key.policy, key.method, greedy.get(key.task, [])) or key.policy
        spent = training_flops(policy) if key.method in ("greedy", *TRAINED) else None
        rows.append({**row, "absent": absent.get(key.method, "not run"), "training_flops": spent})
    return rows


def source_notes(cells: Sequence[Cell], stored: Sequence[Cells]) -> list[str]:
    """Return sentences on variant and rewards of the command's cells, and on those of earlier ones."""
    notes = {(cell.reward.name, cell.reward.kind, cell.reward.path): reward_note(cell) for cell in cells}
    tasks = {key: {cell.task.name for cell in cells if cell.reward.path == key[2]} for key in notes}
    for cell in (cell for part in stored for cell in part.values() if "reward" in cell.settings):
        key = tuple(cell.settings["reward"].get(name) for name in ("name", "kind", "path"))
        notes.setdefault(key, f"{_reward_sentence(*key)}.")
        tasks.setdefault(key, set()).add(cell.names.task)
    names = [name for name, *_ in notes]
    lines = [
        f"{note} Tasks: {', '.join(sorted(tasks[key]))}." if names.count(key[0]) > 1 else note
        for key, note in notes.items()
    ]
    variants = [cell.settings.get("method", {}).get("variant") for part in stored for cell in part.values()]
    earlier = sorted({name for name in variants if name is not None} - {cell.variant.name for cell in cells})
    if earlier:
        lines.append(f"Earlier records are of variant {', '.join(earlier)}.")
    return lines


def write_table(
    folder: Path,
    *,
    grid: Sequence[Row],
    table: str = "table1",
    notes: Sequence[str] = (),
    experiment: Experiment | None = None,
) -> None:
    """Write `table.csv`, `table.md`, `table.tex` and `comparisons.csv` from the records in `folder`.

    May be called at any time: cells that were not run say so, and each file is replaced as a whole.

    Args:
        folder: the experiment's folder, with `records/` and possibly `budget/`.
        grid: see `accuracy_table`.
        table: the paper's table that is printed beside ours.
        notes: sentences printed below the table, e.g. the reward model's kind and accuracy.
        experiment: outcomes by the names in the grid; None reads the folder.
    """
    experiment = experiment or read_experiment(folder)
    rows = table_rows(experiment.records, grid, paper_cells(table))
    comparisons = comparison_rows(experiment.records, experiment.pools, grid)
    replace_file(folder / "table.csv", csv_text(COLUMNS, rows))
    replace_file(folder / "comparisons.csv", csv_text(COMPARISON_COLUMNS, comparisons))
    sources = list(dict.fromkeys(row["paper_source"] for row in rows if row["paper_value"] is not None))
    notes = [
        NOTE,
        *notes,
        *training_notes(rows),
        *experiment.notes(),
        *(f"[{i}] {source}" for i, source in enumerate(sources, start=1)),
    ]
    body = [format_row(row, sources) for row in rows]
    text = markdown(HEADER, body) + "".join(f"\n{one_line(note)}\n" for note in notes)
    compared = format_comparisons(comparisons)
    if compared:
        text += f"\nDifference in points [95 % interval], p-value and verdict:\n\n{markdown(COMPARED, compared)}"
    replace_file(folder / "table.md", text)
    replace_file(folder / "table.tex", latex(HEADER, body, notes))


def draw_table(source: Path, folder: Path) -> Path | None:
    """Draw accuracy against FLOPs from a table.csv as table1.png and .pdf of a folder; None without a finished row.

    Raises:
        ValueError: the file lacks a column of `DRAWN`, or has a text in place of a number.
    """
    rows = [{**row, **{column: row[column] for column in DRAWN}} for row in typed_rows(source)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    if table.dropna(subset=["accuracy", "flops"]).empty:
        return None
    figure = accuracy_against_flops(table)
    save(figure, folder, "table1")
    plt.close(figure)
    return folder / "table1.png"


def run(command: Command, sweeps: Sequence[Sweep]) -> int:
    """Run every cell and write the table; return the exit status."""
    from .table2 import write_tables

    return run_cells(command, sweeps, write_tables)
