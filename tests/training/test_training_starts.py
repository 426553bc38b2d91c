"""Models that trainings start from: whole, finite, of the right kind, and such as the loss computes."""

from pathlib import Path

import pytest
import small_models
import toys
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from nabla_reasoner.models import quiet
from nabla_reasoner.models.random_init import build_model
from nabla_reasoner.training import sft, verifier
from nabla_reasoner.training.grpo import GroupRelativeTraining, GroupSampling
from nabla_reasoner.training.loop import Schedule
from nabla_reasoner.training.recipes import policy_improvement, small, tiny, verifiers

DOWN = "model.layers.1.mlp.down_proj.weight"


def improvement(start: str) -> None:
    recipe = {"method": "sft", "every": 1, "schedule": {}, "lora": None, "frozen_dtype": None}
    config = OmegaConf.create({"batch": {}, "seed": 0, "tokenizer": start})
    policy_improvement.train_policy(config, OmegaConf.create(recipe), start, "name", {}, Path("checkpoints"))


def reference(start: str) -> None:
    """Load the frozen policy of GRPO's KL term, whose folder may have changed since training began."""
    sampling = {"kl_weight": 0.1}
    recipe = {"method": "grpo", "schedule": {"num_steps": 1, "learning_rate": 1e-3}, "sampling": sampling}
    config = OmegaConf.create({"batch": {}, "seed": 0, "max_new_tokens": 4, "questions": 1})
    model = build_model({"model_type": "llama", **small_models.SHAPE}, small_models.tokenizer(), seed=0)
    policy_improvement.build_training(config, OmegaConf.create({**recipe, "frozen_dtype": None}), start, model, {})


def ratio(start: str) -> None:
    schedule = {"num_steps": 1, "learning_rate": 1e-3}
    recipe = {"labels": "outcome", "head": "ratio", "policies": [], "start": "start", "schedule": schedule}
    models = {"v": {**recipe, "folder": "v", "batch": {}, "seed": 0, "scale": 1.0}, "start": {"folder": start}}
    config = OmegaConf.create({"models": models, "folder": "/", "device": "cpu"})
    verifiers.training(config, "v", {})


def grown(start: str) -> None:
    shape = {"model_type": "qwen2", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    models = {"classifier": {"architecture": shape}, "likelihood": {"folder": start}}
    tiny.build_classifier(OmegaConf.create({"models": models, "folder": "/"}), {}, small_models.tokenizer(), [])


def adapted(kind: str, start: str) -> None:
    config = {"rewards": {"r": {"kind": kind, "seed": 0}}, "policy": {"path": start}}
    small._base(OmegaConf.create(config), "r")


STARTS = {
    "improved policy": improvement,
    "reference policy": reference,
    "verifier": verifier.from_language_model,
    "ratio": ratio,
    "grown classifier": grown,
    "likelihood adapter": lambda start: adapted("likelihood", start),
    "classifier adapter": lambda start: adapted("classifier", start),
}


@pytest.mark.parametrize("name", STARTS)
def test_missing_weights_of_a_start_are_not_random(name, tmp_path):
    """They were: two trainings of one seed each began from another model than the one in the folder."""
    folder = small_models.folder("llama", tie_word_embeddings=True)
    file = folder / "model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if key != DOWN}, file, {"format": "pt"})
    with quiet.quiet_libraries(), pytest.raises(ValueError, match=f"{DOWN} are missing"):
        STARTS[name](str(folder))


@pytest.mark.parametrize("name", STARTS)
def test_classifier_is_no_start(name):
    folder = toys.model_folder("llama", classifier=True)
    with quiet.quiet_libraries(), pytest.raises(ValueError, match="must be a language model; got LlamaForSeq"):
        STARTS[name](folder)


def training(method: str, folder: Path) -> sft.PolicyTraining:
    model, tokenizer = policy_improvement.load_whole(str(folder)), small_models.tokenizer()
    if method == "sft":
        return sft.SupervisedTraining(model, tokenizer, Schedule(1, 1e-3), 4)
    settings = {"sampling": GroupSampling(), "seed": 0}
    return GroupRelativeTraining(model, tokenizer, Schedule(1, 1e-3), 4, **settings)


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_policy_whose_logits_the_loss_does_not_compute_is_refused(method):
    """The loss of Granite with scaled logits was 5.768 where transformers has 5.537."""
    folder = small_models.folder("granite", logits_scaling=4.0)
    with pytest.raises(ValueError, match=r"the policy in training \(Granite.*scales them \(logits_scaling=4"):
        training(method, folder)


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_forward_is_checked_without_dropout_and_then_trained_with_it(method):
    module = training(method, small_models.folder("llama", attention_dropout=0.5))
    assert module.model.training
    assert all(weight.grad is None and weight.requires_grad for weight in module.model.parameters())


def test_verifier_with_scaled_logits_is_refused():
    folder = small_models.folder("gemma2", sliding_window=8, tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"must not cap or scale its logits; .* does \(final_logit_softcapping=30"):
        verifier.from_language_model(str(folder))
