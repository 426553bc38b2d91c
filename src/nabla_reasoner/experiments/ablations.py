"""Ablations: the sweeps over settings, the table and the figure."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from ..config import build
from ..config.cell import Cell
from ..config.sweeps import Sweep
from ..config.target_cells import AblationCell
from ..evaluation.provenance import mixed_versions
from ..reporting import ablations, figures, tables
from ..reporting.ablation_runs import load_runs
from ..reporting.ablations import COLUMNS, DEFAULT, HEADER, POOLED, format_row, notes, table_rows, table_settings
from ..reporting.frames import read_frame
from . import right_token, row_movement
from .cell_sweep import run_cells
from .command import Command, refusing
from .table1 import reward_note


def write(cell: AblationCell, note: str) -> None:
    """Write table.csv and table.md from the records on disk; each file is replaced as a whole.

    Args:
        cell: any cell of the command.
        note: a sentence about variant and reward model.
    """
    root, settings = Path(cell.folder), table_settings(cell)
    rows = table_rows(settings, {folder: load_runs(root / folder) for folder in {row.folder for row in settings}})
    if not rows:
        return
    parts = []
    for policy, task in dict.fromkeys((row["policy"], row["task"]) for row in rows):
        title = f"{policy}, all tasks together" if task == POOLED else f"{policy}, {task}"
        body = [format_row(row) for row in rows if (row["policy"], row["task"]) == (policy, task)]
        parts.append(f"## {title}\n\n{tables.markdown(HEADER, body)}")
    tables.replace_file(root / "table.csv", tables.csv_text(COLUMNS, rows))
    tables.replace_file(
        root / "table.md", "\n".join([*parts, *(f"{text}\n" for text in [*notes(rows), note, *mixed_versions(root)])])
    )


def figure_name(cell: Cell) -> str:
    """Return the figure's name in figures/."""
    return cell.experiment_name if cell.scale_name == "tiny" else f"{cell.experiment_name}-{cell.scale_name}"


def write_figure(folder: Path, name: str, command: str) -> None:
    """Draw table.csv as NAME.png, .pdf and .md in a folder; nothing if there is no table, as no cell has records."""
    if not (folder / "table.csv").exists():
        return
    table = read_frame(folder / "table.csv")
    if table.p_value.isna().all():
        return
    figure = ablations.differences(table)
    figures.save(figure, folder, name)
    plt.close(figure)
    (folder / f"{name}.md").write_text(
        "Each part of the method against the default ∇-Reasoner on the same problems, all tasks together: difference "
        "in accuracy with its 95 % interval (left), FLOPs as a multiple of the default's (right). Better or worse: the "
        "interval excludes zero, and the p-value, adjusted by Holm's method over all settings shown, is below 0.05.\n\n"
        f"Made by `{command}`; rows in data/{name.replace('-', '_')}.csv.\n",
        encoding="utf-8",
    )


def check(sweeps: Sequence[Sweep]) -> None:
    """Check names of tasks, and numbers of problems that settings ask for.

    Raises:
        ValueError: a task with the name of the rows over all tasks, or a file with fewer problems than a setting takes.
    """
    for cell in (cell for part in sweeps for cell in part.cells):
        if cell.task.name == POOLED:
            raise ValueError(f"task.name must not be {POOLED!r}, which names the rows over all tasks. Choose another.")
        if cell.task.path is None or cell.num_problems is None or cell.setting == DEFAULT:
            continue
        held = len(build.build_problems(cell.changed(num_problems=None)))
        if cell.num_problems > held:
            raise ValueError(
                f"{cell.task.path} must hold the {cell.num_problems} problems that the setting {cell.setting} takes; "
                f"got {held}. Write num_problems={held}, the most that every setting then takes."
            )


def run(command: Command, sweeps: Sequence[Sweep]) -> int:
    """Run every setting, measure right tokens and the movement of rows, and write table and figure."""
    with refusing():
        check(sweeps)
    first = sweeps[0].cells[0]

    def write_tables(cells: Sequence[Cell]) -> None:
        write(cells[0], reward_note(cells[0]))

    def finish(folder: Path) -> None:
        write_figure(folder, figure_name(first), command.recipe)
        if "right_token" in first.selected:
            right_token.write(sweeps[0], folder)
        if "row_movement" in first.selected:
            row_movement.write(sweeps[0], folder)

    return run_cells(command, sweeps, write_tables, finish)
