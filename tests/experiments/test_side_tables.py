"""Tables beside the ablations: rows of other cells stay, other problems stand apart, and only default rows are kept."""

import json
from pathlib import Path

import pytest

from nabla_reasoner.config import compose
from nabla_reasoner.config.cell import Cell
from nabla_reasoner.config.sweeps import Sweep, compose_sweeps
from nabla_reasoner.config.targets import find
from nabla_reasoner.evaluation.cell_records import record_file
from nabla_reasoner.experiments import keep, right_token, row_movement, side_tables
from nabla_reasoner.experiments.side_tables import Part
from nabla_reasoner.reporting import evidence
from nabla_reasoner.reporting.evidence import Evidence

TABLE = row_movement.TABLE
VALID = "split=validation"
NUMBERS = dict.fromkeys(row_movement.COLUMNS[4:], 2.5)


def part(task: str, num_problems: int = 15, flipped: float = 2.5) -> Part:
    names = {"policy": "p", "task": task, "reward": "r"}
    rows = [names | NUMBERS | {"confident": confident, "flipped": flipped} for confident in (True, False)]
    return Part(rows, {"num_problems": num_problems, "dtype": "float32"})


def measured(*tasks: str, **values) -> dict[str, Part]:
    return {f"p {task} r": part(task, **values) for task in tasks}


def settings(*tasks: str) -> dict[str, dict]:
    return {name: made.settings for name, made in measured(*tasks).items()}


def flipped(folder: Path) -> list[tuple[str, float]]:
    return [(row["task"], row["flipped"]) for row in evidence.typed_rows(folder / "row_movement.csv")][::2]


def test_narrowed_command_leaves_the_rows_of_other_cells(tmp_path: Path):
    side_tables.write(TABLE, tmp_path, measured("a", "b"))
    side_tables.write(TABLE, tmp_path, measured("b", flipped=7.0))
    assert flipped(tmp_path) == [("a", 2.5), ("b", 7.0)]
    text = (tmp_path / "row_movement.md").read_text(encoding="utf-8")
    assert text.count("| a ") == text.count("| b ") == 2
    assert text.count("confident (2)") == text.count("uncertain (2)") == 2
    side_tables.write(TABLE, tmp_path, measured("b", "a"))
    assert flipped(tmp_path) == [("b", 2.5), ("a", 2.5)], "a complete run has the order of its cells"


def test_rows_made_with_another_seed_are_left_out_with_a_line(tmp_path: Path, capsys):
    def with_settings(task: str, **changes: object) -> dict[str, Part]:
        return {f"p {task} r": part(task)._replace(settings=part(task).settings | changes)}

    classifier = {"method": {"step_size": 3, "max_new_tokens": 9}, "reward": {"name": "r"}}
    side_tables.write(TABLE, tmp_path, with_settings("a", seed=0, **classifier))
    longer = {**classifier, "method": {"step_size": 3, "max_new_tokens": 99}}
    side_tables.write(TABLE, tmp_path, with_settings("b", seed=0, **longer))
    assert flipped(tmp_path) == [("a", 2.5), ("b", 2.5)], "lengths differ by task"
    side_tables.write(TABLE, tmp_path, with_settings("c", seed=0, method={"step_size": 1}, reward={"name": "s"}))
    assert len(flipped(tmp_path)) == 3, "settings may differ by reward"
    assert "left out" not in capsys.readouterr().out
    side_tables.write(TABLE, tmp_path, with_settings("b", seed=1, **longer))
    assert flipped(tmp_path) == [("b", 2.5), ("c", 2.5)]
    assert "made with other settings are left out: p a r." in capsys.readouterr().out
    assert "known to be of p a r" in side_tables.gaps(TABLE, tmp_path, settings("a"))[0]


def test_damaged_table_is_made_anew_with_a_line(tmp_path: Path, capsys):
    side_tables.write(TABLE, tmp_path, measured("a"))
    table = tmp_path / "row_movement.csv"
    table.write_text(table.read_text("utf-8").replace("2.5", "abc", 1), encoding="utf-8")
    side_tables.write(TABLE, tmp_path, measured("b"))
    assert "row_movement.csv is damaged and not read" in capsys.readouterr().err
    assert flipped(tmp_path) == [("b", 2.5)]


def test_table_whose_only_cell_has_no_rows_any_more_is_empty(tmp_path: Path):
    side_tables.write(TABLE, tmp_path, measured("a"))
    side_tables.write(TABLE, tmp_path, {"p a r": Part([], part("a").settings)})
    assert flipped(tmp_path) == []
    assert side_tables.gaps(TABLE, tmp_path, settings("a")) == []


def test_table_of_the_wanted_cells_has_no_gap(tmp_path: Path):
    assert "no rows that are known to be of p a r" in side_tables.gaps(TABLE, tmp_path, settings("a"))[0]
    side_tables.write(TABLE, tmp_path, measured("a"))
    side_tables.write(TABLE, tmp_path, measured("b"))
    assert side_tables.gaps(TABLE, tmp_path, settings("a", "b")) == []
    assert "known to be of p c r" in side_tables.gaps(TABLE, tmp_path, settings("a", "b", "c"))[0]
    assert "rows of another cell, p b r" in side_tables.gaps(TABLE, tmp_path, settings("a"))[0]
    assert side_tables.gaps(TABLE, tmp_path / "none", {}) == []


def test_cell_without_rows_counts_as_measured(tmp_path: Path):
    side_tables.write(TABLE, tmp_path, measured("a") | {"p b r": Part([], part("b").settings)})
    assert side_tables.gaps(TABLE, tmp_path, settings("a", "b")) == []


def test_rows_of_fewer_problems_are_no_default_rows(tmp_path: Path):
    side_tables.write(TABLE, tmp_path, measured("a", num_problems=2))
    (gap,) = side_tables.gaps(TABLE, tmp_path, settings("a"))
    assert "rows of p a r with other settings, num_problems: 2 -> 15" in gap


@pytest.mark.parametrize("damage", ["edited table", "no settings", "other JSON"])
def test_rows_of_unknown_settings_are_no_default_rows(tmp_path: Path, damage: str):
    side_tables.write(TABLE, tmp_path, measured("a"))
    stamp, table = (tmp_path / f"row_movement.{end}" for end in ("settings.json", "csv"))
    if damage == "no settings":
        stamp.unlink()
    elif damage == "other JSON":
        stamp.write_text(json.dumps(json.loads(stamp.read_text("utf-8")) | {"cells": [1]}), encoding="utf-8")
    else:
        table.write_text(table.read_text("utf-8").replace("2.5", "3.5"), encoding="utf-8")
    assert "known to be of p a r" in side_tables.gaps(TABLE, tmp_path, settings("a"))[0]
    side_tables.write(TABLE, tmp_path, measured("b"))
    assert "known to be of p a r" in side_tables.gaps(TABLE, tmp_path, settings("a", "b"))[0]


def cells(*words: str) -> list[Cell]:
    return compose.compose_cells(["experiment=ablations", "policy=tiny-base", *words])


def test_validation_problems_stand_apart_and_decide_no_claim(tmp_path: Path):
    for module in (right_token, row_movement):
        names = [module.names_of(cell)["task"] for cell in (*cells("task=products"), *cells("task=products", VALID))]
        assert names == ["products", "products (split=validation)"]
    side_tables.write(TABLE, tmp_path, measured("products", "products (split=validation)"))
    rows = evidence.typed_rows(tmp_path / "row_movement.csv")
    assert {row["task"] for row in Evidence(movement=rows).of_test_problems().movement} == {"products"}


def test_tasks_without_worked_solutions_are_left_out_with_a_line(tmp_path: Path, capsys):
    few = cells("task=number_format", "num_problems=2")
    right_token.write(Sweep([], few), tmp_path)
    assert "right token: number_format is left out, as its problems have no worked" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert right_token.wanted(Sweep([], few)) == {}
    (known,) = right_token.wanted(Sweep([], cells("task=products", "num_problems=2"))).values()
    assert known["num_problems"] == 2


@pytest.mark.slow
def test_default_tables_cover_the_grid_of_the_scale():
    (sweep, *_) = compose_sweeps("ablations", ["only=[flip]"])
    tasks = ("chain_sum", "leg_counting", "products")
    worked, moved = right_token.wanted(sweep), row_movement.wanted(sweep)
    assert list(worked) == [f"tiny-base {task}" for task in tasks]
    assert list(moved) == [f"tiny-base {task} {reward}" for task in tasks for reward in ("likelihood", "classifier")]
    assert {entry["num_problems"] for entry in worked.values()} == {60}
    assert {entry["num_problems"] for entry in moved.values()} == {15}


@pytest.mark.slow
def test_ablations_are_kept_only_with_default_side_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (sweep, *_) = compose_sweeps("ablations", ["only=[flip]", "task=products", f"results_dir='{tmp_path}'"])
    monkeypatch.setattr(keep, "compose_sweeps", lambda target, overrides: [Sweep(sweep.overrides, [])])
    monkeypatch.setattr(row_movement, "wanted", lambda _: settings("a"))
    monkeypatch.setattr(right_token, "wanted", lambda _: {})
    folder = record_file(sweep.cells[0]).parents[2]
    folder.mkdir(parents=True)
    (gap,) = keep.gaps(find("ablations"), tmp_path)
    assert gap.startswith(f"{folder}/row_movement.csv has no rows that are known to be of p a r")
    side_tables.write(TABLE, folder, measured("a"))
    (gap,) = keep.gaps(find("ablations"), tmp_path)
    assert gap == f"{folder}/table.csv is not there: run ./reproduce.sh ablations again"
    (folder / "table.csv").write_text("x\n", encoding="utf-8")
    assert keep.gaps(find("ablations"), tmp_path) == [], "right_token.csv has no cells here"
