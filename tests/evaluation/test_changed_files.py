"""Model and problem files that change during a command: never records of one thing under the digest of another."""

import json
import shutil
from pathlib import Path

import pytest

from nabla_reasoner.config import build, fingerprint
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.evaluation import cell_runner
from nabla_reasoner.evaluation.cell_records import record_file
from nabla_reasoner.evaluation.rollout_engine import RolloutEngine


def cell_of(folder: Path, *more: str):
    words = ["method=greedy", "policy=tiny-base", "task=products", "reward=likelihood", "num_problems=2", "threads=1"]
    model = f"policy.path={folder / 'policy'}"
    (cell,) = compose_cells([*words, "max_new_tokens=4", model, f"results_dir={folder / 'results'}", *more])
    return cell


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree("assets/policies/tiny-base", tmp_path / "policy")
    return tmp_path


def edit(folder: Path) -> None:
    shutil.copy("assets/policies/tiny-base-sft/model.safetensors", folder / "policy" / "model.safetensors")


def test_edited_model_is_loaded_again(folder: Path):
    cell = cell_of(folder)
    before, same = build.load_models(cell)[0], build.load_models(cell)[0]
    assert same is before
    edit(folder)
    assert (build.load_models(cell)[0].embedding != before.embedding).any()


def test_model_edited_while_it_is_loaded_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    built = build.build_cell(cell_of(folder))
    models = RolloutEngine.models

    def edited(self: RolloutEngine, built: build.BuiltCell) -> tuple:
        loaded = models(self, built)
        edit(folder)
        return loaded

    monkeypatch.setattr(RolloutEngine, "models", edited)
    with (
        RolloutEngine(folder) as engine,
        pytest.raises(ValueError, match=r"changed since they were read \(policy.weights"),
    ):
        cell_runner.run_cell(built, None, engine)
    assert not record_file(built.cell).exists()


def test_problems_edited_after_they_were_read_are_refused(folder: Path):
    file = folder / "problems.jsonl"
    rows = [{"id": str(number), "problem": f"{number}+1=?", "answer": str(number + 1)} for number in range(2)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    cell = cell_of(folder, "task=math500", f"task.path={file}")
    built = build.build_cell(cell)
    file.write_text("".join(json.dumps(row | {"answer": "99"}) + "\n" for row in rows), encoding="utf-8")
    with RolloutEngine(folder) as engine, pytest.raises(ValueError, match="changed since they were read"):
        cell_runner.run_cell(built, None, engine)
    again = build.build_cell(cell)
    assert [problem.answer for problem in again.problems] == ["99", "99"]
    assert fingerprint.fingerprint(cell)["task"]["sha256"]
