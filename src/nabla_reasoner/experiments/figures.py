"""Execution of all notebooks, which draws every committed figure again from `figures/data/`.

With `results_dir=DIR` the rows that the commands left there at scale=tiny are copied to figures/data/ first; with
`recompute=true` the commands are run before that. The executed notebooks are in results/notebooks/.
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from ..config.schema import ROOT
from ..config.targets import find, kept_rows
from ..theory.figures import terms_by_quarter
from .command import DONE, FAILED, Command, Refused

DATA = ROOT / "figures" / "data"
NOTEBOOKS = ("figures", "walkthrough", "theorem_4_1")


def keep_rows(results: Path, data: Path) -> list[str]:
    """Copy the rows that targets left at scale=tiny to `data`; return their names there."""
    sources = {name: results / target.path("tiny") / file for name, (target, file) in kept_rows().items()}
    names = [name for name, path in sources.items() if path.is_file()]
    for name in names:
        shutil.copyfile(sources[name], data / f"{name}.csv")
    if "theorem_terms" in names:  # thousands of positions, drawn as means by quarter of the answer
        terms = terms_by_quarter(pd.read_csv(sources["theorem_terms"]))
        terms.to_csv(data / "theorem_terms.csv", index=False, float_format="%.4g")
    return names


def recompute_rows() -> None:
    """Run the commands that compute the rows of the figures, and keep the rows in figures/data/.

    Raises:
        subprocess.CalledProcessError: a command failed; its own message was printed before.
    """
    for name in find("figures").reads:
        subprocess.run(["bash", str(ROOT / "reproduce.sh"), name], check=True)
    keep_rows(ROOT / "results", DATA)


def executed(path: Path, settings: Mapping[str, Any], timeout_seconds: int | None) -> nbformat.NotebookNode:
    """Return a notebook with its outputs; the file stays as it is.

    Args:
        path: the notebook.
        settings: values that replace those in the cell tagged `parameters`.
        timeout_seconds: time limit of a cell; None sets no limit.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    index = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    lines = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    notebook.cells.insert(index + 1, nbformat.v4.new_code_cell(lines))
    NotebookClient(notebook, timeout=timeout_seconds, resources={"metadata": {"path": str(path.parent)}}).execute()
    return notebook


def run(command: Command, settings: Mapping[str, Any]) -> int:
    """Keep the rows, then run the notebooks; return the exit status."""
    if settings["results_dir"] is not None and not keep_rows(Path(settings["results_dir"]), DATA):
        raise Refused(f"results_dir must hold results of scale=tiny; got {settings['results_dir']!r}.")
    folder = ROOT / "results" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(NOTEBOOKS, start=1):
        path = ROOT / "notebooks" / f"{name}.ipynb"
        print(f"[{number}/{len(NOTEBOOKS)}] notebooks/{name}.ipynb ...", flush=True)
        try:
            notebook = executed(path, {"recompute": settings["recompute"]}, None)
        except CellExecutionError as error:
            print(f"error: notebooks/{name}.ipynb failed:\n{error}", file=sys.stderr)
            return FAILED
        nbformat.write(notebook, folder / f"{name}.ipynb")
    print(f"Figures in figures/, executed notebooks in {folder}")
    return DONE
