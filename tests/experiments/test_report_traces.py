"""Pages of problems step by step, beside the report: which problems, what is on them, and no harm to the report."""

import json
from pathlib import Path

import pytest

from nabla_reasoner.__main__ import main
from nabla_reasoner.config import build
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.evaluation.cell_records import record_file, write_settings
from nabla_reasoner.evaluation.records import append_records, failed_record
from nabla_reasoner.experiments import report_traces
from nabla_reasoner.experiments.report_traces import Case, cases

RIGHT = "1+1=2"


def record(problem: str, correct: bool, response: str = RIGHT, status: str = "ok") -> dict:
    return {"problem_id": problem, "task": "chain_sum", "correct": correct, "response": response, "status": status}


def records(**rows: list[dict]) -> dict[str, dict[str, dict]]:
    names = ("greedy", "best_of_n", "nabla_reasoner", "nabla_reasoner_prefix")
    return {name: {row["problem_id"]: row for row in rows.get(name, [])} for name in names}


def test_cases_are_the_first_right_alone_and_the_first_wrong():
    baseline = [record("a", True), record("b", False), record("c", False), record("d", False), record("e", False)]
    solved = [
        record("a", True),
        record("b", True, "1+1=3;3+0=2"),  # right by two errors that cancel each other
        record("f", True),  # no baseline has it
        record("c", False, status="failed"),
        record("d", False),
        record("e", True),
    ]
    found = cases(
        records(
            greedy=baseline,
            best_of_n=baseline,
            nabla_reasoner=solved,
            nabla_reasoner_prefix=[record("d", True)],
        )
    )
    assert found == [
        Case("nabla_reasoner", "e", "right, where greedy decoding and Best-of-N are wrong"),
        Case("nabla_reasoner", "d", "wrong"),
        Case("nabla_reasoner_prefix", "d", "the same problem, right"),
    ]
    assert cases(records(greedy=baseline, best_of_n=baseline)) == []


def test_best_of_n_that_is_right_leaves_nothing_to_show():
    found = cases(
        records(
            greedy=[record("a", False)],
            best_of_n=[record("a", True)],
            nabla_reasoner=[record("a", True)],
        )
    )
    assert found == []


@pytest.mark.slow
def test_results_without_records_and_other_models_have_no_pages(tmp_path: Path, capsys):
    assert report_traces.write_pages(tmp_path, "tiny", tmp_path) == []
    (tmp_path / "unseen/table1/records").mkdir(parents=True)
    assert report_traces.write_pages(tmp_path, "unseen", tmp_path) == []
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_results_folder_with_an_apostrophe_is_read(tmp_path: Path, capsys):
    results = tmp_path / "Ada's $results, {1}"
    (results / "tiny/table1/records").mkdir(parents=True)
    assert report_traces.write_pages(results, "tiny", results) == []
    assert capsys.readouterr().err == "", "nothing was run, which is no error"


def test_an_error_is_one_line_and_old_pages_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    old = tmp_path / "traces" / "1_nabla_reasoner.html"
    old.parent.mkdir()
    old.write_text("old")

    def failing(*_: object) -> list[tuple[str, str]]:
        raise RuntimeError("no\nmemory")

    monkeypatch.setattr(report_traces, "_write", failing)
    assert report_traces.write_pages(tmp_path, "tiny", tmp_path) == []
    assert capsys.readouterr().err == "note: the report has no pages step by step; RuntimeError: no memory\n"
    assert not old.parent.exists()


def test_records_of_more_problems_than_the_default_are_read(tmp_path: Path):
    words = ["experiment=table1", "policy=tiny-base", "task=products", "method=greedy", f"results_dir={tmp_path}"]
    larger, default = (compose_cells([*words, "seed=0", f"num_problems={count}"])[0] for count in (3, 2))
    names = [problem.id for problem in build.build_problems(larger)]
    made = [
        failed_record(problem, "x", policy="tiny-base", method="greedy", seed=0, repeat=0)
        for problem in build.build_problems(larger)
    ]
    append_records(record_file(larger), made)
    write_settings(larger)
    assert list(report_traces._records(default, names[:2])) == names[:2]
    with pytest.raises(ValueError, match="other settings"):
        report_traces._records(default.changed(num_problems=2, dtype="bfloat16"), names[:2])


@pytest.mark.slow
def test_pages_show_the_responses_of_the_records(tmp_path: Path, capsys):
    words = ["policy=tiny-instruct", "task=products", "seed=0", "num_problems=16", f"results_dir={tmp_path}"]
    methods = "method=greedy,best_of_n,nabla_reasoner,nabla_reasoner_prefix"
    assert main(["table1", *words, methods, "wandb=disabled"]) == 0
    folder = tmp_path / "tiny" / "report"
    folder.mkdir()
    links = report_traces.write_pages(tmp_path, "tiny", folder)
    assert [address for address, _ in links] == [
        "traces/1_nabla_reasoner.html",
        "traces/2_nabla_reasoner.html",
        "traces/3_nabla_reasoner_prefix.html",
    ]
    for (address, text), state in zip(links, ("right", "wrong", None), strict=True):
        method = Path(address).stem[2:]
        path = tmp_path / "tiny/table1/records" / f"tiny-instruct__products__{method}__s0.jsonl"
        stored = {row["problem_id"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
        row = stored[text.partition(",")[0]]
        page = (folder / address).read_text(encoding="utf-8")
        assert row["response"] in page
        assert f"{'right' if row['correct'] else 'wrong'}: " in page
        assert state in (None, "right" if row["correct"] else "wrong")
    path = tmp_path / "tiny/table1/records/tiny-instruct__products__nabla_reasoner__s0.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"response": "', '"response": "9'), encoding="utf-8")
    capsys.readouterr()
    assert report_traces.write_pages(tmp_path, "tiny", folder) == []
    assert "solved again must be the record's response" in capsys.readouterr().err
