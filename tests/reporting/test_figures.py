import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.text import Text

from nabla_reasoner.__main__ import main
from nabla_reasoner.config.targets import find, kept_rows, targets
from nabla_reasoner.experiments import figures as figures_target
from nabla_reasoner.experiments import keep
from nabla_reasoner.experiments.table1 import accuracy_against_flops
from nabla_reasoner.reporting import ablations, fidelity_figure, figures
from nabla_reasoner.reporting.method_names import STYLES
from nabla_reasoner.reporting.reward_quality import QUALITIES, gains
from nabla_reasoner.theory.gradient_checks import TermRow

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "figures" / "data"
TABLE = pd.read_csv(ROOT / "figures" / "data" / "table1.csv")


@pytest.mark.slow
def test_finished_row_is_a_point_with_its_interval():
    figure = accuracy_against_flops(TABLE)
    panels = {panel.get_title(): panel for panel in figure.axes}
    finished = TABLE[TABLE.policy.isin(["tiny-base", "tiny-instruct"])].dropna(subset=["accuracy"])
    assert len(panels) == finished.groupby(["policy", "task"]).ngroups, "trained policies are points of their start's"
    assert {"sft", "grpo"} < set(finished.method)
    for (policy, task), rows in finished.groupby(["policy", "task"]):
        bars = panels[f"{policy}, {task}"].containers
        drawn = sorted((bar.lines[0].get_xdata()[0], bar.lines[0].get_ydata()[0]) for bar in bars)
        assert drawn == sorted(zip(rows.flops, rows.accuracy, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("cells", [1, 6])
def test_legend_of_a_partial_run_is_whole_and_covers_no_panel(cells: int):
    names = [("tiny-base", "products"), ("tiny-base", "chain_sum")]
    part = (
        TABLE if cells == 6 else TABLE[[cell in names[:cells] for cell in zip(TABLE.policy, TABLE.task, strict=True)]]
    )
    figure = accuracy_against_flops(part)
    (legend,) = figure.legends
    labels = {text.get_text() for text in legend.get_texts()}
    assert labels == {STYLES[method].label for method in part.dropna(subset=["accuracy"]).method}
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    assert 0 <= box.y0
    assert box.y1 <= min(panel.get_tightbbox().y0 for panel in figure.axes)
    assert min(panel.get_position().height * figure.get_figheight() for panel in figure.axes) > 1.5, "inches"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a$b", "$\\frac$", "x_y^z"])
def test_names_in_titles_are_no_formulas(name, tmp_path):
    figure = accuracy_against_flops(TABLE.assign(policy=name, task="t"))
    assert [panel.get_title() for panel in figure.axes] == [f"{name}, t"]
    figures.save(figure, tmp_path, "drawn")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$\\x$", "a$b$c"])
def test_names_in_figures_of_rewards_and_settings_are_no_formulas(name, tmp_path):
    measured = pd.read_csv(DATA / "fidelity.csv")
    compared = pd.read_csv(DATA / "ablations.csv")
    gained = pd.DataFrame({"difference": [1.0], "ci_low": [0.0], "ci_high": [2.0]}).assign(
        **dict.fromkeys(QUALITIES, 0.5)
    )
    renamed = compared.assign(**{column: compared[column] + name for column in ("policy", "group", "setting")})
    drawn = {
        "fidelity": fidelity_figure.draw(measured.assign(reward=measured.reward + name)),
        "ablations": ablations.differences(renamed),
        "gains": gains(gained.assign(reward=name, policy=name, task=name)),
    }
    for target, figure in drawn.items():
        assert any(name in text.get_text() for text in figure.findobj(Text)), target
        figures.save(figure, tmp_path, target)
        plt.close(figure)


def test_a_table_without_results_is_refused():
    with pytest.raises(ValueError, match="at least one finished row"):
        accuracy_against_flops(TABLE.assign(accuracy=float("nan")))


@pytest.mark.slow
def test_figures_are_the_same_bytes_on_every_run(tmp_path):
    for name in ("a", "b"):
        figures.save(accuracy_against_flops(TABLE[TABLE.task == "products"]), tmp_path, name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


@pytest.mark.slow
def test_figures_of_another_scale_carry_its_name(tmp_path):
    caption = "# figure9.png, figure9_flops.png\n\nMade by `./reproduce.sh figure9 scale=small`; `figure9.csv`.\n"
    drawn = {part: accuracy_against_flops(TABLE.head(3)) for part in ("", "_flops")}
    path = figures.write_figure("figure9", figures.Drawing(drawn, caption, "a\n"), tmp_path, "small")
    names = {"figure9-small.png", "figure9-small.pdf", "figure9-small_flops.png", "figure9-small_flops.pdf"}
    assert {file.name for file in path.parent.iterdir()} == names | {"figure9-small.csv", "figure9-small.md"}
    assert path.read_text(encoding="utf-8") == (
        "# figure9-small.png, figure9-small_flops.png\n\n"
        "Made by `./reproduce.sh figure9 scale=small`; `figure9-small.csv`.\n"
    )


@pytest.mark.parametrize(
    ("scale", "rows", "file"), [("tiny", "figure3", "figure3"), ("small", "figure3_small", "figure3-small")]
)
def test_caption_names_the_rows_as_they_are_kept(tmp_path: Path, scale: str, rows: str, file: str):
    text = "# figure3.png, figure3_flops.png\n\nrows in `figures/data/figure3.csv`."
    caption = figures.write_figure("figure3", figures.Drawing({}, text, ""), tmp_path, scale)
    assert caption.read_text("utf-8") == f"# {file}.png, {file}_flops.png\n\nrows in `figures/data/{rows}.csv`."
    target, name = kept_rows()["figure3"]
    assert keep.result_file(tmp_path, scale, target, name).stem == file
    assert f"figure3{keep.row_suffix(scale)}" == rows


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(path: Path) -> list[dict]:
    """Return the code cells of a notebook, each with its text as one string."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_notebooks_are_committed_without_outputs():
    assert {path.stem for path in NOTEBOOKS} == set(figures_target.NOTEBOOKS)
    words = [sys.executable, "-m", "nbstripout", "--verify", "--keep-id", *map(str, NOTEBOOKS)]
    shown = subprocess.run(words, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout + shown.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_short_and_take_parameters(path):
    code = code_cells(path)
    assert code[0]["metadata"]["tags"] == ["parameters"]
    assert "recompute = False" in code[0]["source"]
    assert 'FIGURES = "../results/notebooks"' in code[0]["source"], "figures/ is written by keep=true only"
    assert len(code) <= 14
    assert all(len(cell["source"].splitlines()) <= 22 for cell in code)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    before = {file: file.stat().st_mtime_ns for file in (ROOT / "figures").rglob("*")}
    # in this process: a kernel would import everything again; the next test has one
    monkeypatch.chdir(path.parent)
    names = {}
    for cell in code_cells(path):
        exec(compile(cell["source"], f"{path.name}: {cell['id']}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", []):
            names["FIGURES"] = str(tmp_path)
        plt.close("all")  # as a kernel does once it has shown them
    assert {file: file.stat().st_mtime_ns for file in (ROOT / "figures").rglob("*")} == before
    drawn = {file.stem for file in tmp_path.glob("*.png")}
    assert drawn == {file.stem for file in tmp_path.glob("*.pdf")}
    assert drawn
    if path.stem == "figures":
        assert drawn >= {file.stem for file in (ROOT / "figures").glob("*.png")} - {"walkthrough"}


def test_figures_refuses_wrong_settings_with_valid_ones(capsys):
    assert main(["figures", "recompute=yes"]) == 2
    assert "recompute must be true or false" in capsys.readouterr().err


@pytest.mark.slow
def test_kernel_shows_figures_and_failing_notebook_is_not_passed_over(tmp_path, monkeypatch):
    import nbformat  # takes seconds
    from nbclient.exceptions import CellExecutionError

    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    sources = [
        "value = 1",
        "assert value == 1, 'wrong value'",
        "from pathlib import Path\nfrom nabla_reasoner.reporting import figures\n"
        "figure, _ = figures.plt.subplots()\nfigures.save(figure, Path('drawn'), 'one')",
    ]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "one.ipynb")
    shown = figures_target.executed(tmp_path / "one.ipynb", {}, 60)
    assert [list(output["data"]) for cell in shown.cells for output in cell.outputs] == [["text/plain", "image/png"]]
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"one.png", "one.pdf"}
    with pytest.raises(CellExecutionError, match="wrong value"):
        figures_target.executed(tmp_path / "one.ipynb", {"value": 2}, 60)


def test_kept_rows_have_their_names_and_mean_terms(tmp_path):
    results, data = tmp_path / "results", tmp_path / "data"
    for folder in (results / "theory", results / "tiny" / "table1", data):
        folder.mkdir(parents=True)
    (results / "tiny" / "table1" / "table.csv").write_text("policy\nours\n")
    row = "p,r,t,q,eq2,y,2,{},1,1,1,{},0.5,0.0\n"
    header = ",".join(TermRow._fields) + "\n"
    (results / "theory" / "terms.csv").write_text(header + row.format(0, 0.25) + row.format(0, 0.75))
    assert figures_target.keep_rows(results, data) == ["table1", "theorem_terms"]
    assert (data / "table1.csv").read_text() == "policy\nours\n"
    (kept,) = pd.read_csv(data / "theorem_terms.csv").itertuples()
    assert (kept.quarter, kept.prefix_share, kept.positions) == (0, 0.5, 2)


def test_rows_are_drawn_of_those_targets_only_that_are_checked_before_they_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(figures_target, "OUTPUT", tmp_path / "output")
    results = tmp_path / "results"
    for target in targets().values():
        for file in target.keeps.values():
            path = keep.result_file(results, "tiny", target, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("new\n" if "terms" not in file else ",".join(TermRow._fields) + "\n")
    rows = figures_target.joined_rows(results)
    changed = {path.stem for path in rows.glob("*.csv") if path.read_bytes() != (DATA / path.name).read_bytes()}
    assert changed == {name for name, (target, _) in kept_rows().items() if target.name in find("figures").reads}
    assert {"fidelity", "ablations_classifier", "table2_comparisons"} <= changed, "the notebook draws them"


def test_figures_refuses_a_folder_without_results(tmp_path, capsys):
    assert main(["figures", f"results_dir={tmp_path}"]) == 2
    assert "must hold results" in capsys.readouterr().err
