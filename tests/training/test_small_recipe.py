"""Recipe of the reward of scale=small: derived training answers, and agreement with runs and the shipped adapter."""

import json
from pathlib import Path

import pytest
import yaml

from nabla_reasoner.types import Problem

ROOT = Path(__file__).resolve().parents[2]


def make_problem(expression: str, answer: str) -> Problem:
    return Problem(expression, f"{expression} =", answer, "chain_sum", {"expression": expression})


def test_derived_answers_are_graded_correct():
    pytest.importorskip("peft", reason="needs the extra small; pip install -e '.[small]'")
    from nabla_reasoner.training.recipes.small import Answer, corrected, moved

    wrong = Answer(make_problem("98 - 68", "30"), "98 - 68 = 11.\nThe answer is = 11", True, False)
    assert corrected(wrong).response == "98 - 68 = 30.\nThe answer is = 30"
    assert corrected(wrong._replace(finished=False)) is None
    right = Answer(make_problem("17 - 99", "-82"), "17 - 99 = -82", True, True)
    assert moved(right, make_problem("50 - 82", "-32")).response == "50 - 82 = -32"
    assert moved(right, make_problem("50 + 82", "132")) is None, "a sum and a difference have different texts"
    unclear = right._replace(response="17 - 99 = 5 - 87 = -82")
    assert moved(unclear, make_problem("50 - 82", "-32")) is None, "5 and 87 have an unknown origin"


def test_recipe_and_runs_share_tasks_and_sampling():
    scale = yaml.safe_load((ROOT / "configs/scale/small.yaml").read_text(encoding="utf-8"))
    recipe = yaml.safe_load((ROOT / "configs/train/small.yaml").read_text(encoding="utf-8"))
    for task, details in recipe["tasks"].items():
        assert details["settings"] == scale["difficulty"][task]
        assert details["suffix"] == scale["suffixes"][task]
        assert recipe["max_new_tokens"] == scale["limits"][task]
    assert recipe["sampling"].items() <= scale["sampling"].items()
    assert scale["num_problems"] <= recipe["held_out"]["test"]
    assert set(scale["grid"]["task"].split(",")) <= set(recipe["tasks"])


def test_shipped_adapter_is_small_and_measured():
    folder = ROOT / "assets/rewards/smollm2-lora"
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    reward = yaml.safe_load((ROOT / "configs/reward/smollm2.yaml").read_text(encoding="utf-8"))
    assert (folder / "adapter_model.safetensors").stat().st_size < 10e6
    assert manifest["shipped"] == ("ratio" if reward["reference"] else reward["kind"])
