"""The paper's reported numbers and settings (`paper.yaml`)."""

import functools
import importlib.resources
from collections.abc import Sequence
from typing import Any

import yaml
from omegaconf import OmegaConf

from ..config.schema import CONFIGS
from ..evaluation.outcomes import Row


def paper_name(group: str, name: str) -> str | None:
    """What the paper's cell beside ours is called, as policy/*.yaml and task/*.yaml say; None for other names."""
    file = CONFIGS / group / f"{name}.yaml"
    return OmegaConf.load(file).get("paper") if file.exists() else None


@functools.cache
def released_settings() -> dict[str, dict[str, Any]]:
    """The released scripts' settings by benchmark, the common ones included."""
    text = importlib.resources.files(__package__).joinpath("paper.yaml").read_text(encoding="utf-8")
    known = yaml.safe_load(text)["released_settings"]
    repeats = known["intended_repeats"]
    return {task: {**known["common"], **known[task], "repeats": count} for task, count in repeats.items()}


def paper_cells(table: str = "table1") -> list[Row]:
    """The paper's reported cells of one table, from the package's `paper.yaml`; unknown values are None."""
    text = importlib.resources.files(__package__).joinpath("paper.yaml").read_text(encoding="utf-8")
    return [cell for cell in yaml.safe_load(text)["cells"] if cell["table"] == table]


def paper_value(row: Row, paper: Sequence[Row]) -> tuple[float | None, str]:
    """The paper's number for a row of the grid, and where it is known from (or why there is none)."""
    policy, benchmark = row["paper_cell"]["policy"], row["paper_cell"]["benchmark"]
    method = row["paper_cell"].get("method", row["method"])
    match = [c for c in paper if (c["policy"], c["benchmark"], c["method"]) == (policy, benchmark, method)]
    if not match:
        return None, "not in the paper"
    cell, pairs = match[0], {"policy": (row["policy"], policy), "task": (row["task"], benchmark)}
    other = [name for name, (ours, theirs) in pairs.items() if ours != theirs]
    where = f"{policy}, {benchmark}" + (f"; another {' and '.join(other)} than ours" if other else "")
    if cell["value"] is None:
        return None, f"unknown ({where})" if cell["note"] is None else f"unknown: {cell['note']} ({where})"
    return cell["value"], f"{cell['source']} ({where})"
