"""Whole models for training and merging: no weight is made up, and a new score head is zeros."""

import pytest
import small_models
import torch
import toys
from safetensors.torch import load_file, save_file

from nabla_reasoner.models.whole_models import TASK_TYPES, load_whole

DOWN = "model.layers.1.mlp.down_proj.weight"


def change(folder, key, value=None):
    """Replace a weight of a folder, or take it out."""
    weights = load_file(folder / "model.safetensors")
    del weights[key]
    save_file(
        {**weights, **({key: value} if value is not None else {})}, folder / "model.safetensors", {"format": "pt"}
    )


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_missing_weights_are_refused_and_not_random(task_type):
    folder = small_models.folder("llama")
    change(folder, DOWN)
    with pytest.raises(ValueError, match=rf"must be those of its config.json; {DOWN} are missing") as caught:
        load_whole(str(folder), task_type)
    assert "\n" not in str(caught.value)


def test_untied_model_without_output_matrix_is_refused():
    folder = small_models.folder("llama", tie_word_embeddings=False)
    change(folder, "lm_head.weight")
    with pytest.raises(ValueError, match=r"lm_head\.weight are missing"):
        load_whole(str(folder))


@pytest.mark.parametrize("task_type", TASK_TYPES)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", f"must be finite numbers; {DOWN} holds NaN"),
        ("shape", f"{DOWN} has the shape \\[16, 31\\], and by config.json \\[16, 32\\]"),
        ("left over", "model.layers.1.* are not read by the model"),
        ("adapter", "must hold whole weights; .* also has the LoRA file adapter_config.json"),
        ("code", "brings code of its own"),
        ("no weights", "must be safetensors files; none was found"),
    ],
)
def test_other_faults_are_one_error(fault, message, task_type):
    folder = small_models.folder("llama")
    if fault == "nan":
        change(folder, DOWN, torch.full((16, 32), torch.nan))
    elif fault == "shape":
        change(folder, DOWN, torch.ones(16, 31))
    elif fault == "left over":
        small_models.edit(folder / "config.json", num_hidden_layers=1, layer_types=None)
    elif fault == "adapter":
        (folder / "adapter_config.json").write_text("{}")
    elif fault == "code":
        small_models.edit(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Own"})
    else:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=message) as caught:
        load_whole(str(folder), task_type)
    assert "\n" not in str(caught.value)


def test_classifier_is_no_language_model():
    with pytest.raises(ValueError, match="must be a language model; got LlamaForSequenceClassification"):
        load_whole(toys.model_folder("llama", classifier=True))


@pytest.mark.parametrize(("task_type", "num_labels"), [("SEQ_CLS", 1), ("TOKEN_CLS", 1), ("TOKEN_CLS", 2)])
def test_new_score_head_is_zeros_and_an_old_one_stays(task_type, num_labels, tmp_path):
    model = load_whole(toys.model_folder("llama"), task_type, num_labels=num_labels)
    assert model.score.weight.shape == (num_labels, 32)
    assert not any(weight.any() for weight in model.score.parameters())
    assert not model.training
    assert all(weight.requires_grad for weight in model.parameters())
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(tmp_path)
    again = load_whole(str(tmp_path), task_type, num_labels=num_labels)
    assert torch.equal(again.score.weight, model.score.weight)
    with pytest.raises(ValueError, match=r"score\.\w+ has the shape"):
        load_whole(str(tmp_path), task_type, num_labels=3)


def test_classifier_whose_head_no_reward_reads_is_refused():
    folder = small_models.folder("gpt_neox")
    with pytest.raises(ValueError, match="a score head named `score`, .*; GPTNeoXForTokenClassification, made from"):
        load_whole(str(folder), "TOKEN_CLS")
    assert hasattr(load_whole(str(folder), "SEQ_CLS"), "score")


def test_precision_is_the_one_asked_for():
    assert load_whole(toys.model_folder("llama")).dtype == torch.float32
    assert load_whole(toys.model_folder("llama"), dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ValueError, match="dtype must be one of"):
        load_whole(toys.model_folder("llama"), dtype="half")
