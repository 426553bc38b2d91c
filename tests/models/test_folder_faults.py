"""Model folders as users have them: each is served, or refused by one ValueError that names it and says what to do."""

import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small_models
import torch
import toys
import transformers
from safetensors.torch import load_file, save_file

from nabla_reasoner.engine import generation, scoring
from nabla_reasoner.engine.sampling import Sampling, keyed_uniforms
from nabla_reasoner.models.language_models import Policy, RewardModel
from nabla_reasoner.models.loading import outline

INDEX = "model.safetensors.index.json"


def edit_json(file: str, **settings) -> Callable[[Path], None]:
    return lambda folder: small_models.edit(folder / file, **settings)


def remove(*files: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / file).unlink() for file in files]


def truncate(file: str, share: float) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(len(content) * share)])

    return cut


def weights(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def add_token(folder: Path, *, special: bool = False) -> None:
    """Give the tokenizer a token beyond the matrix; a special one as a user does who adds a padding token."""
    content = json.loads((folder / "tokenizer.json").read_text())
    token = {"id": 280, "content": "<new>", "single_word": False, "lstrip": False, "rstrip": False}
    content["added_tokens"].append({**token, "normalized": False, "special": special})
    (folder / "tokenizer.json").write_text(json.dumps(content))


def begin_with_bos(folder: Path) -> None:
    """Let the tokenizer add a token before every text that the chat template writes too."""
    content = json.loads((folder / "tokenizer.json").read_text())
    single = [{"SpecialToken": {"id": "<|user|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|user|>": {"id": "<|user|>", "ids": [2], "tokens": ["<|user|>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))


def write_index(folder: Path, *files: str) -> None:
    """Write an index that names files of weights."""
    named = {f"weight {i}": file for i, file in enumerate(files)}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": named}))


def two_labels(folder: Path) -> None:
    labels = {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    small_models.edit(folder / "config.json", num_labels=2, **labels)
    if "score.weight" in load_file(folder / "model.safetensors"):
        weights(lambda tensors: tensors.update({"score.weight": torch.ones(2, 16)}))(folder)


SOUND = {
    "untouched": lambda folder: None,
    "a special token more than rows": functools.partial(add_token, special=True),
    "pad is eos": edit_json("tokenizer_config.json", pad_token="<|end|>"),
    "no pad": edit_json("tokenizer_config.json", pad_token=None),
    "bos added twice": begin_with_bos,
    "no tokenizer_config.json but one template": lambda folder: small_models.edit(
        folder / "tokenizer_config.json", chat_template=(folder / "chat_template.jinja").read_text()
    ),
}
FAULTS = {
    "no config.json": remove("config.json"),
    "no weights": remove("model.safetensors"),
    "no tokenizer": remove("tokenizer.json", "tokenizer_config.json"),
    "no tokenizer.json": remove("tokenizer.json"),
    "no chat template": remove("chat_template.jinja"),
    "a file that the index names is missing": lambda folder: (
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors"),
        write_index(folder, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    ),
    "index cut": lambda folder: (folder / INDEX).write_text('{"weight_map": {'),
    "index without files": lambda folder: write_index(folder),
    "generation_config.json cut": lambda folder: (folder / "generation_config.json").write_text('{"eos_token_id": ['),
    "config.json empty": truncate("config.json", 0),
    "config.json cut": truncate("config.json", 0.5),
    "config.json a list": lambda folder: (folder / "config.json").write_text("[]"),
    "weights empty": truncate("model.safetensors", 0),
    "weights cut": truncate("model.safetensors", 0.9),
    "weights without header": truncate("model.safetensors", 0.001),
    "tokenizer cut": truncate("tokenizer.json", 0.5),
    "tokenizer_config.json cut": truncate("tokenizer_config.json", 0.5),
    "template that is no template": lambda folder: (folder / "chat_template.jinja").write_text("{% for %}"),
    "NaN": weights(lambda tensors: tensors["model.norm.weight"].fill_(float("nan"))),
    "zero of a layer's weights": weights(lambda tensors: tensors.pop("model.layers.0.mlp.up_proj.weight")),
    "surplus weights": weights(lambda tensors: tensors.update({"model.layers.7.mlp.up_proj.weight": torch.ones(2)})),
    "other shape": weights(lambda tensors: tensors.update({"model.norm.weight": torch.ones(17)})),
    "unknown type": edit_json("config.json", model_type="nothing"),
    "no type": edit_json("config.json", model_type=None),
    "hidden size of 0": edit_json("config.json", hidden_size=0),
    "heads that do not divide": edit_json("config.json", num_attention_heads=3),
    "vocabulary of -1": edit_json("config.json", vocab_size=-1),
    "vocabulary too large": edit_json("config.json", vocab_size=10**6),
    "layers as text": edit_json("config.json", num_hidden_layers="two"),
    "a billion layers": edit_json("config.json", num_hidden_layers=10**9),
    "a billion tokens": edit_json("config.json", vocab_size=10**9),
    "a billion columns": edit_json("config.json", hidden_size=10**9),
    "a billion units": edit_json("config.json", intermediate_size=10**9),
    "a billion heads": edit_json("config.json", num_attention_heads=10**9, num_key_value_heads=10**9),
    "size without end": edit_json("config.json", hidden_size=1e30),
    "no layers": edit_json("config.json", num_hidden_layers=0),
    "context of 0": edit_json("config.json", max_position_embeddings=0),
    "activation unknown": edit_json("config.json", hidden_act="nothing"),
    "rope unknown": edit_json("config.json", rope_parameters={"rope_type": "nothing", "rope_theta": 1.0}),
    "epsilon of NaN": edit_json("config.json", rms_norm_eps=float("nan")),
    "a token more than rows": add_token,
    "no end token": lambda folder: (
        edit_json("tokenizer_config.json", eos_token=None)(folder),
        edit_json("config.json", eos_token_id=None)(folder),
        (folder / "generation_config.json").unlink(missing_ok=True),
        (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}"),
    ),
}


def outcome(folder: Path, kind: str | None) -> str | None:
    """Load a folder and use it; return the message of a refusal. Any other error, or a wrong number, fails the test."""
    try:
        if kind is None:
            model = Policy.from_pretrained(str(folder))
            noise = [keyed_uniforms(0, "a", 0, "b", 4)] * 2
            (alone,) = generation.sample(model, [[50, 60]], noise[:1], Sampling(1.0), [4])
            together = generation.sample(model, [[50, 60], [40] * 9], noise, Sampling(1.0), [4, 4])
            assert together[0].token_ids == alone.token_ids
            assert model.decode(alone.token_ids) is not None
        else:
            model = RewardModel.from_pretrained(str(folder), kind)
            prompt = model.prompt_ids(toys.chat("1+1"))
            (alone,), _ = scoring.rewards(model, [prompt], [[60, 70]])
            together, _ = scoring.rewards(model, [prompt, prompt + [40] * 9], [[60, 70], [50]])
            assert np.isfinite(alone)
            assert together[0] == pytest.approx(alone, abs=1e-3)
    except ValueError as error:
        return str(error)
    return None


def assert_helpful(message: str, folder: Path) -> None:
    assert str(folder) in message
    assert "\n" not in message
    remedies = ("Use", "use", "Fetch", "Check", "Set", "Choose", "Correct", "Close")
    assert any(word in message.rpartition("; ")[2] or f". {word}" in message for word in remedies), message


@pytest.mark.parametrize("kind", [None, "classifier", "likelihood"])
@pytest.mark.parametrize("fault", SOUND)
def test_sound_folder_served(fault, kind):
    folder = small_models.folder("llama", classifier=kind == "classifier")
    SOUND[fault](folder)
    assert outcome(folder, kind) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", [None, "classifier"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_folder_refused_by_name(fault, kind):
    folder = small_models.folder("llama", classifier=kind == "classifier")
    FAULTS[fault](folder)
    message = outcome(folder, kind)
    if fault == "a token more than rows" and kind == "classifier":
        assert message is None  # texts of a policy's vocabulary do not hold it
        return
    assert message is not None
    assert_helpful(message, folder)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no weights", "none was found"),
        ("a file that the index names is missing", "model-00002-of-00002.safetensors is not there"),
        ("generation_config.json cut", "generation_config.json of .* must be a JSON object"),
    ],
)
def test_missing_files_are_found_before_the_run(fault, message):
    """`outline` is what a command looks at before its first cell."""
    folder = small_models.folder("llama")
    FAULTS[fault](folder)
    with pytest.raises(ValueError, match=message):
        outline(transformers.AutoModelForCausalLM, str(folder), "cpu", "float32")
    assert message.split()[0] in outcome(folder, None)


def test_folder_named_after_its_format_does_not_hide_the_reason(tmp_path):
    folder = tmp_path / "llama-safetensors"
    shutil.copytree(small_models.folder("llama"), folder)
    truncate("config.json", 0.5)(folder)
    assert "none was found" not in outcome(folder, None)


def test_two_labels_refused_for_a_reward():
    folder = small_models.folder("llama", classifier=True)
    two_labels(folder)
    assert "one label" in outcome(folder, "classifier")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(150))
def test_random_damage_is_refused_by_name_or_harmless(seed):
    """Bytes, settings or whole files of a folder change at random; keyed by the seed, so that a failure repeats."""
    generator = np.random.default_rng(seed)
    kind = [None, "classifier", "likelihood"][seed % 3]
    folder = small_models.folder("llama", classifier=kind == "classifier")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    file = files[generator.integers(len(files))]
    if file.suffix == ".json" and file.name != "tokenizer.json":
        settings = json.loads(file.read_text())
        key = sorted(settings)[generator.integers(len(settings))]
        values = [None, -1, 0, 3, 10**9, 1e30, float("nan"), "text", [], {}, True]
        settings[key] = values[generator.integers(len(values))]
        file.write_text(json.dumps(settings))
    else:
        content = bytearray(file.read_bytes())
        for position in generator.integers(0, min(len(content), 4000), 3):
            content[position] = generator.integers(256)
        file.write_bytes(bytes(content))
    message = outcome(folder, kind)
    if message is not None:
        assert_helpful(message, folder)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vocab_size": 300}, "lm_head.weight has the shape [280, 16], and by config.json [300, 16]"),
        ({"rms_norm_eps": "1e-6"}, "Field 'rms_norm_eps' expected float, got str (value: '1e-6')"),
        ({"hidden_act": "gellu"}, "unknown value 'gellu'"),
    ],
)
def test_wrong_value_of_the_configuration_is_named(settings, said):
    folder = small_models.folder("llama")
    small_models.edit(folder / "config.json", **settings)
    with pytest.raises(ValueError, match=rf"the weights of {folder} .*{re.escape(said)}"):
        Policy.from_pretrained(str(folder))
