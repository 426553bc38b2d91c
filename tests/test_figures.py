from pathlib import Path

import matplotlib
import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from nabla_reasoner import figures

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parents[1]
TABLE = pd.read_csv(ROOT / "figures" / "data" / "table1.csv")


def test_every_finished_row_is_a_point_with_its_interval():
    figure = figures.accuracy_against_flops(TABLE)
    panels = {panel.get_title(): panel for panel in figure.axes}
    finished = TABLE[TABLE.policy.isin(["tiny-base", "tiny-instruct"])].dropna(subset=["accuracy"])
    assert len(panels) == finished.groupby(["policy", "task"]).ngroups, "trained policies are points of their start's"
    assert {"sft", "grpo"} < set(finished.method)
    for (policy, task), rows in finished.groupby(["policy", "task"]):
        bars = panels[f"{policy}, {task}"].containers
        drawn = sorted((bar.lines[0].get_xdata()[0], bar.lines[0].get_ydata()[0]) for bar in bars)
        assert drawn == sorted(zip(rows.flops, rows.accuracy, strict=True))


def test_a_table_without_results_is_refused():
    with pytest.raises(ValueError, match="at least one finished row"):
        figures.accuracy_against_flops(TABLE.assign(accuracy=float("nan")))


def test_figures_are_the_same_bytes_on_every_run(tmp_path):
    for name in ("a", "b"):
        figures.save(figures.accuracy_against_flops(TABLE), tmp_path, name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run_and_are_committed_without_outputs(path, tmp_path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    for cell in notebook.cells:
        cell.source = cell.source.replace('FIGURES = "../figures"', f'FIGURES = "{tmp_path}"')
    NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert list(tmp_path.glob("*.png"))
