"""The paper's reported numbers and settings (`paper.yaml`)."""

import functools
import importlib.resources
from collections.abc import Sequence
from typing import Any

import yaml

from ..config.schema import choice_file
from ..evaluation.outcomes import Row


def paper_name(group: str, name: str) -> str | None:
    """Return the name of the paper's policy or benchmark beside ours, as configs/GROUP/NAME.yaml says; None if none."""
    return choice_file(group, name).get("paper")


@functools.cache
def _paper() -> dict[str, Any]:
    text = importlib.resources.files(__package__).joinpath("paper.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def released_settings() -> dict[str, dict[str, Any]]:
    """Return the released scripts' settings by benchmark, including the common ones."""
    settings = _paper()["released_settings"]
    repeats = settings["intended_repeats"]
    return {task: {**settings["common"], **settings[task], "repeats": count} for task, count in repeats.items()}


def paper_cells(table: str = "table1") -> list[Row]:
    """Return the paper's reported cells of one table; unknown values are None."""
    return [cell for cell in _paper()["cells"] if cell["table"] == table]


def paper_value(row: Row, paper: Sequence[Row]) -> tuple[float | None, str]:
    """Return the paper's number for a row of the grid and its source, or None and the reason.

    Args:
        row: of the grid, see `accuracy_table`.
        paper: cells, as from `paper_cells`.
    """
    policy, benchmark = row["paper_cell"]["policy"], row["paper_cell"]["benchmark"]
    key = policy, benchmark, row["paper_cell"].get("method", row["method"])
    cell = next((cell for cell in paper if (cell["policy"], cell["benchmark"], cell["method"]) == key), None)
    if cell is None:
        return None, "not in the paper"
    pairs = {"policy": (row["policy"], policy), "task": (row["task"], benchmark)}
    other = [name for name, (ours, theirs) in pairs.items() if ours != theirs]
    where = f"{policy}, {benchmark}" + (f"; another {' and '.join(other)} than ours" if other else "")
    if cell["value"] is None:
        return None, f"unknown ({where})" if cell["note"] is None else f"unknown: {cell['note']} ({where})"
    return cell["value"], f"{cell['source']} ({where})"
