"""Recipe of the classifier from end to end, with few samples and three steps of training."""

import shutil
from pathlib import Path

import hydra
import numpy as np
import pytest

from nabla_reasoner.config.schema import CONFIGS
from nabla_reasoner.models.language_models import Policy, RewardModel
from nabla_reasoner.training.recipes import manifest, tiny

ASSETS = Path(__file__).resolve().parents[2] / "assets"


@pytest.mark.slow
def test_grown_classifier_ranks_well_after_three_steps(tmp_path, monkeypatch):
    folder = tmp_path / "assets"
    for name in ("tokenizer", "policies/tiny-base", "policies/tiny-instruct", "rewards/likelihood"):
        shutil.copytree(ASSETS / name, folder / name)
    few = [f"tasks.{task}.train=100" for task in ("chain_sum", "leg_counting", "products")]
    settings = ["samples_per_task=60", "probe=30", "schedule.num_steps=3"]
    few += ["held_out.validation=20", "held_out.test=20"]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose(
            "train/tiny", [f"folder={folder}", *few, *(f"models.classifier.{setting}" for setting in settings)]
        )
    data = tiny.splits(config)
    monkeypatch.chdir(tmp_path)
    tiny.train_classifier(config, data)

    monkeypatch.setattr(manifest, "NUM_FAR", 8)  # fewer than there are other problems
    classifier = RewardModel.from_pretrained(str(folder / "rewards" / "classifier"), kind="classifier")
    policy = Policy.from_pretrained(str(folder / "policies" / "tiny-instruct"))
    measured = [manifest.measure(policy, {"classifier": classifier}, data[task]["validation"]) for task in data]
    rewards = [entry["rewards"]["classifier"] for entry in measured]
    assert min(reward["auc"] for reward in rewards) > 0.8
    assert np.mean([reward["gap_closed"] for reward in rewards]) > 0.5
    assert min(reward["outranks_far_answers"] for reward in rewards) > 0.9
