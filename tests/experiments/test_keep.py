"""Committed evidence: copied only where keep=true asks for it, and only from a complete run of the default settings."""

import functools
import json
import os
import re
from pathlib import Path

import pytest
from toy_runs import write_summary

from nabla_reasoner.__main__ import main
from nabla_reasoner.config import compose, fingerprint
from nabla_reasoner.config.cell import Cell
from nabla_reasoner.config.overrides import quoted
from nabla_reasoner.config.sweeps import Sweep
from nabla_reasoner.config.targets import find
from nabla_reasoner.evaluation.cell_records import record_file
from nabla_reasoner.evaluation.records import append_records, failed_record, settings_path
from nabla_reasoner.experiments import figures, keep
from nabla_reasoner.experiments.command import DONE, FAILED, Command
from nabla_reasoner.types import Problem

ROOT = Path(__file__).resolve().parents[2]
NARROW = ("policy=tiny-base", "task=products", "seed=0")


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "figures"
    (folder / "data").mkdir(parents=True)
    monkeypatch.setattr(keep, "GALLERY", folder)
    return folder


def files(gallery: Path) -> set[str]:
    return {str(path.relative_to(gallery)) for path in gallery.rglob("*") if path.is_file()}


def test_rows_of_another_scale_bear_its_name_and_replace_no_figure(tmp_path: Path, gallery: Path, monkeypatch):
    monkeypatch.setattr(keep, "_cell_gaps", lambda target, results, scale: [] if scale == "unseen" else ["not run"])
    folder = tmp_path / "unseen" / "table1"
    folder.mkdir(parents=True)
    for name in ("table.csv", "comparisons.csv", "table1.png"):
        (folder / name).write_text("x\n", encoding="utf-8")
    assert finish("table1", tmp_path, "keep=true", "scale=unseen") == DONE
    assert files(gallery) == {"data/table1_unseen.csv", "data/comparisons_unseen.csv"}


def ppo_run(results: Path, *, status: str = "finished", words: str = "") -> None:
    """What a run of ppo leaves."""
    folder = results / "tiny" / "ppo"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("ppo.csv", "curves.csv", "break_even.csv", "ppo.png", "ppo.pdf", "ppo.md"):
        (folder / name).write_text("x\n", encoding="utf-8")
    write_summary(folder, f"./reproduce.sh ppo{words}", status=status)


def finish(target: str, results: Path, *words: str, status: int = DONE) -> int:
    return keep.finish(Command(find(target), (f"results_dir={results}", *words)), status)


def test_rows_and_figures_of_a_default_run_are_kept(tmp_path: Path, gallery: Path):
    ppo_run(tmp_path, words=" results_dir=elsewhere keep=true wandb=disabled")
    assert finish("ppo", tmp_path, "keep=true") == DONE
    assert files(gallery) == {
        "ppo.png",
        "ppo.pdf",
        "ppo.md",
        *(f"data/ppo{n}.csv" for n in ("", "_curves", "_break_even")),
    }


def test_nothing_is_kept_unless_asked_and_a_line_says_how(tmp_path: Path, gallery: Path, capsys):
    ppo_run(tmp_path)
    assert finish("ppo", tmp_path) == finish("ppo", tmp_path, "keep=false") == DONE
    assert not files(gallery)
    assert capsys.readouterr().out.splitlines()[0].startswith("Nothing was copied to figures/: that takes keep=true")


@pytest.mark.parametrize(
    ("run", "said"),
    [({"status": "failures"}, "ended with the status failures"), ({"words": " seed=1"}, "was run with seed=1")],
)
def test_other_runs_are_not_kept(tmp_path: Path, gallery: Path, run: dict, said: str, capsys):
    ppo_run(tmp_path, **run)
    assert finish("ppo", tmp_path, "keep=true") == FAILED
    assert said in capsys.readouterr().out
    assert not files(gallery)


def test_failed_command_is_not_kept(tmp_path: Path, gallery: Path):
    ppo_run(tmp_path)
    assert finish("ppo", tmp_path, "keep=true", status=FAILED) == FAILED
    assert not files(gallery)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["table1", "keep=true", "policy=tiny-base"],
            "keep=true needs a complete run of the default settings; got policy=tiny-base",
        ),
        (["ppo", "keep=true", "seed=3"], "got seed=3"),
        (["bench", "keep=true", "cases=[dto_memory]"], "got cases=[dto_memory]"),
        (["theorem", "keep=true", "checks=[jko]"], "got checks=[jko]"),
        (["table4", "keep=true"], "table4 has no rows in figures/data/"),
        (["table5", "keep=yes"], "keep must be true or false"),
    ],
)
def test_keeping_other_settings_is_refused_before_compute(tmp_path: Path, gallery: Path, words, said: str, capsys):
    assert main([*words, f"results_dir={tmp_path / 'results'}"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_report_keeps_what_is_complete_and_names_the_rest(tmp_path: Path, gallery: Path):
    ppo_run(tmp_path)
    assert keep.keep_complete(tmp_path, [find("ppo"), find("bench")]) == ["bench was not run"]
    assert "data/ppo.csv" in files(gallery)
    assert "data/bench.csv" not in files(gallery)


def test_rows_of_a_figure_of_another_scale_are_kept(tmp_path: Path):
    folder = tmp_path / "unseen" / "figure3"
    folder.mkdir(parents=True)
    (folder / "figure3-unseen.csv").write_text("a\n1\n")  # the name that the figure's command gives it
    assert keep.keep_rows(tmp_path, tmp_path / "data", [find("figure3")], "unseen") == ["figure3_unseen"]
    assert (tmp_path / "data" / "figure3_unseen.csv").read_text() == "a\n1\n"


def test_rows_of_a_figure_without_the_scale_in_its_name_are_kept(tmp_path: Path):
    folder = tmp_path / "unseen" / "figure1"
    folder.mkdir(parents=True)
    names = [name for name in find("figure1").writes if name.endswith(".csv")]
    for name in names:
        (folder / name).write_text("a\n1\n", encoding="utf-8")
    kept = keep.keep_rows(tmp_path, tmp_path / "data", [find("figure1")], "unseen")
    assert sorted(kept) == sorted(f"{Path(name).stem}_unseen" for name in names)


@pytest.mark.parametrize("lost", ["curves.csv", "ppo.csv"])
def test_run_without_a_promised_file_is_not_kept(tmp_path: Path, gallery: Path, lost: str, capsys):
    ppo_run(tmp_path)
    (tmp_path / "tiny" / "ppo" / lost).unlink()
    assert finish("ppo", tmp_path, "keep=true") == FAILED
    assert f"ppo/{lost} is not there: run ./reproduce.sh ppo again" in capsys.readouterr().out
    assert not files(gallery)


def test_report_keeps_the_rows_of_its_own_scale(tmp_path: Path, gallery: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keep, "_cell_gaps", lambda target, results, scale: [] if scale == "unseen" else ["not run"])
    folder = tmp_path / "unseen" / "table1"
    folder.mkdir(parents=True)
    for name in ("table.csv", "comparisons.csv"):
        (folder / name).write_text("x\n", encoding="utf-8")
    ppo_run(tmp_path)
    assert keep.keep_complete(tmp_path, [find("table1"), find("ppo")], "unseen") == []
    assert files(gallery) == {"data/table1_unseen.csv", "data/comparisons_unseen.csv"}, "ppo has no scales"


@pytest.mark.parametrize("complete", [True, False])
def test_drawn_figures_are_kept_with_complete_rows_only(tmp_path: Path, gallery: Path, monkeypatch, complete: bool):
    ppo_run(tmp_path / "results")
    drawn = tmp_path / "notebooks"
    drawn.mkdir()
    for name in ("figure3.png", figures.CASES):
        (drawn / name).write_text("new", encoding="utf-8")
    monkeypatch.setattr(figures, "OUTPUT", drawn)
    monkeypatch.setattr(figures, "DATA", gallery / "data")
    monkeypatch.setattr(figures, "gaps", lambda target, results: [] if complete else [f"{target.name} was not run"])
    assert figures._keep(tmp_path / "results", False) == (DONE if complete else FAILED)
    kept = {"figure3.png", *(f"data/ppo{n}.csv" for n in ("", "_curves", "_break_even"))}
    assert files(gallery) == (kept if complete else set()), "cases are kept only where they were computed again"


@functools.cache
def composed() -> list[Cell]:
    words = ["experiment=table1", "policy=tiny-base", "task=products", "seed=0", "num_problems=3"]
    return compose.compose_cells([*words, "method=greedy,best_of_n"])


@pytest.fixture
def two_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """Two cells in the place of every sweep's, each with its records of three problems."""
    cells = [cell.model_copy(update={"records": str(tmp_path / "tiny" / "table1")}) for cell in composed()]
    monkeypatch.setattr(keep, "compose_sweeps", lambda target, overrides: [Sweep([], cells)])
    for cell in cells:
        names = {"policy": "tiny-base", "method": cell.method.name, "seed": 0, "repeat": 0}
        path = record_file(cell)
        append_records(path, [failed_record(Problem(f"p{i}", "q", "1", "products"), "x", **names) for i in range(3)])
        settings_path(path).write_text(json.dumps(fingerprint.fingerprint(cell)), encoding="utf-8")
    for name in ("table.csv", "comparisons.csv"):
        (tmp_path / "tiny" / "table1" / name).write_text("x\n", encoding="utf-8")
    return cells


def test_every_cell_must_be_complete(tmp_path: Path, two_cells: list[Cell]):
    assert keep.gaps(find("table1"), tmp_path) == []
    path = record_file(two_cells[1])
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:2]), encoding="utf-8")
    (gap,) = keep.gaps(find("table1"), tmp_path)
    assert gap == f"1 of 2 cells of table1, e.g. {path.stem} is not complete"


@pytest.mark.parametrize("folder", ["", "budget", "mine"])
def test_records_of_other_cells_are_not_kept_beside_the_default_ones(tmp_path: Path, two_cells, folder: str):
    path = record_file(two_cells[0])
    other = path.parents[1] / folder / "records" / path.name.replace("__s0", "__s3")
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_text(path.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    (gap,) = keep.gaps(find("table1"), tmp_path)
    assert gap == f"records of other cells, which have rows too, e.g. {other}"


@pytest.mark.parametrize(("target", "file"), [("table1", "table.csv"), ("figure3", "figure3.csv")])
def test_rows_older_than_the_records_are_not_kept(tmp_path: Path, gallery: Path, two_cells, target: str, file: str):
    folder = tmp_path / "tiny" / target
    write_summary(folder, f"./reproduce.sh {target}", status="finished")
    rows = folder / file
    rows.write_text("x\n", encoding="utf-8")
    assert keep.keep_complete(tmp_path, [find(target)]) == []
    os.utime(rows, ns=(0, record_file(two_cells[1]).stat().st_mtime_ns - 1))
    reason = f"{rows} is older than the records: run ./reproduce.sh {target} again"
    assert keep.keep_complete(tmp_path, [find(target)]) == [reason]


def test_target_without_records_is_judged_by_its_command(tmp_path: Path, gallery: Path):
    folder = tmp_path / "tiny" / "fidelity"
    for words, reasons in (
        ("threads=1 hydra.sweeper.max_batch_size=2", []),
        ("positions=2", ["fidelity was run with positions=2"]),
    ):
        write_summary(folder, f"./reproduce.sh fidelity {words}", status="finished")
        (folder / "table.csv").write_text("x\n", encoding="utf-8")
        assert keep.keep_complete(tmp_path, [find("fidelity")]) == reasons
    assert "data/fidelity.csv" in files(gallery)


@pytest.mark.parametrize("name", ["it's", 'a"b', "${b}", "x, y", "a\\", "a\\'b"])
def test_name_of_the_results_folder_is_read_as_it_is(name: str):
    (cell,) = compose.compose_cells(["experiment=table1", *NARROW, "method=greedy", f"results_dir={quoted(name)}"])
    assert cell.results_dir == name
    if "$" not in name:  # Hydra resolves it later
        assert keep.results_folder(Command(find("table1"), (f"results_dir={quoted(name)}",))) == Path(name)


@pytest.mark.parametrize("content", ["", "{}", None])
def test_every_cell_must_have_the_default_settings(tmp_path: Path, two_cells: list[Cell], content: str | None):
    path = record_file(two_cells[0])
    settings = json.loads(settings_path(path).read_text(encoding="utf-8")) | {"split": "validation"}
    settings_path(path).write_text(json.dumps(settings) if content is None else content, encoding="utf-8")
    (gap,) = keep.gaps(find("table1"), tmp_path)
    assert gap.endswith("has other settings")


@pytest.mark.slow
def test_folder_may_stand_in_for_a_hub_name_only_and_threads_are_free_where_cells_run(gallery: Path):
    words = ("policy.path=/a", "reward.path=/b", "keep=true")
    keep.check(Command(find("table1"), ("scale=coder", "task.path=c.jsonl", *words)))
    keep.check(Command(find("table1"), ("threads=2", "devices=2", "keep=true")))
    keep.check(Command(find("table1"), ("hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=60", "keep=true")))
    with pytest.raises(ValueError, match=r"got threads=2\."):
        keep.check(Command(find("bench"), ("threads=2", "keep=true")))
    with pytest.raises(ValueError, match="got policy.path=/a reward.path=/b"):
        keep.check(Command(find("table1"), words))
    with pytest.raises(ValueError, match=r"got seed=1\."):
        keep.check(Command(find("table1"), ("scale=coder", "seed=1", *words)))


def test_records_are_compared_with_the_folders_of_their_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[list[str]] = []
    (cell, _) = composed()
    cell = cell.model_copy(
        update={"policy": cell.policy.model_copy(update={"path": "owner/name"}), "records": str(tmp_path)}
    )

    def sweeps(target: str, overrides: list[str]) -> list[Sweep]:
        asked.append(list(overrides))
        return [Sweep([], [cell])]

    monkeypatch.setattr(keep, "compose_sweeps", sweeps)
    folder = tmp_path / "coder" / "table1"
    write_summary(folder, "./reproduce.sh table1 scale=coder policy.path=/a reward.path=/b seed=3")
    assert keep.gaps(find("table1"), tmp_path, "coder")
    assert asked[-1] == [f"results_dir='{tmp_path}'", "scale=coder", "policy.path=/a"]


@pytest.mark.parametrize(("task", "size"), [("gsm8k", 1319), ("math500", 500)])
def test_whole_benchmark_is_complete_with_all_its_problems(tmp_path: Path, monkeypatch, task: str, size: int):
    (cell,) = compose.compose_cells([f"task={task}", "method=greedy", "num_problems=null"])
    cell = cell.model_copy(update={"records": str(tmp_path)})
    monkeypatch.setattr(keep, "compose_sweeps", lambda target, overrides: [Sweep([], [cell])])
    assert re.search("is not complete", keep.gaps(find("table1"), tmp_path, "paper")[0])
    problems = [Problem(str(number), "q", "1", task) for number in range(size)]
    names = {"policy": cell.policy.name, "method": "greedy", "seed": 0}
    records = [failed_record(p, "E: no", **names, repeat=k) for p in problems for k in range(cell.task.repeats)]
    path = record_file(cell)
    append_records(path, records[:-1])
    settings_path(path).write_text(json.dumps(fingerprint.fingerprint(cell)), encoding="utf-8")
    assert re.search("is not complete", keep.gaps(find("table1"), tmp_path, "paper")[0])
    append_records(path, records[-1:])
    (gap,) = keep.gaps(find("table1"), tmp_path, "paper")
    assert "table.csv is not there" in gap, "the records are complete"


def test_targets_that_read_need_complete_sources(tmp_path: Path, gallery: Path, two_cells: list[Cell], capsys):
    record_file(two_cells[0]).unlink()
    assert main(["figure3", "keep=true", f"results_dir={tmp_path}"]) == 2
    assert "keep=true needs complete results; got: 1 of 2 cells of table1" in capsys.readouterr().err
    assert not files(gallery)


def test_caption_names_the_command_without_what_changes_no_result():
    words = ("policy=tiny-base", "results_dir=/tmp/mine", "wandb=disabled", "workers=1", "keep=true")
    command = Command(find("figure1"), words)
    assert command.recipe == "./reproduce.sh figure1 policy=tiny-base keep=true"
    assert all(word in command.line for word in words)
    for caption in (ROOT / "figures").glob("*.md"):
        assert not re.search(r"(results_dir|wandb|workers)=", caption.read_text("utf-8")), caption
