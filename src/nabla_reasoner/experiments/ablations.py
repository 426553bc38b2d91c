"""Ablations: the sweeps over settings, the table and the figure."""

import shutil
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from ..config.compose import compose_cells
from ..config.schema import Cell
from ..reporting import ablations, figures, tables
from ..reporting.ablation_runs import load_runs
from ..reporting.ablations import COLUMNS, HEADER, POOLED, format_row, notes, table_rows, table_settings


def write(cell: dict[str, Any], note: str) -> None:
    """Write table.csv and table.md from the records on disk; each file is replaced as a whole.

    Args:
        cell: any cell of the command.
        note: a sentence about variant and reward model.
    """
    root, settings = Path(cell["folder"]), table_settings(cell)
    rows = table_rows(settings, {folder: load_runs(root / folder) for folder in {row.folder for row in settings}})
    if not rows:
        return
    parts = []
    for policy, task in dict.fromkeys((row["policy"], row["task"]) for row in rows):
        title = f"{policy}, all tasks together" if task == POOLED else f"{policy}, {task}"
        body = [format_row(row) for row in rows if (row["policy"], row["task"]) == (policy, task)]
        parts.append(f"## {title}\n\n{tables.markdown(HEADER, body)}")
    tables.replace_file(root / "table.csv", tables.csv_text(COLUMNS, rows))
    tables.replace_file(root / "table.md", "\n".join([*parts, *(f"{text}\n" for text in [*notes(rows), note])]))


def figure_name(cell: dict[str, Any]) -> str:
    """Return the figure's name in figures/."""
    return "ablations" if cell["scale_name"] == "tiny" else f"ablations-{cell['scale_name']}"


def write_figure(folder: Path, name: str, command: str, gallery: Path | None) -> None:
    """Draw table.csv as NAME.png, .pdf and .md in a folder, and copy them to `gallery` unless that is None."""
    table = pd.read_csv(folder / "table.csv")
    if table.p_value.isna().all():
        return
    figure = ablations.differences(table)
    figures.save(figure, folder, name)
    plt.close(figure)
    (folder / f"{name}.md").write_text(
        "Each part of the method against the default ∇-Reasoner on the same problems, all tasks together: difference "
        "in accuracy with its 95 % interval (left), FLOPs as a multiple of the default's (right). Better or worse: the "
        "interval excludes zero, and the p-value, adjusted by Holm's method over all settings shown, is below 0.05.\n\n"
        f"Made by `{command}`; rows in data/{name}.csv.\n",
        encoding="utf-8",
    )
    if gallery is not None:
        figures.exhibit(folder, name, gallery)
        shutil.copyfile(folder / "table.csv", gallery / "data" / f"{name}.csv")
        if (folder / "right_token.csv").exists():
            shutil.copyfile(folder / "right_token.csv", gallery / "data" / f"{name}_right_token.csv")


def ablated(main_phase: list[str], cells: list[Cell]) -> list[tuple[list[str], list[Cell]]]:
    """Return a sweep for the default, which all are compared with, and for each setting that `only` or its group names.

    Raises:
        ValueError: `only` is not a list of groups and settings.
    """
    first, result = cells[0], [(main_phase, cells)]
    groups = first["settings"]
    wanted = list(groups) if first["only"] is None else first["only"]
    known = [*groups, *(name for group in groups.values() for name in group)]
    if not isinstance(wanted, list) or not wanted or not set(wanted) <= set(known):
        unknown = [name for name in wanted if name not in known] if isinstance(wanted, list) else wanted
        raise ValueError(f"only must be a list of {', '.join(known)}; got {unknown}. Write only=[flip,lambda].")
    for group, settings in groups.items():
        for name, changes in settings.items():
            if group in wanted or name in wanted:
                changes = dict(changes)
                if "num_problems" in changes and first["num_problems"] is not None:
                    changes["num_problems"] = min(changes["num_problems"], first["num_problems"])
                overrides = [*main_phase, f"setting={name}", *(f"{key}={value}" for key, value in changes.items())]
                result.append((overrides, compose_cells(overrides)))
    return result
