"""Complete table runs in this process, on random models of the smallest size."""

import csv
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import lightning
import pytest
import torch
import toys
from toy_runs import command, records_below, without_timings

from nabla_reasoner import BestOfN, Greedy, Policy, Problem
from nabla_reasoner.__main__ import INTERRUPTED, WRONG, main
from nabla_reasoner.config import build, compose
from nabla_reasoner.evaluation import cell_runner, prediction
from nabla_reasoner.evaluation.provenance import Summary
from nabla_reasoner.evaluation.records import read_records
from nabla_reasoner.evaluation.results_folder import locked
from nabla_reasoner.evaluation.rollout_engine import RolloutEngine
from nabla_reasoner.experiments import table2
from nabla_reasoner.experiments.command import FAILED
from nabla_reasoner.models import loading
from nabla_reasoner.reporting.tables import read_csv


@pytest.mark.slow
def test_table1_writes_records_tables_and_summary(tmp_path: Path, capsys):
    assert main(command(tmp_path, "num_problems=3", "max_new_tokens=4")) == 0
    folder = tmp_path / "tiny" / "table1"
    files = records_below(folder)
    assert len(files) == 16 + 5, "sixteen methods, and the larger pools of five"
    assert all(len(records) == 3 for records in files.values())
    rows = list(csv.DictReader((folder / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["method"] for row in rows if row["num_problems"] == "3"} == {path.split("__")[2] for path in files}
    for name in ("table.md", "table.tex", "comparisons.csv"):
        assert (folder / name).stat().st_size > 0
    content = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert content["status"] == "finished"
    assert content["seed"] == [0]
    assert content["command"].startswith("./reproduce.sh table1 policy=tiny-base")
    for key in ("config", "commit", "dirty", "packages", "device", "wall_clock_seconds", "peak_bytes"):
        assert key in content
    printed = capsys.readouterr().out
    assert "[21/21]" in printed
    assert "left" in printed
    assert str(folder) in printed


@pytest.mark.slow
def test_repeated_command_reuses_records_other_folder_reproduces_them(tmp_path: Path):
    narrow = ("method=greedy,nabla_reasoner", "num_problems=3", "max_new_tokens=5")
    assert main(command(tmp_path / "a", *narrow)) == 0
    files = sorted((tmp_path / "a").rglob("*.jsonl"))
    before = [path.read_bytes() for path in files]
    assert main(command(tmp_path / "a", *narrow)) == 0
    assert [path.read_bytes() for path in files] == before
    assert main(command(tmp_path / "b", *narrow)) == 0
    assert records_below(tmp_path / "a") == records_below(tmp_path / "b")


@pytest.mark.slow
def test_truncated_records_are_completed_identically(tmp_path: Path):
    narrow = ("method=best_of_n",)
    assert main(command(tmp_path, *narrow)) == 0
    path = next(tmp_path.rglob("*.jsonl"))
    whole, undisturbed = path.read_text(encoding="utf-8"), records_below(tmp_path)
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:40], encoding="utf-8")  # half a chunk, then an incomplete line
    assert main(command(tmp_path, *narrow)) == 0
    assert records_below(tmp_path) == undisturbed


@pytest.mark.slow
def test_records_left_unsorted_by_a_kill_are_sorted_when_the_command_is_typed_again(tmp_path: Path):
    narrow = ("method=best_of_n",)
    assert main(command(tmp_path, *narrow)) == 0
    path = next(tmp_path.rglob("*.jsonl"))
    undisturbed = path.read_text(encoding="utf-8")
    path.write_text("".join(reversed(undisturbed.splitlines(keepends=True))), encoding="utf-8")
    assert main(command(tmp_path, *narrow)) == 0
    assert path.read_text(encoding="utf-8") == undisturbed


@pytest.mark.slow
def test_records_of_other_settings_refused_and_unchanged(tmp_path: Path, capsys):
    assert main(command(tmp_path, "method=best_of_n")) == 0
    path = next(tmp_path.rglob("*.jsonl"))
    before = path.read_bytes()
    assert main(command(tmp_path, "method=best_of_n", "method.temperature=0.9")) == WRONG
    message = capsys.readouterr().err
    assert "method.temperature: 0.7 -> 0.9" in message
    assert "overwrite=true" in message
    assert path.read_bytes() == before
    assert main(command(tmp_path, "method=best_of_n", "method.temperature=0.9", "overwrite=true")) == 0
    assert len(read_records(path)) == 5
    assert path.read_bytes() != before


@pytest.mark.slow
def test_records_are_replaced_only_once_the_models_are_loaded(tmp_path: Path, capsys, monkeypatch):
    words = command(tmp_path, "method=greedy")
    assert main(words) == 0
    path = next(tmp_path.rglob("*.jsonl"))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(RolloutEngine, "models", raising(ValueError("its weights must be finite; got NaN")))
        assert main([*words, "overwrite=true"]) == FAILED
    assert "not done: tiny-base products greedy seed 0, whose earlier records are kept" in capsys.readouterr().err
    assert path.read_bytes() == before
    with monkeypatch.context() as patch:
        patch.setattr(RolloutEngine, "models", raising(KeyboardInterrupt()))
        assert main([*words, "overwrite=true"]) == INTERRUPTED
    assert "Run the same command without overwrite=true to resume" in capsys.readouterr().err
    assert path.read_bytes() == before


def raising(error: BaseException) -> Callable[..., None]:
    def function(*_: object) -> None:
        raise error

    return function


def broken_folder(tmp_path: Path, how: str) -> str:
    """Copy the random policy with one file damaged or missing; return the folder."""
    folder = tmp_path / how
    folder.mkdir()
    for file in Path(toys.model_folder("qwen2")).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    if how == "corrupt":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:500])
    if how == "template":
        (folder / "chat_template.jinja").unlink()
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["task=nothing"], ["task/nothing", "products"]),
        (["method=nabla_reasoner", "method.max_rollouts=0"], ["max_rollouts", "0"]),
        (["method=nabla_reasoner", "method.reward_weight=-1"], ["reward_weight", "-1"]),
        (["method=best_of_n", "method.temperature=-0.5"], ["temperature", "-0.5"]),
        (["method=best_of_n", "method.num_samples=many"], ["best_of_n"]),
        (["method=greedy", "policy.path=no/such/folder"], ["no/such/folder"]),
        (["method=greedy", "policy.path={corrupt}"], ["corrupt", "cannot be read"]),
        (["method=greedy", "policy.path={template}"], ["chat template"]),
        (["method=greedy", "max_new_tokens=5000"], ["context", "5000"]),
        (["method=greedy", "method.max_new_tokens=5000"], ["context", "5000"]),
        (["method=greedy", "results_dir=' '"], ["results_dir must be text that is not empty"]),
        (["method=greedy", "results_dir=a,b"], ["results_dir must be one folder; got a, b"]),
        (["method=greedy", "seed=interval(0,1)"], ["seed must be values with commas between them"]),
        (["method=greedy", "sweep=5"], ["sweep must be a group of settings; got 5"]),
        (["method=greedy", "method.budget=5", "budget=true"], ["budget"]),
        (["method=greedy", "method._target_=nabla_reasoner.nothing"], ["nothing"]),
        (["method=greedy", "threads=100000"], ["threads must be a number <= 1024"]),
        (["method=greedy", "policy.name=."], ["policy.name must be a name with letters or digits; got '.'"]),
        (["method=greedy", "reward.name=a/b"], ["reward.name must be a name without a slash; got 'a/b'"]),
        (["method=greedy", "task=math500", "task.path=missing.jsonl"], ["missing.jsonl"]),
        (["method=greedy", "task=math500", "task.path={empty}"], ["at least one row"]),
        (["method=greedy", "task=math500", "task.path={malformed}"], ["line 2"]),
        (["method=greedy", "dtype=float8"], ["dtype", "float8"]),
    ],
)
def test_bad_input_exits_2_and_writes_nothing(tmp_path: Path, capsys, settings: list[str], words: list[str]):
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    row = '{"id": "1", "problem": "1+1?", "answer": "2"}\n'
    (tmp_path / "malformed.jsonl").write_text(row + "{broken\n", encoding="utf-8")
    places = {name: str(tmp_path / f"{name}.jsonl") for name in ("empty", "malformed")}
    for how in ("corrupt", "template"):
        if f"{{{how}}}" in "".join(settings):
            places[how] = broken_folder(tmp_path, how)
    replaced = {setting.split("=")[0] for setting in settings}
    base = [word for word in command(tmp_path / "results") if word.split("=")[0] not in replaced]
    assert main([*base, *(setting.format(**places) for setting in settings)]) == WRONG
    errors = capsys.readouterr().err.strip()
    assert errors.startswith("error: ")
    assert "\n" not in errors
    for word in words:
        assert word in errors
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize("spelling", ["{}/", "{}/./", "{}//"])
def test_two_spellings_of_a_folder_are_one(tmp_path: Path, spelling: str):
    base = [word for word in command(tmp_path) if not word.startswith("results_dir=")]
    assert main([*base, "method=greedy", f"results_dir={spelling.format(tmp_path)}"]) == 0
    row = read_csv(tmp_path / "tiny" / "table1" / "table.csv")[0]
    assert row["status"] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["summary.json", "table.csv", "wandb/mirrored.json"])
def test_folder_in_place_of_a_file_of_results_is_refused_before_the_run(tmp_path: Path, capsys, name: str):
    path = tmp_path / "tiny" / "table1" / name
    path.mkdir(parents=True)
    assert main(command(tmp_path, "method=greedy")) == WRONG
    errors = capsys.readouterr().err
    assert errors == f"error: {path} must be a file; got a folder. Move it, or choose results_dir=DIR.\n"
    assert not list(tmp_path.rglob("*.jsonl"))


def test_unknown_target_error_lists_valid_ones(capsys):
    assert main(["tabel1"]) == WRONG
    assert "table1, table1-release, table2, table3" in capsys.readouterr().err


@pytest.mark.slow
def test_failing_problem_becomes_failed_record_and_run_continues(tmp_path: Path, monkeypatch, capsys):
    solve = Greedy.solve

    def failing(self, problems, *arguments, **settings):
        if any(problem.id == bad for problem in problems):
            raise RuntimeError("out of\nluck")
        return solve(self, problems, *arguments, **settings)

    bad = build.build_problems(compose.compose_cells(["task=products", "num_problems=5"])[0])[2].id
    monkeypatch.setattr(Greedy, "solve", failing)
    assert main(command(tmp_path, "method=greedy")) == FAILED
    records = read_records(next(tmp_path.rglob("*.jsonl")))
    assert len(records) == 5
    (failed,) = [record for record in records if record["status"] == "failed"]
    assert failed["problem_id"] == bad
    assert failed["error"] == "RuntimeError: out of luck"
    assert failed["correct"] is False
    assert "1 problems failed" in capsys.readouterr().err


@pytest.mark.slow
def test_failing_cell_leaves_other_cells_running(tmp_path: Path, monkeypatch, capsys):
    run_cell = cell_runner.run_cell

    def breaking(built, label, engine):
        if built.cell.method.name == "greedy":
            raise OSError("no such device")
        run_cell(built, label, engine)

    monkeypatch.setattr(cell_runner, "run_cell", breaking)
    assert main(command(tmp_path, "method=greedy,self_consistency")) == FAILED
    assert [path.name.split("__")[2] for path in tmp_path.rglob("*.jsonl")] == ["self_consistency"]
    assert "no such device" in capsys.readouterr().err


def test_interrupt_is_reported_and_recorded_in_summary(tmp_path: Path, monkeypatch, capsys):
    def interrupted(self, problems, *arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(Greedy, "solve", interrupted)
    assert main(command(tmp_path, "method=greedy")) == INTERRUPTED
    assert "same command" in capsys.readouterr().err
    assert json.loads(next(tmp_path.rglob("summary.json")).read_text(encoding="utf-8"))["status"] == "interrupted"


def test_inference_mode_is_refused_with_remedy():
    policy, reward = toys.policy(dtype="float32"), toys.reward(dtype="float32")
    module = prediction.Inference(Greedy(max_new_tokens=2), policy, reward, 0)
    chunk = prediction.Chunk(0, [Problem("a", "1+1?", "2", "free")])
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode=False"):
        module.predict_step(chunk)


def test_chunks_split_every_repeat_identically():
    problems = [Problem(str(number), "?", None, "free") for number in range(5)]
    cut = [(chunk.repeat, [problem.id for problem in chunk.problems]) for chunk in prediction.chunks(problems, 2, 2)]
    assert cut == [(r, ids) for r in (0, 1) for ids in (["0", "1"], ["2", "3"], ["4"])]


@pytest.mark.slow
def test_plan_loads_nothing_and_names_weights_and_cost(capsys, monkeypatch):
    monkeypatch.setattr(Policy, "from_pretrained", None)
    assert main(["plan", "table1", "scale=paper", "policy=qwen2.5-7b-instruct", "task=math500,amc"]) == 0
    printed = capsys.readouterr().out
    for word in ("30 cells", "Qwen/Qwen2.5-7B-Instruct", "15.2 GB", "FLOPs", "hours", "Skywork"):
        assert word in printed
    assert main(["plan", "nothing"]) == WRONG


@pytest.mark.slow
def test_two_processes_share_the_chunks(tmp_path: Path):
    assert main(command(tmp_path / "one", "method=best_of_n")) == 0
    assert main(command(tmp_path / "two", "method=best_of_n", "devices=2")) == 0
    one, two = (read_records(next((tmp_path / name).rglob("*.jsonl"))) for name in ("one", "two"))
    assert without_timings(one) == without_timings(two)


def test_method_classes_are_the_public_ones():
    assert type(build.build_method(compose.compose_cells(["method=best_of_n"])[0])) is BestOfN
    assert issubclass(prediction.Inference, lightning.LightningModule)


def test_results_folder_of_a_name_too_long_is_refused(tmp_path: Path, capsys):
    """Its message advised to free space and to run the same command again."""
    line = command(tmp_path / ("y" * 300), "method=greedy")
    assert main(line) == WRONG
    said = capsys.readouterr().err
    assert "File name too long. Choose another results_dir=DIR." in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_unwritable_tables_do_not_stop_cells(tmp_path: Path, monkeypatch, capsys):
    def broken(cells):
        raise OSError("disk full")

    monkeypatch.setattr(table2, "write_tables", broken)
    assert main(command(tmp_path, "method=greedy,self_consistency")) == FAILED
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2
    assert "not done: the tables" in capsys.readouterr().err


@pytest.mark.slow
def test_file_in_place_of_the_records_folder_is_refused_before_the_run(tmp_path: Path, capsys):
    words = command(tmp_path, "method=greedy")
    assert main(words) == 0
    records = next(tmp_path.rglob("*.jsonl")).parent
    shutil.rmtree(records)
    records.write_text("x", encoding="utf-8")
    assert main(words) == WRONG
    assert f"{records} must be a folder; got a file" in capsys.readouterr().err


@pytest.mark.slow
def test_file_or_folder_in_the_wrong_place_below_a_reward_is_refused_before_the_run(tmp_path: Path, capsys):
    """The first advised to run the same command again for ever, the second was a traceback after the cells."""
    words = ["table2", *command(tmp_path, "method=greedy")[1:], "reward=likelihood"]
    place = tmp_path / "tiny" / "table2" / "likelihood"
    place.parent.mkdir(parents=True)
    place.write_text("x", encoding="utf-8")
    assert main(words) == WRONG
    assert f"{place} must be a folder; got a file" in capsys.readouterr().err
    place.unlink()
    (place / "table.csv").mkdir(parents=True)
    assert main(words) == WRONG
    assert f"{place / 'table.csv'} must be a file; got a folder" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.slow
def test_summary_states_the_attention_of_both_models(tmp_path: Path):
    assert main(command(tmp_path, "method=greedy")) == 0
    content = json.loads(next(tmp_path.rglob("summary.json")).read_text(encoding="utf-8"))
    assert content["attention"] == {"tiny-base": "sdpa", "likelihood": "sdpa"}
    assert content["config"]["dtype"] == "float32"


@pytest.mark.slow
def test_narrowed_command_keeps_earlier_rows(tmp_path: Path):
    assert main(command(tmp_path, "method=greedy,self_consistency")) == 0
    assert main(command(tmp_path, "method=greedy", "seed=1")) == 0
    rows = list(csv.DictReader(next(tmp_path.rglob("table.csv")).read_text(encoding="utf-8").splitlines()))
    ran = [(row["method"], row["num_seeds"]) for row in rows if row["accuracy"]]
    assert ran == [("greedy", "2"), ("self_consistency", "1")]
    assert rows[0]["paper_value"] == "43.8", "the paper's greedy cell of the base policy on MATH-500"


@pytest.mark.slow
def test_longer_run_extends_records_and_shorter_is_refused(tmp_path: Path, capsys):
    assert main(command(tmp_path, "method=greedy", "num_problems=3")) == 0
    first = read_records(next(tmp_path.rglob("*.jsonl")))
    assert main(command(tmp_path, "method=greedy", "num_problems=5", "devices=1", "threads=2")) == 0
    records = read_records(next(tmp_path.rglob("*.jsonl")))
    assert records[:3] == first
    assert len(records) == 5
    assert main(command(tmp_path, "method=greedy", "num_problems=4")) == WRONG
    assert "num_problems: 5 -> 4" in capsys.readouterr().err


@pytest.mark.slow
def test_larger_number_that_solved_nothing_more_can_be_taken_back(tmp_path: Path):
    """A command that was interrupted before its first new problem has noted its number of problems already."""
    assert main(command(tmp_path, "method=greedy", "num_problems=4")) == 0
    (path,) = tmp_path.rglob("*.settings.json")
    noted = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**noted, "num_problems": 300}), encoding="utf-8")
    assert main(command(tmp_path, "method=greedy", "num_problems=4")) == 0
    assert json.loads(path.read_text(encoding="utf-8")) == noted
    (row,) = [row for row in read_csv(next(tmp_path.rglob("table.csv"))) if row["method"] == "greedy"]
    assert (row["num_problems"], row["status"]) == ("4", "ok")


@pytest.mark.slow
def test_two_paths_of_one_model_are_one_model(tmp_path: Path):
    (tmp_path / "link").symlink_to(toys.model_folder("qwen2"))
    assert main(command(tmp_path / "results", "method=greedy")) == 0
    reward = Path(toys.model_folder("llama", seed=7))
    resumed = [f"policy.path={tmp_path}/link", f"reward.path={reward}/../{reward.name}"]
    assert main(command(tmp_path / "results", "method=greedy", "num_problems=6", *resumed)) == 0
    assert main(command(tmp_path / "results", "method=greedy", "seed=1", "num_problems=6", *resumed)) == 0
    rows = read_csv(next(tmp_path.rglob("table.csv")))
    (row,) = [row for row in rows if row["method"] == "greedy"]
    assert (row["policy"], row["num_seeds"], row["num_problems"]) == ("tiny-base", "2", "6")


@pytest.mark.slow
def test_records_folder_that_is_a_dangling_link_is_refused(tmp_path: Path, capsys):
    assert main(command(tmp_path, "method=greedy")) == 0
    (records,) = tmp_path.rglob("records")
    shutil.rmtree(records)
    records.symlink_to(tmp_path / "unmounted")
    assert main(command(tmp_path, "method=greedy")) == WRONG
    assert f"{records} must lead to a folder; {tmp_path / 'unmounted'} is not there" in capsys.readouterr().err


@pytest.mark.slow
def test_complete_cell_loads_no_model(tmp_path: Path, monkeypatch):
    assert main(command(tmp_path, "method=greedy")) == 0
    monkeypatch.setattr(cell_runner, "run_cell", None)
    monkeypatch.setattr(loading, "load", None)
    assert main(command(tmp_path, "method=greedy")) == 0


@pytest.mark.slow
def test_second_command_on_a_locked_folder_is_refused(tmp_path: Path, capsys):
    with locked(tmp_path / "tiny" / "table1"):
        assert main(command(tmp_path, "method=greedy")) == WRONG
    assert f"process {os.getpid()}" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.jsonl"))
    assert main(command(tmp_path, "method=greedy")) == 0


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "null", "{", "[]", '{"num_problems": "forty"}', None])
def test_damaged_settings_beside_records_are_named_and_refused(tmp_path: Path, capsys, content: str | None):
    assert main(command(tmp_path, "method=greedy")) == 0
    (path,) = tmp_path.rglob("*.settings.json")
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert main(command(tmp_path, "method=greedy")) == WRONG
    assert f"{path} is missing or damaged" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "{}", "null"])
def test_damaged_summary_is_replaced(tmp_path: Path, capsys, content: str):
    path = tmp_path / "summary.json"
    path.write_text(content, encoding="utf-8")
    Summary(tmp_path, "line", {}, {"seed": [0]}, "cpu").close("finished")
    assert len(json.loads(path.read_text(encoding="utf-8"))["invocations"]) == 1
    assert "damaged" in capsys.readouterr().err


def test_resuming_with_another_commit_is_said(tmp_path: Path, capsys):
    Summary(tmp_path, "line", {}, {"seed": [0]}, "cpu")
    assert not capsys.readouterr().err
    path = tmp_path / "summary.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["commit"] = "abc"
    content["packages"]["transformers"] = "4.0"
    path.write_text(json.dumps(content), encoding="utf-8")
    Summary(tmp_path, "line", {}, {"seed": [0]}, "cpu")
    said = capsys.readouterr().err
    assert "commit abc (now" in said
    assert "transformers 4.0 (now" in said


@pytest.mark.parametrize(
    ("swept", "told"),
    [
        (["method=nabla_reasoner", "dto.step_size=0.1,3.0"], "method.step_size: 0.1 -> 3.0"),
        (["method=best_of_n", "method.num_samples=1,8"], "method.num_samples: 1 -> 8"),
        (
            ["method=greedy", "reward=likelihood,classifier"],
            "reward.path is of one reward; this command has likelihood,",
        ),
        (["method=greedy", "split=test,validation"], "split: test -> validation"),
    ],
)
def test_cells_sharing_record_file_are_refused_naming_differences(tmp_path: Path, capsys, swept: list[str], told: str):
    replaced = {setting.split("=")[0] for setting in swept}
    base = [word for word in command(tmp_path) if word.split("=")[0] not in replaced]
    assert main([*base, *swept]) == WRONG
    assert told in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EROFS])
def test_full_or_readonly_disk_ends_run_with_message(tmp_path: Path, monkeypatch, capsys, failure: int):
    def unwritable(path, records):
        raise OSError(failure, os.strerror(failure), str(path))

    monkeypatch.setattr(prediction, "append_records", unwritable)
    assert main(command(tmp_path, "method=greedy,self_consistency")) == FAILED
    errors = capsys.readouterr().err
    assert os.strerror(failure) in errors
    assert "then go on: run the same command again to resume" in errors
    assert "Traceback" not in errors
    monkeypatch.undo()
    assert main(command(tmp_path, "method=greedy,self_consistency")) == 0


@pytest.mark.slow
def test_records_of_other_problems_do_not_complete_a_cell(tmp_path: Path, capsys):
    """Three records of three wanted problems, one of them of another: the run says so and changes nothing."""
    line = command(tmp_path, "method=greedy", "num_problems=3")
    assert main(line) == 0
    (path,) = (tmp_path / "tiny" / "table1" / "records").glob("*.jsonl")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("products/test/1", "products/test/999"), encoding="utf-8")
    capsys.readouterr()
    assert main(line) == WRONG
    said = capsys.readouterr().err
    assert "it has 1 of others, the first of problem 'products/test/999', repeat 0" in said
    path.write_text(text, encoding="utf-8")
    assert main(line) == 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("setting=gumbel", "setting is set by the command itself; got 'setting=gumbel'. Name settings by only=[NAME]."),
        ("experiment=table2", "experiment is set by the command itself"),
        ("records=/tmp/x", "records is set by the command itself"),
        ("method.name=best_of_n", "method.name must be a name of its own, because rows and figures go by it"),
        ("method.name=sft", "sft is the row of a policy improved by training"),
        ("reward.name=classifier", "Write reward=classifier for that one, or another name."),
        ("policy.name=tiny-instruct", "Write policy=tiny-instruct for that one, or another name."),
        ("task.name=math500", "Write task=math500 for that one, or another name"),
        ("task.name=mine", "name and dataset of a generated task must be the same"),
        ("task.dataset=chain_sum", "name and dataset of a generated task must be the same"),
        ("scale_name=small", "scale_name is set by the command itself; got 'scale_name=small'. Choose the scale by"),
        ("budget=true", "pool_seeds=COUNT says for how many seeds"),
        ("method._target_=nabla_reasoner.BestOfN", "must come with a method.name of its own"),
        ("scale=tiny,small", "the cells of one command must lie in one folder"),
        ("target.cell=solve", "target.cell belongs to the file configs/experiment/NAME.yaml"),
    ],
)
def test_settings_by_which_rows_would_be_lost_or_mistaken_are_refused(tmp_path: Path, capsys, override, said):
    assert main(command(tmp_path, "method=greedy", override)) == WRONG
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.slow
def test_note_below_the_table_names_every_model_that_served_under_one_name(tmp_path: Path):
    shared = ["method=greedy", "num_problems=1"]
    other = toys.model_folder("llama", seed=8)
    assert main(command(tmp_path, *shared)) == 0
    assert main([*command(tmp_path, *shared, "task=chain_sum"), f"reward.path={other}"]) == 0
    table = (tmp_path / "tiny" / "table1" / "table.md").read_text(encoding="utf-8")
    assert f"{toys.model_folder('llama', seed=7)}. Tasks: products." in table
    assert f"{other}. Tasks: chain_sum." in table
