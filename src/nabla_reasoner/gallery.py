"""`./reproduce.sh figures [recompute=true]`: every notebook is run, and with it every figure in figures/ drawn anew.

Rows come from figures/data/ (a minute); with `recompute=true` the commands behind them are run first (an hour). The
executed notebooks, with their outputs, lie in results/notebooks/. Exit status: 0 done; 1 a notebook failed; 2 a wrong
setting.
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from . import grid

WRONG = 2
NOTEBOOKS = ("figures", "walkthrough", "theorem_4_1")
COMMANDS = ("table1", "figure1", "figure2", "figure3", "figure4", "theorem", "bench", "ppo")
# Rows in figures/data/ that a command leaves under another name; figure1 to figure4 copy their own.
SOURCES = {
    "table1.csv": "tiny/table1/table.csv",
    "comparisons.csv": "tiny/table1/comparisons.csv",
    "bench.csv": "tiny/bench/bench.csv",
    "bench_spread.csv": "tiny/bench/spread.csv",
    "ppo.csv": "tiny/ppo/ppo.csv",
    "ppo_curves.csv": "tiny/ppo/curves.csv",
    "ppo_break_even.csv": "tiny/ppo/break_even.csv",
    "theorem_checks.csv": "theory/checks.csv",
    "theorem_curves.csv": "theory/curves.csv",
    "theorem_terms.csv": "theory/terms.csv",
}


def recompute() -> None:
    """Run the commands behind every figure and copy their rows to figures/data/.

    Raises:
        subprocess.CalledProcessError: a command failed; what it says stands above.
    """
    for target in COMMANDS:
        subprocess.run(["bash", str(grid.ROOT / "reproduce.sh"), target], check=True)
    for name, source in SOURCES.items():
        shutil.copyfile(grid.ROOT / "results" / source, grid.ROOT / "figures" / "data" / name)


def executed(path: Path, settings: Mapping[str, Any], timeout_seconds: int | None) -> nbformat.NotebookNode:
    """A notebook with its outputs; the file stays as it is.

    Args:
        settings: take the place of values in the cell tagged `parameters`.
        timeout_seconds: of a cell; None waits.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    chosen = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(chosen))
    NotebookClient(notebook, timeout=timeout_seconds, resources={"metadata": {"path": str(path.parent)}}).execute()
    return notebook


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    if any(word not in ("recompute=true", "recompute=false") for word in arguments):
        print(f"error: the setting of this target is recompute=true|false; got {' '.join(arguments)}.", file=sys.stderr)
        return WRONG
    again, folder = "recompute=true" in arguments, grid.ROOT / "results" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    for name in NOTEBOOKS:
        path = grid.ROOT / "notebooks" / f"{name}.ipynb"
        print(f"notebooks/{name}.ipynb ...", flush=True)
        try:
            notebook = executed(path, {"recompute": again}, None)
        except CellExecutionError as error:
            print(f"error: notebooks/{name}.ipynb failed:\n{error}", file=sys.stderr)
            return 1
        nbformat.write(notebook, folder / f"{name}.ipynb")
    print("Figures in figures/, executed notebooks in results/notebooks/")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
