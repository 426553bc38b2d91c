"""Record files: which count, how cells of different settings are kept apart, and when a cell is complete."""

import copy
import csv
import json
import shutil
from pathlib import Path

import pytest
from toy_runs import write_summary

from nabla_reasoner.__main__ import main
from nabla_reasoner.config import compose, fingerprint
from nabla_reasoner.cost import Cost
from nabla_reasoner.evaluation import outcomes, provenance, record_files, stored_cells
from nabla_reasoner.evaluation.records import CellKey, append_records, failed_record, read_records, record_name
from nabla_reasoner.experiments import table2, table3, table5
from nabla_reasoner.experiments.table1 import write_table
from nabla_reasoner.reporting import ablation_runs, ablations
from nabla_reasoner.reporting.evidence import Evidence
from nabla_reasoner.types import Problem

SETTINGS = {
    "policy": {"name": "tiny-base", "path": "p", "weights": "0"},
    "reward": {"name": "likelihood", "path": "r", "kind": "likelihood", "weights": "1"},
    "task": {"name": "products", "settings": {"max_digits": 2}, "repeats": 1},
    "method": {"name": "greedy", "max_new_tokens": 24},
    "num_problems": 4,
    "threads": 1,
    "dtype": "float32",
}


@pytest.fixture(autouse=True)
def fresh_warnings() -> None:
    record_files.warn_once.cache_clear()


def write(
    folder: Path, method: str, seed: int = 0, *, changes: dict | None = None, count: int = 4, answer: str = "1"
) -> Path:
    """Records of problems p0, p1, …, all right, with settings; `changes` replaces dotted settings."""
    settings = copy.deepcopy(SETTINGS) | {"seed": seed}
    settings["method"]["name"] = method
    if method.startswith("nabla"):
        settings["method"] |= {"variant": "fixed", "step_size": 0.3, "max_rollouts": 8}
    for name, value in (changes or {}).items():
        *groups, last = name.split(".")
        part = settings
        for group in groups:
            part = part[group]
        part[last] = value
    names = {"policy": settings["policy"]["name"], "method": settings["method"]["name"], "seed": seed, "repeat": 0}
    records = []
    for index in range(count):
        record = failed_record(Problem(f"p{index}", "q", answer, settings["task"]["name"]), "x", **names)
        search = {"proposed": 1, "rejected": 0}
        spent = Cost(decode_tokens=1, model_calls=2, flops=3.0, seconds=4.0)._asdict()
        records.append(record | {"correct": True, "status": "ok", "error": None, "cost": spent, "search": search})
    key = CellKey(names["policy"], settings["task"]["name"], names["method"])
    path = folder / "records" / record_name(key, seed)
    append_records(path, records)
    path.with_suffix(".settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def tabulated(folder: Path) -> tuple[dict[tuple[str, str, str], dict], list[dict], str]:
    """Rows by policy, task and method, comparisons that were made, and the text of a table of all records."""
    experiment = outcomes.read_experiment(folder)
    grid = [
        {**key._asdict(), "seeds": cell.seeds, "expected": cell.expected(cell.seeds)}
        | {"paper_cell": {"policy": None, "benchmark": None}}
        for key, cell in experiment.cells.items()
    ]
    write_table(folder, grid=grid, experiment=experiment)
    rows, compared = (
        list(csv.DictReader((folder / name).read_text(encoding="utf-8").splitlines()))
        for name in ("table.csv", "comparisons.csv")
    )
    made = [row for row in compared if row["verdict"] != "not run"]
    text = (folder / "table.md").read_text(encoding="utf-8")
    return {(row["policy"], row["task"], row["method"]): row for row in rows}, made, text


def test_equal_settings_share_names_and_are_paired(tmp_path: Path):
    write(tmp_path, "nabla_reasoner")
    write(tmp_path, "best_of_n", changes={"threads": 2})
    rows, compared, text = tabulated(tmp_path)
    assert set(rows) == {("tiny-base", "products", "nabla_reasoner"), ("tiny-base", "products", "best_of_n")}
    assert len(compared) == 4
    assert "Cells differ in threads (1, 2)" in text


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"reward.name": "classifier", "reward.weights": "2", "reward.path": "c"}, "reward=classifier"),
        ({"reward.weights": "2"}, "reward.weights=2"),
        ({"task.settings.max_digits": 3}, "max_digits=3"),
        ({"task.sha256": "0" * 64}, "sha256=60e05bd1"),
        ({"task.suffix": "Think."}, "suffix=Think."),
        ({"method.max_new_tokens": 12}, "max_new_tokens=12"),
        ({"dtype": "bfloat16"}, "dtype=bfloat16"),
        ({"method.variant": "release"}, "variant=release"),
    ],
)
def test_cells_of_other_conditions_stand_apart_unpaired(tmp_path: Path, changes: dict, label: str):
    write(tmp_path, "nabla_reasoner")
    write(tmp_path, "nabla_without_gradient", changes=changes)
    rows, compared, text = tabulated(tmp_path)
    assert not compared
    assert ("tiny-base", f"products ({label})", "nabla_without_gradient") in rows
    assert not any(key[1] == "products" for key in rows), "both say what differs"
    assert "never compared" in text


def test_seeds_of_another_class_are_rows_of_their_own_unless_it_is_unknown(tmp_path: Path):
    """Records of an own method from before its class was noted go on in one row."""
    write(tmp_path / "old", "mine", 0)
    write(tmp_path / "old", "mine", 1, changes={"method.class": "nabla_reasoner.BestOfN"})
    rows, *_ = tabulated(tmp_path / "old")
    assert {key[2]: row["num_seeds"] for key, row in rows.items()} == {"mine": "2"}
    for seed, name in enumerate(("BestOfN", "Greedy")):
        write(tmp_path / "new", "mine", seed, changes={"method.class": f"nabla_reasoner.{name}"})
    rows, *_ = tabulated(tmp_path / "new")
    assert len(rows) == 2
    assert all("class=" in key[2] for key in rows)


def test_seeds_of_other_method_settings_are_rows_of_their_own(tmp_path: Path):
    write(tmp_path, "nabla_reasoner", 0)
    write(tmp_path, "nabla_reasoner", 1, changes={"method.step_size": 3})
    write(tmp_path, "best_of_n", 0)
    rows, compared, _ = tabulated(tmp_path)
    assert {key[2]: row["num_seeds"] for key, row in rows.items()} == {
        "nabla_reasoner (step_size=0.3)": "1",
        "nabla_reasoner (step_size=3)": "1",
        "best_of_n": "1",
    }
    assert {row["method"] for row in compared} == {"nabla_reasoner (step_size=0.3)"}


def test_two_paths_of_one_model_are_one_row_and_paired(tmp_path: Path):
    """A folder has several names: relative, absolute, through a link, after a move."""
    write(tmp_path, "nabla_reasoner", 0)
    write(tmp_path, "nabla_reasoner", 1, changes={"policy.path": "/elsewhere/p", "reward.path": "./r"})
    write(tmp_path, "best_of_n", 0, changes={"reward.path": "./r"})
    rows, compared, _ = tabulated(tmp_path)
    assert {key: row["num_seeds"] for key, row in rows.items()} == {
        ("tiny-base", "products", "nabla_reasoner"): "2",
        ("tiny-base", "products", "best_of_n"): "1",
    }
    assert compared
    write(tmp_path, "greedy", 0, changes={"reward.path": "other", "reward.weights": "2"})  # another model of this name
    rows, compared, _ = tabulated(tmp_path)
    assert {key[1]: row["num_seeds"] for key, row in rows.items() if key[2] == "nabla_reasoner"} == {
        "products (reward.weights=1)": "2"
    }
    assert compared


def test_paths_count_where_versions_are_unknown(tmp_path: Path):
    write(tmp_path, "greedy", 0, changes={"policy.weights": None})
    write(tmp_path, "greedy", 1, changes={"policy.weights": None, "policy.path": "q"})
    rows, _, _ = tabulated(tmp_path)
    assert {key[0] for key in rows} == {"tiny-base (policy.path=p)", "tiny-base (policy.path=q)"}


def test_seeds_of_another_policy_under_one_name_are_apart(tmp_path: Path):
    write(tmp_path, "greedy", 0)
    write(tmp_path, "greedy", 1, changes={"policy.weights": "9"})
    rows, _, _ = tabulated(tmp_path)
    assert {key[0] for key in rows} == {"tiny-base (policy.weights=0)", "tiny-base (policy.weights=9)"}


def test_problems_of_one_id_with_other_answers_are_not_paired(tmp_path: Path):
    write(tmp_path, "nabla_reasoner")
    write(tmp_path, "best_of_n", answer="2")
    _, compared, _ = tabulated(tmp_path)
    assert not compared
    notes = {row["note"] for row in csv.DictReader((tmp_path / "comparisons.csv").read_text("utf-8").splitlines())}
    assert notes == {"the problems of one id have different answers"}


def test_trained_policy_of_another_split_fills_no_cell_of_its_base(tmp_path: Path):
    write(tmp_path, "nabla_reasoner")
    write(tmp_path, "greedy", changes={"policy.name": "tiny-base-grpo", "split": "validation"})
    experiment = outcomes.read_experiment(tmp_path)
    row = {"policy": "tiny-base", "task": "products", "method": "grpo", "seeds": [0]}
    assert outcomes.row_outcomes(experiment.records, row) == []


ODD = ['{"num_problems": "forty"}', '{"task": null}', '{"batch_size": [1]}', '{"task": {"repeats": "2"}}', "[" * 10**5]


@pytest.mark.parametrize("content", ["", "{", "{}", "null", "[]", '"a"', "\x00", *ODD])
def test_damaged_settings_are_unknown_and_named(tmp_path: Path, content: str, capsys):
    write(tmp_path, "nabla_reasoner")
    damaged = write(tmp_path, "best_of_n").with_suffix(".settings.json")
    damaged.write_text(content, encoding="utf-8")
    rows, compared, text = tabulated(tmp_path)
    assert ("tiny-base", "products (settings unknown)", "best_of_n") in rows
    assert not compared
    assert "Settings unknown for 1 of 2 record files" in text
    assert capsys.readouterr().err.count(str(damaged)) == 1


@pytest.mark.parametrize(
    "name",
    [
        "{stem} copy.jsonl",
        "{stem} (1).jsonl",
        "._{stem}.jsonl",
        "{stem}.jsonl~",
        ".{stem}.jsonl.swp",
        "copy__of__{stem}.jsonl",
        "tiny-base__products__best_of_n__s1.jsonl",
        "tiny-base__products__best_of_n__s00.jsonl",
        "other__products__best_of_n__s0.jsonl",
    ],
)
def test_copies_are_ignored_and_named_once(tmp_path: Path, name: str, capsys):
    path = write(tmp_path, "best_of_n")
    before = tabulated(tmp_path)
    copied = path.with_name(name.format(stem=path.stem))
    shutil.copyfile(path, copied)
    assert tabulated(tmp_path) == before
    tabulated(tmp_path)
    warnings = [line for line in capsys.readouterr().err.splitlines() if copied.name in line]
    assert len(warnings) == 1
    assert "ignored" in warnings[0]


def test_folder_named_like_records_is_ignored(tmp_path: Path, capsys):
    path = write(tmp_path, "best_of_n")
    before = tabulated(tmp_path)
    path.with_name("a__b__c__s1.jsonl").mkdir()
    assert tabulated(tmp_path) == before
    assert "a__b__c__s1.jsonl" in capsys.readouterr().err


def test_names_with_underscores_come_from_the_records(tmp_path: Path):
    write(tmp_path, "greedy", changes={"policy.name": "a_"})
    ((key, _),) = stored_cells.stored_cells(tmp_path / "records")[0].items()
    assert key == ("a_", "products", "greedy")


def test_corrupt_first_record_is_named(tmp_path: Path):
    path = write(tmp_path, "greedy")
    path.write_text("{broken\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(ValueError, match="greedy__s0.jsonl, line 1: every line must be one JSON object"):
        outcomes.read_experiment(tmp_path)


def test_file_with_a_torn_first_record_has_no_records_yet(tmp_path: Path):
    path = write(tmp_path, "greedy")
    path.write_text('{"problem_id": "p', encoding="utf-8")
    assert outcomes.read_experiment(tmp_path).records == {}


def test_unknown_methods_are_the_last_rows(tmp_path: Path):
    for method in ("bon16", "greedy", "nabla_reasoner_multipass", "a_method"):
        write(tmp_path, method)
    found = sorted((key.method for key in outcomes.read_experiment(tmp_path).records), key=table3.rank)
    assert found == ["greedy", "nabla_reasoner_multipass", "a_method", "bon16"]


def test_records_of_two_cells_in_one_file_are_refused(tmp_path: Path):
    path, other = write(tmp_path, "greedy", count=2), write(tmp_path, "best_of_n", count=3)
    lines = other.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text(path.read_text(encoding="utf-8") + lines[2], encoding="utf-8")
    with pytest.raises(ValueError, match="line 3: all records of a file must be of one cell"):
        read_records(path)


def test_incomplete_cells_are_partial_everywhere(tmp_path: Path):
    folder = tmp_path / "table1"
    for method in ("best_of_n", "nabla_reasoner"):
        write(folder, method, count=3)
    rows, _, text = tabulated(folder)
    assert {row["status"] for row in rows.values()} == {"partial: 3 of 4"}
    assert "Partial: 2 of 2 cells are not complete" in text
    assert {row["status"] for row in table3.table_rows(tmp_path)} == {"partial: 3 of 4", "not run"}
    notes = {row["note"] for row in table5.table_rows(tmp_path) if row["quantity"] == "flops"}
    assert notes == {"best_of_n partial: 3 of 4; nabla_reasoner partial: 3 of 4"}
    experiment = outcomes.read_records_of("table1", tmp_path)
    assert any("Partial: 2 of 2" in note for note in experiment.notes())


def test_whole_benchmark_has_the_size_of_its_file(tmp_path: Path):
    write(tmp_path, "greedy", changes={"task.name": "math500", "num_problems": None})
    ((_, cell),) = stored_cells.stored_cells(tmp_path / "records")[0].items()
    assert cell.expected([0]) == 500


def test_whole_training_split_has_a_size_of_its_own(tmp_path: Path):
    for task, size in (("gsm8k", 7473), ("math500", None)):
        write(tmp_path / task, "greedy", changes={"task.name": task, "num_problems": None, "split": "validation"})
        ((_, cell),) = stored_cells.stored_cells(tmp_path / task / "records")[0].items()
        assert cell.expected([0]) == size


def test_whole_file_of_problems_has_its_rows(tmp_path: Path):
    """num_problems=null with a file: a run that stopped after 3 of its 40 rows is partial."""
    task = {"name": "math500", "sha256": "2", "repeats": 2}
    folder = tmp_path / "table1"
    write(folder, "greedy", changes={"task": task, "num_problems": None, "rows": 40}, count=3)
    ((_, cell),) = stored_cells.stored_cells(folder / "records")[0].items()
    assert cell.expected([0]) == 80
    rows, _, _ = tabulated(folder)
    assert {row["status"] for row in rows.values()} == {"partial: 3 of 80"}
    file = tmp_path / "problems.jsonl"
    file.write_text(
        '{"id": 1, "problem": "q", "answer": 1}\n\n{"id": 2, "problem": "q", "answer": 1}\n', encoding="utf-8"
    )
    (composed,) = compose.compose_cells(["task=math500", f"task.path={file}", "num_problems=null"])
    assert fingerprint.fingerprint(composed)["rows"] == 2


def test_release_of_another_split_is_no_row_of_table3(tmp_path: Path):
    write(tmp_path / "table1", "nabla_reasoner")
    write(tmp_path / "table1-release", "nabla_reasoner", changes={"method.variant": "release", "split": "validation"})
    *_, release = table3.table_rows(tmp_path)
    assert (release["variant"], release["rejected"]) == ("release", None)
    assert release["status"].startswith("not run: the records of the release have other settings")


def test_rewards_of_other_splits_are_other_tasks_of_table2(tmp_path: Path):
    for reward, split in (("likelihood", "test"), ("classifier", "validation")):
        write(tmp_path / reward, "nabla_reasoner", changes={"reward.name": reward, "split": split})
        tabulated(tmp_path / reward)
    table2.combine(tmp_path, ["likelihood", "classifier"])
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["task"] for row in rows] == ["products", "products (split=validation)"]


def test_rewards_with_other_numbers_of_problems_are_said_in_table2(tmp_path: Path):
    for reward, count in (("likelihood", 4), ("classifier", 2)):
        changes = {"reward.name": reward, "num_problems": count}
        write(tmp_path / reward, "nabla_reasoner", changes=changes, count=count)
        tabulated(tmp_path / reward)
    table2.combine(tmp_path, ["likelihood", "classifier"])
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "Rewards differ in their numbers of problems in 1 of 1 lines" in text
    assert "4 of likelihood, 2 of classifier" in text


def test_rewards_of_other_policies_under_one_name_are_other_policies_of_table2(tmp_path: Path):
    """The spread over rewards would be one over policies."""
    for reward, weights in (("likelihood", "0"), ("classifier", "9")):
        changes = {"reward.name": reward, "reward.weights": reward, "policy.weights": weights}
        write(tmp_path / reward, "greedy", changes=changes)
        tabulated(tmp_path / reward)
    table2.combine(tmp_path, ["likelihood", "classifier"])
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["policy"] for row in rows] == ["tiny-base (policy.weights=0)", "tiny-base (policy.weights=9)"]


@pytest.mark.parametrize("copied", ["copy of likelihood", "likelihood-old"])
def test_copy_of_a_rewards_folder_is_no_reward_of_table2(tmp_path: Path, capsys, copied: str):
    """The two best rewards would tie, which decides C4."""
    write(tmp_path / "likelihood", "nabla_reasoner", changes={"reward.name": "likelihood"})
    tabulated(tmp_path / "likelihood")
    assert table2.is_reward(tmp_path / "likelihood")
    shutil.copytree(tmp_path / "likelihood", tmp_path / copied)
    assert not table2.is_reward(tmp_path / copied)
    assert f"{tmp_path / copied}: ignored, because its records are of the reward likelihood" in capsys.readouterr().err


def test_table2_names_settings_of_methods_that_differ_between_rewards(tmp_path: Path):
    """Two tuned step sizes, or 8 samples beside one, are not a difference of the rewards alone."""
    for reward, samples in (("likelihood", 8), ("classifier", 1)):
        write(tmp_path / reward, "best_of_n", changes={"reward.name": reward, "method.num_samples": samples})
        write(tmp_path / reward, "nabla_reasoner", changes={"reward.name": reward})
        tabulated(tmp_path / reward)
    table2.combine(tmp_path, ["likelihood", "classifier"])
    page = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert page.count("differ between rewards") == 1
    assert "Settings of best_of_n differ between rewards: num_samples=8 (likelihood), 1 (classifier).\n" in page


def test_ablation_of_another_split_is_not_compared(tmp_path: Path):
    write(tmp_path / "default", "nabla_reasoner")
    write(tmp_path / "same", "nabla_reasoner", changes={"method.step_size": 1.0})
    write(tmp_path / "other", "nabla_reasoner", changes={"method.step_size": 1.0, "split": "validation"})
    write(tmp_path / "two", "nabla_reasoner", changes={"method.step_size": 1.0, "method.max_rollouts": 4})
    loaded = {name: ablation_runs.load_runs(tmp_path / name) for name in ("default", "same", "other", "two")}
    settings = [ablations.Setting("step", name, name, None, "", frozenset({"step_size"})) for name in loaded]
    rows = {row["setting"]: row for row in ablations.table_rows(settings, loaded)}
    assert (rows["same"]["difference"], rows["same"]["status"]) == (0.0, "ok")
    assert rows["other"]["difference"] is None
    assert rows["other"]["status"].startswith("not run: the records are not of the default's questions")
    assert rows["two"]["difference"] is None
    assert rows["two"]["status"] == "not run: the records differ from the default's in max_rollouts too"


def test_pool_of_other_settings_is_named_and_left_out(tmp_path: Path, capsys):
    size = {"method.num_samples": 8, "method.temperature": 0.7}
    write(tmp_path, "best_of_n", changes=size)
    for temperature, used in ((0.7, True), (5.0, False)):
        larger = {"method.num_samples": 32, "method.temperature": temperature}
        pool = write(tmp_path / "pool", "best_of_n", changes=larger)
        (tmp_path / "budget").mkdir(exist_ok=True)
        for file in (pool, pool.with_suffix(".settings.json")):
            (tmp_path / "budget" / file.name).write_bytes(file.read_bytes())
        experiment = outcomes.read_experiment(tmp_path)
        assert (len(experiment.pools) > 0) == used
        assert ("its temperature is not that of the records" in capsys.readouterr().err) == (not used)


def test_versions_of_a_part_are_those_of_its_experiment(tmp_path: Path):
    one = {"commit": "a" * 40, "dirty": False}
    write_summary(tmp_path, runs=[one, {**one, "dirty": True}])
    assert provenance.mixed_versions(tmp_path / "classifier") == [
        "Commands of different versions or devices worked on these results: commits aaaaaaaa, aaaaaaaa-dirty."
    ]


def test_other_devices_are_said(tmp_path: Path):
    write_summary(tmp_path, runs=[{"device": "a CPU"}, {"device": "a GPU"}, {"device": "a CPU"}])
    (sentence,) = provenance.mixed_versions(tmp_path)
    assert sentence.endswith(": devices a CPU, a GPU.")


def test_other_commits_and_packages_are_said_in_the_table(tmp_path: Path):
    write(tmp_path, "greedy")
    one = {"commit": "a" * 40, "dirty": False, "packages": {"torch": "1"}}
    write_summary(tmp_path, runs=[one, one])
    assert "different versions" not in tabulated(tmp_path)[2]
    write_summary(tmp_path, runs=[one, {**one, "commit": "b" * 40, "packages": {"torch": "2"}}])
    text = tabulated(tmp_path)[2]
    assert "different versions or devices worked on these results: commits aaaaaaaa, bbbbbbbb; torch 1, 2." in text


@pytest.mark.parametrize(
    ("changed", "said", "noted"),
    [
        ({"python": "3.9"}, "Python 3.9 (now 3.", "Python 3.9, 3."),
        ({"device": "an abacus"}, "device an abacus (now ", "devices an abacus, "),
        ({"dirty": True}, "uncommitted changes True (now False)", "commits aaaaaaaa-dirty, aaaaaaaa."),
        ({"packages": {"sympy": "0.1"}}, "sympy 0.1 (now 1.", "sympy 0.1, 1."),
    ],
)
def test_what_differs_from_an_earlier_run_is_said_by_run_and_table(
    tmp_path: Path, monkeypatch, capsys, changed: dict, said: str, noted: str
):
    monkeypatch.setattr(provenance, "commit", lambda: {"commit": "a" * 40, "dirty": False})
    arguments = (tmp_path, "./reproduce.sh x", {}, {"seed": [0]}, "cpu")
    provenance.Summary(*arguments).close("finished")
    provenance.Summary(*arguments).close("finished")
    assert "earlier run" not in capsys.readouterr().err
    path = tmp_path / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    for run in (summary, *summary["invocations"]):
        run |= changed
    path.write_text(json.dumps(summary), encoding="utf-8")
    provenance.Summary(*arguments).close("finished")
    assert said in capsys.readouterr().err
    (told,) = provenance.mixed_versions(tmp_path)
    assert noted in told


@pytest.mark.parametrize("content", ["", "{", "{}", "null", '{"invocations": []}', '{"invocations": [1]}'])
def test_damaged_summary_is_replaced_with_a_line(tmp_path: Path, content: str, capsys):
    (tmp_path / "summary.json").write_text(content, encoding="utf-8")
    provenance.Summary(tmp_path, "./reproduce.sh x", {}, {"seed": [0]}, "cpu").close("finished")
    assert "summary.json is damaged" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["invocations"]) == 1
    assert provenance.read_summary(tmp_path)["status"] == "finished"


@pytest.mark.parametrize(
    "changes",
    [
        {"packages": None},
        {"packages": {"torch": 2}},
        {"config": []},
        {"peak_bytes": "much"},
        {"invocations": [{"command": "x", "commit": 5}]},
        {"invocations": [{"command": "x", "wall_clock_seconds": "1 h"}]},
        {"invocations": [{"command": "x", "packages": None}]},
    ],
)
def test_summary_with_values_of_another_type_is_damaged(tmp_path: Path, changes: dict, capsys):
    provenance.Summary(tmp_path, "./reproduce.sh x", {}, {"seed": [0]}, "cpu").close("finished")
    path = tmp_path / "summary.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert provenance.read_summary(tmp_path) == content
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")
    assert provenance.mixed_versions(tmp_path) == []
    assert f"{path} is damaged" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("target", ["table3", "table5", "figure3", "figure4"])
def test_damaged_side_files_break_no_target(tmp_path: Path, target: str, capsys):
    folder = tmp_path / "tiny" / "table1"
    for method in ("best_of_n", "nabla_reasoner"):
        write(folder, method).with_suffix(".settings.json").write_text("", encoding="utf-8")
    (folder / "summary.json").write_text("null", encoding="utf-8")
    assert main([target, f"results_dir={tmp_path}"]) == 0
    assert "is damaged" in capsys.readouterr().err


def test_problems_that_are_no_test_problems_are_named_by_the_task_and_decide_no_claim(tmp_path: Path):
    """The table of validation problems looked like the usual one, and was evidence for the claims."""
    folder = tmp_path / "table1"
    for method in ("greedy", "nabla_reasoner"):
        write(folder, method, changes={"split": "validation"})
    (name,) = {key.task for key in stored_cells.stored_cells(folder / "records")[0]}
    assert name == "products (split=validation)"
    assert not stored_cells.is_test(name)
    write(folder, "greedy", seed=1)
    assert {key.task for key in stored_cells.stored_cells(folder / "records")[0]} == {"products", name}
    rows = [{"policy": "a", "task": task, "difference": 1.0} for task in ("products", name)]
    pooled = [{"policy": policy, "task": task} for policy, task in (("a", "all"), ("a", name), ("b", "all"))]
    evidence = Evidence(comparisons=rows, ablations=pooled, checks=[{"name": "x"}]).of_test_problems()
    assert evidence.comparisons == rows[:1]
    assert evidence.ablations == [{"policy": "b", "task": "all"}]
    assert evidence.checks == [{"name": "x"}]


def test_other_problems_of_other_settings_change_no_name_of_the_test_problems(tmp_path: Path):
    """One validation cell took the test cells from the grid of the claims, and the ceiling from Figure 4."""
    for method in ("best_of_n", "nabla_reasoner"):
        write(tmp_path, method)
    other = {"split": "validation", "reward.name": "classifier", "reward.weights": "2", "policy.weights": "3"}
    write(tmp_path, "best_of_n", seed=1, changes=other)
    rows, compared, text = tabulated(tmp_path)
    assert {key[1:]: row["num_seeds"] for key, row in rows.items()} == {
        ("products", "best_of_n"): "1",
        ("products", "nabla_reasoner"): "1",
        ("products (split=validation)", "best_of_n"): "1",
    }
    assert {row["task"] for row in compared} == {"products"}
    assert "never compared" in text
    write(tmp_path, "greedy", seed=1, changes={"split": "validation"})
    names = {key.task for key in stored_cells.stored_cells(tmp_path / "records")[0]}
    ends = ("reward=classifier", "reward=likelihood")
    assert names == {"products", *(f"products ({end}) (split=validation)" for end in ends)}


def test_unknown_settings_are_named_beside_validation_problems(tmp_path: Path):
    write(tmp_path, "greedy").with_suffix(".settings.json").unlink()
    write(tmp_path, "best_of_n", changes={"split": "validation"})
    names = {key.task for key in stored_cells.stored_cells(tmp_path / "records")[0]}
    assert names == {"products (settings unknown)", "products (split=validation)"}


def test_seeds_of_different_numbers_of_problems_are_a_partial_row(tmp_path: Path):
    """Each file is complete by its own settings."""
    folder = tmp_path / "table1"
    write(folder, "greedy", seed=0)
    write(folder, "greedy", seed=1, changes={"num_problems": 2}, count=2)
    rows, _, _ = tabulated(folder)
    assert [row["status"] for row in rows.values()] == ["partial: seeds of 2 to 4 records"]
