"""Figures 1 and 2: rows computed on one cell, then the drawing and its caption."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..config.cell import Cell
from ..evaluation.results_folder import locked
from ..reporting import figures, tables
from ..reporting.frames import read_frame
from .command import Command, refusing
from .recording import Recording

Row = dict[str, Any]
Rows = dict[str, list[Row]]  # by table


def read_rows(folder: Path, target: str, names: Sequence[str]) -> list[pd.DataFrame]:
    """Return the tables TARGET_NAME.csv of a folder."""
    return [read_frame(folder / f"{target}_{name}.csv") for name in names]


def printable(text: str) -> str:
    """Return a text on one line: what cannot be printed, such as a line break, is escaped."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def write_case_figure(
    command: Command,
    cell: Cell,
    compute: Callable[[Cell], Rows],
    describe: Callable[[Rows, str, Cell], str],
    draw: Callable[..., Figure],
) -> int:
    """Write rows, figure and caption; return the exit status.

    Args:
        compute: rows by table; a ValueError refuses the command.
        describe: caption from rows, command line and cell.
        draw: figure from the tables, in the order of the rows.
    """
    target = command.target.name
    with refusing(), locked(Path(cell.results_dir, command.target.path(cell.scale_name))):
        rows = compute(cell)  # minutes: the folder is looked at before
    files = [*(f"{target}_{name}.csv" for name in rows), *(f"{target}.{kind}" for kind in ("png", "pdf", "md"))]
    scope = {"scale": cell.scale_name, "varied": {"seed": [cell.seed]}, "device": cell.device}
    with Recording(command, cell.content(), **scope, replaces=[*files, "summary.json"]) as recording:
        folder = recording.folder
        for name, table in rows.items():
            (folder / f"{target}_{name}.csv").write_text(tables.csv_text(list(table[0]), table), encoding="utf-8")
        figure = draw(*read_rows(folder, target, list(rows)))
        figures.save(figure, folder, target)
        plt.close(figure)
        caption = describe(rows, command.recipe, cell)
        (folder / f"{target}.md").write_text(caption, encoding="utf-8")
        print(caption)
        return recording.finish(tables=[f"{target}_{name}" for name in rows])
