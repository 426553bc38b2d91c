"""Target `export`: every record arrives in both forms, with the types and values of the record files."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from nabla_reasoner.__main__ import WRONG, main
from nabla_reasoner.cost import Cost
from nabla_reasoner.evaluation.record_table import record_table
from nabla_reasoner.evaluation.records import append_records, failed_record, make_record
from nabla_reasoner.experiments import export
from nabla_reasoner.tasks.grading import grade
from nabla_reasoner.types import Problem, Solution

datasets = pytest.importorskip("datasets", reason="needs the extra data; pip install -e '.[data]'")
PROBLEMS = [Problem(f"p{number}", "question", str(number), "math500") for number in range(3)]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Write records of two cells in three folders, one of them a failure; return the folder of all results."""
    for place, method in (("table1/records", "greedy"), ("table1/budget", "greedy"), ("table2/weak/records", "rap")):
        folder = tmp_path / "tiny" / place
        names = {"policy": "tiny-base", "method": method, "seed": 2, "repeat": 0}
        cost = Cost(decode_tokens=5, flops=1.5e9)
        search = {"finished": True, "samples": [{"response": "\\\\boxed{1}", "reward": 0.5}]}
        solved = [Solution(problem.id, r"\\boxed{1} ✓", [], -0.25, cost, search) for problem in PROBLEMS[:2]]
        records = [make_record(*pair, grade=grade, **names) for pair in zip(PROBLEMS, solved, strict=False)]
        append_records(
            folder / f"tiny-base__math500__{method}__s2.jsonl",
            [*records, failed_record(PROBLEMS[2], "ValueError: no", **names)],
        )
    (tmp_path / "tiny" / place / f"tiny-base__math500__{method}__s2.settings.json").write_text('{"seed": 2}')
    return tmp_path


@pytest.mark.slow
def test_both_forms_hold_every_record(results: Path, capsys):
    assert main(["export", f"results_dir={results}"]) == 0
    folder = results / "tiny" / "export"
    frame = pd.read_parquet(folder / "records.parquet")
    assert frame.experiment.tolist() == ["table1/budget"] * 3 + ["table1"] * 3 + ["table2/weak"] * 3
    loaded = datasets.load_from_disk(str(folder / "dataset"))
    assert (
        pd.DataFrame(loaded[:])
        .astype(object)
        .where(lambda table: table.notna(), None)
        .equals(frame.astype(object).where(lambda table: table.notna(), None))
    )
    for path in (results / "tiny").rglob("*__s2.jsonl"):
        place = path.parent.relative_to(results / "tiny").as_posix().removesuffix("/records")
        rows = loaded.filter(lambda row, place=place: row["experiment"] == place)
        for record, row in zip(map(json.loads, path.read_text().splitlines()), rows, strict=True):
            cost, search = record.pop("cost"), record.pop("search")
            assert {**record, **cost} == {key: row[key] for key in (*record, *cost)}
            assert json.loads(row["search"]) == search
            assert row["settings"] == ('{"seed": 2}' if place == "table2/weak" else None)
    assert "9 records" in capsys.readouterr().out


def test_results_below_a_folder_called_wandb_are_found(results: Path, capsys):
    place = results / "wandb"
    place.mkdir()
    shutil.move(results / "tiny", place / "tiny")
    assert main(["export", f"results_dir={place}"]) == 0
    assert "9 records" in capsys.readouterr().out


def test_records_behind_a_link_are_found_and_counted_once(results: Path, tmp_path_factory, capsys):
    """Records may lie on another disk; a second link to them adds nothing."""
    disk = tmp_path_factory.mktemp("disk")
    for part in ("records", "budget"):
        place = results / "tiny" / "table1" / part
        shutil.move(place, disk / part)
        place.symlink_to(disk / part)
    (results / "tiny" / "table2" / "again").symlink_to(results / "tiny" / "table2" / "weak")
    assert main(["export", f"results_dir={results}"]) == 0
    assert "9 records" in capsys.readouterr().out


def test_second_export_replaces_the_first(results: Path):
    assert main(["export", f"results_dir={results}"]) == 0
    for path in (results / "tiny" / "table2").rglob("*.jsonl"):
        path.unlink()
    assert main(["export", f"results_dir={results}"]) == 0
    folder = results / "tiny" / "export"
    assert (
        len(datasets.load_from_disk(str(folder / "dataset"))) == len(pd.read_parquet(folder / "records.parquet")) == 6
    )
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        "dataset",
        "records.parquet",
        "summary.json",
    ]


def test_fractions_of_an_own_methods_counts_are_kept(results: Path):
    """They were cut to whole numbers."""
    file = sorted(results.rglob("table1/records/*.jsonl"))[0]
    records = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    records[0]["cost"]["decode_tokens"] = 12.5
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    assert 12.5 in record_table(results / "tiny")["decode_tokens"].to_pylist()


def test_no_records_is_refused_without_a_trace(tmp_path: Path, capsys):
    assert main(["export", f"results_dir={tmp_path / 'none'}"]) == 2
    assert "must hold records; got none" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_missing_package_names_the_extra(results: Path, monkeypatch, capsys):
    find = export.importlib.util.find_spec
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if name == "datasets" else find(name))
    assert main(["export", f"results_dir={results}"]) == 2
    error = capsys.readouterr().err
    assert "datasets is not installed" in error
    assert "extra `data`" in error


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "records", "budget", "Records", ".hidden", "table.csv"])
def test_reward_named_like_what_lies_in_a_results_folder_is_refused(tmp_path: Path, name: str, capsys):
    """Table 2 has a folder for each reward; `export` would take the folder wandb for that of W&B, and leave it out."""
    words = ["policy=tiny-base", "task=products", "method=greedy", "reward=likelihood", f"results_dir={tmp_path}"]
    assert main(["table2", *words, f"reward.name={name}"]) == WRONG
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "error: reward.name must be a name that no file or folder of results has: other than wandb, "
    )
    assert repr(name) in line
    assert not list(tmp_path.iterdir())
