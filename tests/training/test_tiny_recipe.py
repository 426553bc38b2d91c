"""The recipe of the classifier from end to end, on few samples and with three steps of training."""

import shutil
from pathlib import Path

import hydra
import numpy as np
import pytest

from nabla_reasoner.models.language_models import Policy, RewardModel
from nabla_reasoner.training.recipes import manifest, tiny

ASSETS = Path(__file__).resolve().parents[2] / "assets"


@pytest.mark.slow
def test_a_classifier_is_grown_from_the_judge_and_ranks_before_it_is_trained_for_long(tmp_path, monkeypatch):
    folder = tmp_path / "assets"
    for name in ("tokenizer", "policies/tiny-base", "policies/tiny-instruct", "rewards/likelihood"):
        shutil.copytree(ASSETS / name, folder / name)
    few = [f"tasks.{task}.train=300" for task in ("chain_sum", "leg_counting", "products")]
    settings = ["samples_per_task=200", "probe=100", "schedule.num_steps=3"]
    with hydra.initialize_config_dir(tiny.CONFIGS, version_base="1.3"):
        config = hydra.compose(
            "train/tiny", [f"folder={folder}", *few, *(f"models.classifier.{setting}" for setting in settings)]
        )
    data = tiny.splits(config)
    monkeypatch.chdir(tmp_path)
    tiny.train_classifier(config, data)

    reward = RewardModel.from_pretrained(str(folder / "rewards" / "classifier"), kind="classifier")
    policy = Policy.from_pretrained(str(folder / "policies" / "tiny-instruct"))
    measured = [manifest.measure(policy, {"classifier": reward}, data[task]["validation"][:40]) for task in data]
    rewards = [each["rewards"]["classifier"] for each in measured]
    assert min(each["auc"] for each in rewards) > 0.8
    assert np.mean([each["gap_closed"] for each in rewards]) > 0.5
    assert min(each["outranks_far_answers"] for each in rewards) > 0.9
