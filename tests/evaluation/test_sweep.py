"""Rows of a table: policies improved by training, methods that a scale has not, several rewards."""

import csv
from pathlib import Path

import pytest

from nabla_reasoner.config.cell import Cell
from nabla_reasoner.config.sweeps import compose_sweeps
from nabla_reasoner.cost import Cost
from nabla_reasoner.evaluation.records import append_records, failed_record, record_path
from nabla_reasoner.experiments.table2 import write_tables
from nabla_reasoner.reporting import accuracy_table
from nabla_reasoner.types import Problem

ASKED = ["task=products", "seed=0"]


def cells(folder: Path, target: str, *overrides: str) -> list[Cell]:
    sweeps = compose_sweeps(target, [*ASKED, *overrides, f"results_dir={folder}"])
    return [cell for part in sweeps for cell in part.cells if not cell.budget]


def write(cell: Cell, correct: list[bool]) -> None:
    """Records of a cell, by hand."""
    policy, task, method = (getattr(cell, group).name for group in ("policy", "task", "method"))
    records = []
    for index, right in enumerate(correct):
        record = failed_record(
            Problem(f"p{index}", "q", "1", task), "-", policy=policy, method=method, seed=0, repeat=0
        )
        record |= {"correct": right, "status": "ok", "error": None, "cost": Cost(flops=5.0)._asdict(), "search": {}}
        records.append(record)
    path = record_path(Path(cell.records, "records"), policy, task, method, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    append_records(path, records)


def rows(path: Path) -> dict[tuple[str, ...], dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return {tuple(row[n] for n in ("policy", "task", "method")): row for row in csv.DictReader(stream)}


@pytest.mark.slow
def test_trained_policys_greedy_row_is_its_bases_row(tmp_path: Path):
    own = cells(tmp_path, "table1")
    for cell in own:
        if cell.policy.name == "tiny-base-sft" and cell.method.name == "greedy":
            write(cell, [True, True, False, False])
    write_tables(own)
    table = rows(tmp_path / "tiny/table1/table.csv")
    for key in (("tiny-base-sft", "products", "greedy"), ("tiny-base", "products", "sft")):
        assert (table[key]["accuracy"], table[key]["status"]) == ("50", "ok")
    assert table["tiny-base", "products", "grpo"]["status"] == "not run"
    assert table["tiny-base-sft", "products", "grpo"]["status"] == "not run"
    assert ("tiny-base-sft", "products", "sft") not in table


@pytest.mark.slow
def test_absent_method_row_shows_reason_and_paper_value(tmp_path: Path):
    own = cells(tmp_path, "table1")
    write_tables(own)
    table = rows(tmp_path / "tiny/table1/table.csv")
    assert table["tiny-base", "products", "tpo"]["status"].startswith("not applicable: no policy of this scale")
    assert table["tiny-base", "products", "tpo"]["accuracy"] == ""
    assert ("tiny-base-grpo", "products", "tpo") not in table
    assert table["tiny-base", "products", "grpo"]["paper_value"] == "70.8"


@pytest.mark.slow
def test_table2_joins_tables_of_rewards_weakest_first(tmp_path: Path):
    own = cells(tmp_path, "table2", "policy=tiny-base")
    for cell in own:
        better = {"likelihood-weak": 1, "likelihood": 3}.get(cell.reward.name)
        if better and cell.method.name == "nabla_reasoner":
            write(cell, [index < better for index in range(4)])
    write_tables(own)
    folder = tmp_path / "tiny/table2"
    with (folder / "table.csv").open(newline="", encoding="utf-8") as stream:
        lines = [row for row in csv.DictReader(stream) if row["method"] == "nabla_reasoner"]
    assert [(row["reward"], row["accuracy"]) for row in lines] == [
        ("likelihood-weak", "25"),
        ("likelihood-medium", ""),
        ("likelihood", "75"),
        ("classifier", ""),
    ]
    assert set(lines[0]) == {"reward", *accuracy_table.COLUMNS}
    assert (folder / "likelihood" / "comparisons.csv").is_file()
    text = (folder / "table.md").read_text(encoding="utf-8")
    assert text.index("likelihood-weak") < text.index("likelihood-medium")
    assert "| tiny-base" in text


@pytest.mark.slow
def test_table2_shows_the_papers_reward_sizes(tmp_path: Path):
    own = cells(tmp_path, "table2", "policy=tiny-instruct")
    write_tables(own)
    values = {}
    for name in ("likelihood-weak", "likelihood-medium", "likelihood"):
        table = rows(tmp_path / "tiny/table2" / name / "table.csv")
        values[name] = table["tiny-instruct", "products", "nabla_reasoner"]["paper_value"]
    assert values == {"likelihood-weak": "", "likelihood-medium": "80.4", "likelihood": "80.8"}
