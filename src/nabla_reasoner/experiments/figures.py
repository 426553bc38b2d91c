"""All notebooks run, and every figure drawn from rows, into results/notebooks/.

The rows are those in `figures/data/`; with `results_dir=DIR` those that the commands left there at scale=tiny replace
them, and with `recompute=true` the commands are run first. `keep=true` copies the figures, and new rows, to figures/.
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.data_folder import data_folder
from ..config.settings import FiguresSettings
from ..config.targets import find
from .command import DONE, FAILED, Command, Refused
from .keep import gaps, keep_rows

ROOT = data_folder()
DATA = ROOT / "figures" / "data"
OUTPUT = ROOT / "results" / "notebooks"
NOTEBOOKS = ("figures", "walkthrough", "theorem_4_1")
CASES = "walkthrough_cases.csv"  # rows that the notebook `walkthrough` computes itself


def joined_rows(results: Path) -> Path | None:
    """Return a folder of the rows in figures/data/, replaced by those in the results; None if these have no rows.

    Only rows of the targets that `figures` reads are replaced, which `keep=true` asks to be complete.
    """
    rows = OUTPUT / "rows"
    shutil.rmtree(rows, ignore_errors=True)
    shutil.copytree(DATA, rows)
    return rows if keep_rows(results, rows, [find(name) for name in find("figures").reads]) else None


def recompute_rows() -> Path:
    """Run the commands behind every figure; returns the folder of their rows.

    Raises:
        subprocess.CalledProcessError: a command failed; its own message stands above.
        ValueError: the commands left no rows.
    """
    for name in find("figures").reads:
        subprocess.run(["bash", str(ROOT / "reproduce.sh"), name], check=True)
    rows = joined_rows(ROOT / "results")
    if rows is None:
        raise ValueError(f"{ROOT / 'results'} must hold rows of scale=tiny; got none.")
    return rows


def executed(path: Path, settings: Mapping[str, Any], timeout_seconds: int | None) -> dict[str, Any]:
    """Return a notebook with its outputs; the file stays as it is.

    Args:
        path: the notebook.
        settings: values that replace those in the cell tagged `parameters`.
        timeout_seconds: time limit of a cell; None sets no limit.

    Raises:
        CellExecutionError: a cell failed.
    """
    import nbformat  # takes seconds, and the notebook `figures` imports this module without running notebooks
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    index = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    lines = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    notebook.cells.insert(index + 1, nbformat.v4.new_code_cell(lines))
    NotebookClient(notebook, timeout=timeout_seconds, resources={"metadata": {"path": str(path.parent)}}).execute()
    return notebook


def run(command: Command, settings: FiguresSettings) -> int:
    """Run the notebooks, and keep what they drew if that is asked for; returns the exit status."""
    import nbformat
    from nbclient.exceptions import CellExecutionError

    results = None if settings.results_dir is None else Path(settings.results_dir)
    rows = DATA if results is None else joined_rows(results)
    if rows is None:
        raise Refused(f"results_dir must hold results of scale=tiny; got {settings.results_dir!r}.")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    values = {"recompute": settings.recompute, "ROWS": str(rows), "FIGURES": str(OUTPUT)}
    for number, name in enumerate(NOTEBOOKS, start=1):
        path = ROOT / "notebooks" / f"{name}.ipynb"
        print(f"[{number}/{len(NOTEBOOKS)}] notebooks/{name}.ipynb ...", flush=True)
        try:
            notebook = executed(path, values, None)
        except CellExecutionError as error:
            print(f"error: notebooks/{name}.ipynb failed:\n{error}", file=sys.stderr)
            return FAILED
        nbformat.write(notebook, OUTPUT / f"{name}.ipynb")
    print(f"Figures and executed notebooks in {OUTPUT}")
    if settings.keep:
        return _keep(results, settings.recompute)
    print("Nothing was copied to figures/: that takes keep=true.")
    return DONE


def _keep(results: Path | None, recomputed: bool) -> int:
    """Copy the figures to figures/, and new rows to figures/data/ if they are of complete runs; the exit status."""
    results = ROOT / "results" if recomputed else results
    reads = [find(name) for name in find("figures").reads]
    reasons = [gap for target in reads for gap in gaps(target, results)] if results is not None else []
    if reasons:
        print(f"Not kept in figures/: {'; '.join(reasons)}.", file=sys.stderr)
        return FAILED
    if results is not None:
        keep_rows(results, DATA, reads)
    cases = OUTPUT.glob(CASES) if recomputed else ()
    for path in [*OUTPUT.glob("*.png"), *OUTPUT.glob("*.pdf"), *cases]:
        shutil.copyfile(path, (DATA if path.suffix == ".csv" else DATA.parent) / path.name)
    return DONE
