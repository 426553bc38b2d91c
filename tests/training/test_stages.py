"""Stages of a recipe: which are run again after an interruption."""

import pytest

from nabla_reasoner.training.stages import Stages


def interrupted(path, **finished: int) -> None:
    """Stages that a command finished before it was interrupted."""
    stages = Stages(path, {"seed": 0})
    for name, settings in finished.items():
        assert stages.should_run(name, settings)
        stages.note_finished(name, settings)


def runs(path, seed: int = 0, **stages: int) -> dict[str, bool]:
    begun = Stages(path, {"seed": seed})
    return {name: begun.should_run(name, settings) for name, settings in stages.items()}


def test_interrupted_recipe_goes_on_with_its_next_stage(tmp_path):
    path = tmp_path / "stages.json"
    interrupted(path, a=1, b=1)
    assert runs(path, a=1, b=1, c=1) == {"a": False, "b": False, "c": True}


def test_finished_recipe_begins_anew(tmp_path):
    path = tmp_path / "stages.json"
    interrupted(path, a=1)
    Stages(path, {"seed": 0}).end(["a"], ["a"])
    assert not path.exists()
    assert runs(path, a=1) == {"a": True}


def test_single_stage_in_between_loses_only_what_depends_on_it(tmp_path):
    path, order = tmp_path / "stages.json", ["a", "b", "c", "d"]
    interrupted(path, a=1, b=1, c=1)
    last = Stages(path, {"seed": 0})
    assert last.should_run("d", 1)
    last.note_finished("d", 1)
    last.end(order, ["d"])
    assert runs(path, a=1, b=1, c=1, d=1) == {"a": False, "b": False, "c": False, "d": True}
    middle = Stages(path, {"seed": 0})
    assert middle.should_run("b", 2)
    middle.note_finished("b", 2)
    middle.end(order, ["b"])
    assert runs(path, a=1, b=2, c=1) == {"a": False, "b": True, "c": True}


def test_changed_stage_and_all_after_it_run_again(tmp_path):
    path = tmp_path / "stages.json"
    interrupted(path, a=1, b=1, c=1)
    assert runs(path, a=1, b=2, c=1) == {"a": False, "b": True, "c": True}
    assert runs(path, seed=1, a=1) == {"a": True}


@pytest.mark.parametrize("content", ["", "{", "null", "[1]"])
def test_damaged_stages_file_runs_everything(tmp_path, content: str):
    (tmp_path / "stages.json").write_text(content, encoding="utf-8")
    assert runs(tmp_path / "stages.json", a=1) == {"a": True}
