"""`./reproduce.sh figures [results_dir=DIR] [recompute=true]`: every notebook run, every figure in figures/ drawn anew.

Rows come from figures/data/ (a minute). With `results_dir=DIR` those that the commands left there at scale=tiny are
kept in figures/data/ first; with `recompute=true` the commands are run before that (an hour). The executed notebooks,
with their outputs, lie in results/notebooks/. Exit status: 0 done; 1 a notebook failed; 2 a wrong setting.
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from ..config.schema import ROOT
from ..theory import figures

WRONG = 2
DATA = ROOT / "figures" / "data"
NOTEBOOKS = ("figures", "walkthrough", "theorem_4_1")
COMMANDS = ("table1", "ablations", "figure1", "figure2", "figure3", "figure4", "theorem", "bench", "ppo")
SOURCES = {  # where a command leaves the rows that stand in figures/data/; figure1 to figure4 also copy their own
    "table1": "tiny/table1/table.csv",
    "comparisons": "tiny/table1/comparisons.csv",
    "table2": "tiny/table2/table.csv",
    "table3": "tiny/table3/table.csv",
    "table5": "tiny/table5/table.csv",
    "figure3": "tiny/figure3/figure3.csv",
    "figure4": "tiny/figure4/figure4.csv",
    "ablations": "tiny/ablations/table.csv",
    "ablations_right_token": "tiny/ablations/right_token.csv",
    "bench": "tiny/bench/bench.csv",
    "bench_spread": "tiny/bench/spread.csv",
    "bench_profile": "tiny/bench/profile.csv",
    "ppo": "tiny/ppo/ppo.csv",
    "ppo_curves": "tiny/ppo/curves.csv",
    "ppo_break_even": "tiny/ppo/break_even.csv",
    "theorem_checks": "theory/checks.csv",
    "theorem_curves": "theory/curves.csv",
    "theorem_terms": "theory/terms.csv",
}


def keep_rows(results: Path, data: Path) -> list[str]:
    """Copy the rows that lie in a results folder to figures/data/; the names of those copied."""
    found = [name for name, place in SOURCES.items() if (results / place).is_file()]
    for name in found:
        shutil.copyfile(results / SOURCES[name], data / f"{name}.csv")
    if "theorem_terms" in found:  # thousands of positions, drawn as means by quarter of the answer
        terms = figures.terms_by_quarter(pd.read_csv(results / SOURCES["theorem_terms"]))
        terms.to_csv(data / "theorem_terms.csv", index=False, float_format="%.4g")
    return found


def recompute() -> None:
    """Run the commands behind every figure and keep their rows in figures/data/.

    Raises:
        subprocess.CalledProcessError: a command failed; what it says stands above.
    """
    for target in COMMANDS:
        subprocess.run(["bash", str(ROOT / "reproduce.sh"), target], check=True)
    keep_rows(ROOT / "results", DATA)


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
    chosen = {"recompute": "false", "results_dir": None}
    for word in arguments:
        key, _, value = word.partition("=")
        if key not in chosen or not value or (key == "recompute" and value not in ("true", "false")):
            settings = "recompute=true|false and results_dir=DIR"
            print(f"error: the settings of this target are {settings}; got {word!r}.", file=sys.stderr)
            return WRONG
        chosen[key] = value
    if chosen["results_dir"] is not None and not keep_rows(Path(chosen["results_dir"]), DATA):
        print(f"error: results_dir must hold results of scale=tiny; got {chosen['results_dir']!r}.", file=sys.stderr)
        return WRONG
    again, folder = chosen["recompute"] == "true", ROOT / "results" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    for name in NOTEBOOKS:
        path = ROOT / "notebooks" / f"{name}.ipynb"
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
