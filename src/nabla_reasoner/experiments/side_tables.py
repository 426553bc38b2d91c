"""Tables that a command measures beside its records, cell by cell: NAME.csv, NAME.md and NAME.settings.json.

A command that measures some cells leaves the rows of the others. NAME.settings.json says of each cell what its rows
were made with, and of which content of NAME.csv that is true.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import fingerprint
from ..config.cell import Cell
from ..evaluation.json_files import read_object, warn_once
from ..evaluation.outcomes import Row
from ..reporting import tables
from ..reporting.evidence import typed_rows

Settings = dict[str, Any]


class SideTable(NamedTuple):
    """A table.

    Attributes:
        name: of its files.
        keys: columns that name the cell of a row.
        columns: of NAME.csv.
        header: of NAME.md.
        format_row: returns a row as text, for the columns of the header.
        note: sentences below the table.
    """

    name: str
    keys: Sequence[str]
    columns: Sequence[str]
    header: Sequence[str]
    format_row: Callable[[Row], list[str]]
    note: str

    def cell_of(self, row: Row) -> str:
        """Return the name of a row's cell."""
        return " ".join(str(row[name]) for name in self.keys)

    def by_cell(self, folder: Path) -> dict[str, list[Row]]:
        """Return the rows of NAME.csv by cell; none if it is missing, or damaged, with a line that says so."""
        path = folder / f"{self.name}.csv"
        try:
            typed = typed_rows(path)
        except ValueError as error:
            warn_once(f"{path} is damaged and not read: {error}")
            return {}
        rows: dict[str, list[Row]] = {}
        for row in typed:
            rows.setdefault(self.cell_of(row), []).append(row)
        return rows


class Part(NamedTuple):
    """Rows of one cell, and the settings that they were made with."""

    rows: list[Row]
    settings: Settings


def settings_of(cell: Cell, num_problems: int) -> Settings:
    """Return what decides a cell's rows, which are of its first problems."""
    return fingerprint.fingerprint(cell) | {"num_problems": num_problems}


def write(table: SideTable, folder: Path, measured: Mapping[str, Part]) -> None:
    """Write the measured cells in the place of their earlier rows.

    The rows of other cells stay, unless they were made with another seed, precision or method: such rows are left out,
    with a line that names their cells.
    """
    if not measured:
        return
    path, made = folder / f"{table.name}.csv", _made(table, folder)
    unlike = {
        name
        for name, settings in made.items()
        if name not in measured and any(_differ(settings, part.settings) for part in measured.values())
    }
    if unlike:
        print(f"{path}: rows made with other settings are left out: {', '.join(sorted(unlike))}.")
    earlier = {name: rows for name, rows in table.by_cell(folder).items() if name not in unlike}
    if not earlier.keys() - measured.keys():
        earlier = {}  # a complete run has the order of its cells
    rows = earlier | {name: part.rows for name, part in measured.items()}
    tables.replace_file(path, tables.csv_text(table.columns, [row for part in rows.values() for row in part]))
    body = [table.format_row(row) for row in typed_rows(path)]
    tables.replace_file(folder / f"{table.name}.md", f"{tables.markdown(table.header, body)}\n{table.note}\n")
    cells = {name: settings for name, settings in made.items() if name not in unlike}
    cells |= {name: part.settings for name, part in measured.items()}
    content = {"sha256": fingerprint.data_digest(str(path)), "cells": cells}
    tables.replace_file(folder / f"{table.name}.settings.json", json.dumps(content, indent=1) + "\n")


def _differ(settings: Settings, others: Settings) -> bool:
    """Return whether two cells of one reward differ in more than policy and task; lengths differ by task."""
    first, second = ({"method": {}, "reward": {}, **json.loads(json.dumps(cell))} for cell in (settings, others))
    if first["reward"].get("name") != second["reward"].get("name"):
        return False
    for cell in (first, second):
        cell["method"].pop("max_new_tokens", None)
    return any(first.get(name) != second.get(name) for name in ("method", "seed", "dtype"))


def _made(table: SideTable, folder: Path) -> dict[str, Settings]:
    """Return the settings by cell; none if they are not those of the table as it is."""
    content = read_object(folder / f"{table.name}.settings.json") or {}
    digest, cells = fingerprint.data_digest(str(folder / f"{table.name}.csv")), content.get("cells")
    if digest is None or content.get("sha256") != digest or not isinstance(cells, dict):
        return {}
    return {name: settings for name, settings in cells.items() if isinstance(settings, dict)}


def gaps(table: SideTable, folder: Path, wanted: Mapping[str, Settings]) -> list[str]:
    """Return why a table is not of the wanted cells with their settings; nothing if it is.

    Args:
        wanted: settings by cell.
    """
    path, made = folder / f"{table.name}.csv", _made(table, folder)
    for name, settings in wanted.items():
        if name not in made:
            return [f"{path} has no rows that are known to be of {name}: measure it again"]
        changed = fingerprint.changes(made[name], json.loads(json.dumps(settings)))
        if changed:
            return [f"{path} has rows of {name} with other settings, {changed[0]}: measure it again"]
    others = sorted(table.by_cell(folder).keys() - wanted.keys())
    return [f"{path} has rows of another cell, {others[0]}: delete it, and measure again"] if others else []
