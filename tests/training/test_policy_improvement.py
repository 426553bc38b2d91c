"""Recipes of policies improved by training, on a few questions of the real tasks."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
import toys
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file

from nabla_reasoner import Policy
from nabla_reasoner.config.schema import CONFIGS
from nabla_reasoner.models.tokenizers import load_tokenizer
from nabla_reasoner.tasks import problems
from nabla_reasoner.training.recipes import policy_improvement
from nabla_reasoner.training.sft import PolicyTraining

ASSETS = Path(__file__).resolve().parents[2] / "assets"


def config(folder: Path, *overrides: str):
    shutil.copytree(ASSETS / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    shutil.copytree(ASSETS / "policies" / "tiny-base", folder / "policies" / "tiny-base", dirs_exist_ok=True)
    small = [
        f"folder={folder}",
        "~improvement.batch.chain_sum",
        "~improvement.batch.leg_counting",
        "improvement.batch.products=3",
        "improvement.questions=6",
        "improvement.validation=3",
        "improvement.recipes.sft.every=2",
        "improvement.recipes.grpo.every=2",
        "improvement.recipes.sft.learning_rates=[3e-4]",
        "improvement.recipes.grpo.learning_rates=[5e-5]",
        "improvement.max_new_tokens=16",
        "improvement.recipes.sft.schedule.num_steps=4",
        "improvement.recipes.grpo.schedule.num_steps=4",
        "improvement.recipes.grpo.sampling.group_size=3",
    ]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train/tiny", [*small, *overrides])


def data() -> policy_improvement.Splits:
    settings = {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}
    return {
        "products": {
            split: problems.generate("products", split=split, size=6, settings=settings) for split in problems.SPLITS
        }
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-base-sft", "tiny-base-grpo"])
def test_improved_policy_is_written_with_its_curve(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PolicyTraining, "validation_step", rising_accuracy)
    recipe = config(tmp_path / "assets", "checkpoints=work")
    policy_improvement.improve(recipe, name, data())
    assert [path.name for path in (tmp_path / "work").iterdir()]
    assert not (tmp_path / "checkpoints").exists()
    folder = tmp_path / "assets" / "policies"
    before = load_file(folder / "tiny-base" / "model.safetensors")
    after = load_file(folder / name / "model.safetensors")
    assert {value.dtype for value in after.values()} == {torch.float16}
    assert any((before[key] - after[key].float()).abs().max() > 1e-5 for key in before)
    assert (folder / name / "tokenizer.json").read_bytes() == (ASSETS / "tokenizer" / "tokenizer.json").read_bytes()
    with (tmp_path / "assets" / "curves" / f"{name}.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows if row["validation/accuracy"]] == ["0", "1", "3"]
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("scale", ["tiny", "small"])
def test_improved_policies_lie_in_the_folder_of_the_recipe(scale: str):
    """`folder=DIR`, written to keep the shipped models, replaced the shipped adapter."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        recipe = compose(f"train/{scale}", ["folder=DIR"])
    folders = [entry.folder for entry in recipe.improved.values()]
    assert len(folders) >= 2
    assert all(folder.startswith("DIR/policies/") for folder in folders)


def rising_accuracy(self, batch, index):
    """Let accuracy rise at each validation, so that the last weights are kept; three problems are too few."""
    self.accuracies[batch[0].task] = float(self.global_step)


@pytest.mark.parametrize(
    ("lora", "frozen", "message"),
    [("null", "bfloat16", "frozen_dtype must be null where all weights"), ("{r: 2}", "half", "dtype must be one of")],
)
def test_precision_of_frozen_weights_is_checked(lora, frozen, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = "improvement.recipes.grpo"
    settings = config(tmp_path / "assets", f"{recipe}.lora={lora}", f"{recipe}.frozen_dtype={frozen}")
    with pytest.raises(ValueError, match=message):
        policy_improvement.improve(settings, "tiny-base-grpo", data())


def test_dropout_of_an_adapter_is_refused_by_grpo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = config(tmp_path / "assets", "improvement.recipes.grpo.lora={r: 2, lora_dropout: 0.1}")
    with pytest.raises(ValueError, match="lora_dropout must be 0 with method grpo.*got 0.1"):
        policy_improvement.improve(settings, "tiny-base-grpo", data())


def test_solutions_end_with_the_end_of_turn_of_the_chat_template(tmp_path):
    """Of Gemma 3 and Phi-3 the tokenizer's end token is another one: a policy learned an end that no reward reads."""
    settings, problems = config(tmp_path / "assets"), data()
    shared = policy_improvement.shared_settings(settings)
    tokenizer = load_tokenizer(toys.model_folder("qwen2"))
    tokenizer.eos_token = "<|user|>"
    start = tmp_path / "start"
    model = toys.policy().model
    tokenizer.save_pretrained(start)
    recipe = OmegaConf.create(OmegaConf.to_container(settings.improvement.recipes.sft))
    recipe.schedule.learning_rate = 1e-3
    _, mixture = policy_improvement.build_training(shared, recipe, str(start), model, problems)
    ends = {example.response_ids[-1] for pool in mixture.pools.values() for example in pool}
    assert ends == {tokenizer.convert_tokens_to_ids("<|end|>")} != {load_tokenizer(str(start)).eos_token_id}


def test_checkpoints_lie_between_batches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = config(tmp_path / "assets", "improvement.recipes.grpo.sampling.updates_per_batch=3")
    with pytest.raises(ValueError, match="every must be a multiple of updates_per_batch.*; got 2 and 3"):
        policy_improvement.improve(settings, "tiny-base-grpo", data())


def test_missing_start_policy_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="tiny-base-sft-grpo starts from .*tiny-base-sft, which must hold a model"):
        policy_improvement.improve(config(tmp_path / "assets"), "tiny-base-sft-grpo", data())


def test_policy_with_another_tokenizer_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = config(tmp_path / "assets", f"improved.tiny-base-grpo.start={toys.model_folder('qwen2')}")
    with pytest.raises(ValueError, match=r"must have the tokenizer it is trained with; .* has another \(280 tokens"):
        policy_improvement.improve(recipe, "tiny-base-grpo", data())


@pytest.mark.slow
@pytest.mark.parametrize(("trial", "last_steps"), [("null", ["4", "4", "4"]), (2, ["2", "4", "2"])])
def test_best_learning_rate_is_shipped_with_its_flops(trial, last_steps, tmp_path, monkeypatch):
    """Validation favours the second rate, whose weights are written; after a trial it alone goes on."""
    monkeypatch.chdir(tmp_path)

    def accuracy(self, batch, index):
        self.accuracies[batch[0].task] = 100 * self.schedule.learning_rate * (self.global_step > 0)

    monkeypatch.setattr(PolicyTraining, "validation_step", accuracy)
    rates = "improvement.recipes.sft.learning_rates=[1e-4,1e-3,3e-4]"
    recipe = config(
        tmp_path / "assets", rates, "improvement.patience=2", f"improvement.recipes.sft.trial_steps={trial}"
    )
    policy_improvement.improve(recipe, "tiny-base-sft", data())
    with (tmp_path / "assets" / "sweeps" / "improvement.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["learning_rate"], row["shipped"]) for row in rows] == [
        ("0.0001", "False"),
        ("0.001", "True"),
        ("0.0003", "False"),
    ]
    assert [row["last_step"] for row in rows] == last_steps
    assert {row["best_step"] for row in rows} == {"2"}
    policy = Policy.from_pretrained(str(tmp_path / "assets" / "policies" / "tiny-base-sft"))
    tokens = policy.prompt_ids(data()["products"]["train"][0].messages)
    size = policy.size.layers + policy.size.head
    per_step = float(rows[1]["flops"]) / 4 / (6 * size) / 3  # tokens of one sequence, on average; a tenth is attention
    assert len(tokens) < per_step < 4 * len(tokens)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_sft_and_grpo_use_the_same_questions():
    """All recipes share one list of questions and one batch."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        recipe = compose("train/tiny").improvement
    assert {"questions", "batch"} <= set(recipe)
    assert not any({"questions", "batch"} & set(settings) for settings in recipe.recipes.values())
