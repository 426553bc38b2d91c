"""Figures 1 and 2: rows computed on one cell, then the drawing and its caption."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..config.schema import Cell
from ..reporting import figures, tables
from .command import Command, Recording, refusing

Rows = dict[str, list[dict[str, Any]]]

# Tokens are text, also if they look like numbers.
TEXT = dict.fromkeys(("own", "best", "dto", "one_by_one", "first", "second", "tokens", "token", "old", "new"), str)


def read_rows(folder: Path, target: str, names: Sequence[str]) -> list[pd.DataFrame]:
    """Return the tables TARGET_NAME.csv of a folder."""
    return [pd.read_csv(folder / f"{target}_{name}.csv", dtype=TEXT) for name in names]


def write_case_figure(
    command: Command,
    cell: Cell,
    make: Callable[[Cell], Rows],
    describe: Callable[[Rows, str, Cell], str],
    draw: Callable[..., Figure],
) -> int:
    """Write rows, figure and caption; with no settings they are copied to figures/; returns the exit status."""
    target = command.target.name
    with refusing():
        rows = make(cell)
    varied = {"seed": [cell["seed"]]}
    with Recording(command, cell, scale=cell["scale_name"], varied=varied, device=cell["device"]) as recording:
        folder = recording.folder
        for name, part in rows.items():
            (folder / f"{target}_{name}.csv").write_text(tables.csv_text(list(part[0]), part), encoding="utf-8")
        figure = draw(*read_rows(folder, target, list(rows)))
        figures.save(figure, folder, target)
        plt.close(figure)
        caption = describe(rows, command.line, cell)
        (folder / f"{target}.md").write_text(caption, encoding="utf-8")
        if not command.overrides:
            figures.exhibit(folder, target, recording.gallery())
        print(caption)
        return recording.finish(tables=[f"{target}_{name}" for name in rows])
