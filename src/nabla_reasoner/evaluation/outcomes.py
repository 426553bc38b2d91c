"""Records as outcomes by cell: which cells a folder holds, and their means."""

import bisect
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .records import Outcome, read_outcomes, record_path, stored_cells


def mean_point(outcome: Outcome, size: float | int) -> tuple | None:
    """(model calls, FLOPs, seconds, correct) of a run that may use at most `size` rollouts; None for a failure.

    A run that ended with fewer is charged in full, what it spent after its last rollout included; one that reached
    `size` stops there. One whose first entry takes more than `size` is charged that entry.
    """
    if not outcome.ok:
        return None
    if outcome.steps[-1][0] < size:
        cost = outcome.cost
        return cost["model_calls"], cost["flops"], cost["seconds"], outcome.correct
    at = max(bisect.bisect_right(outcome.steps, size, key=operator.itemgetter(0)) - 1, 0)
    return outcome.steps[at][1:]


def read_cells(folder: Path) -> dict[tuple[str, str, str], list[Outcome]]:
    """Outcomes of every cell of a folder of records.

    Raises:
        ValueError: no records there.
    """
    cells = {key: [o for path in paths for o in read_outcomes(path)] for key, paths in stored_cells(folder).items()}
    if not cells:
        raise ValueError(f"{folder} must hold records; got none. Run ./reproduce.sh table1 first.")
    return cells


def base_policies(cells: Sequence[tuple[str, str, str]]) -> list[str]:
    """Policies that are not the trained form (`NAME-sft`, `NAME-grpo`) of another one in the records."""
    names = list(dict.fromkeys(key[0] for key in cells))
    return [name for name in names if not any(name.startswith(f"{base}-{k}") for base in names for k in TRAINED)]


TRAINED = ("sft", "grpo")  # the greedy row of policy `<base>-sft` fills the base policy's `sft` cell
Row = dict[str, Any]


def row_outcomes(folder: Path, row: Row) -> list[Outcome]:
    """All outcomes of a cell that lie in a folder, over its seeds."""
    policy, method = row["policy"], row["method"]
    if method in TRAINED:
        policy, method = f"{policy}-{method}", "greedy"
    paths = [record_path(folder, policy, row["task"], method, seed) for seed in row["seeds"]]
    return [outcome for path in paths if path.exists() for outcome in read_outcomes(path)]
