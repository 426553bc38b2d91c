"""Adapters of every kind, merged: their tokenizers, score heads and embeddings, and bases that lack something."""

import json
import shutil
from pathlib import Path

import pytest
import small_models
import torch
import toys
from safetensors.torch import load_file, save_file

from nabla_reasoner.config import fingerprint
from nabla_reasoner.models import conversion
from nabla_reasoner.models.language_models import Policy, RewardModel
from nabla_reasoner.models.tokenizers import load_tokenizer
from nabla_reasoner.models.whole_models import load_whole

# peft 0.21 reads an attribute that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
IDS = torch.randint(5, 250, (1, 30), generator=torch.Generator().manual_seed(0))
DOWN = "model.layers.1.mlp.down_proj.weight"


def make_adapter(folder: Path, base: str, task_type: str = "CAUSAL_LM", num_labels: int = 1, **settings):
    """Write an adapter whose weights, those of a score head included, are random; return base and adapter."""
    peft = pytest.importorskip("peft", reason="needs the extra small; pip install -e '.[small]'")
    torch.manual_seed(0)
    settings = {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False, **settings}
    model = load_whole(base, task_type, num_labels=num_labels)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type=task_type, **settings)).eval()
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if weight.requires_grad and "lora" not in name:
                weight.add_(torch.randn_like(weight))
    wrapped.save_pretrained(folder)
    return wrapped


def change(file: Path, key: str, value: torch.Tensor | None = None) -> None:
    """Replace a weight of a file, or take it out."""
    weights = load_file(file)
    del weights[key]
    save_file({**weights, **({key: value} if value is not None else {})}, file, {"format": "pt"})


def difference(merged: torch.nn.Module, wrapped: torch.nn.Module) -> float:
    with torch.no_grad():
        return (merged(input_ids=IDS).logits - wrapped(input_ids=IDS).logits).abs().max().item()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", f"^the weights of {{base}} must be those of its config.json; {DOWN} are missing"),
        ("no head", r"^the weights of {base} must be those of its config.json; lm_head\.weight are missing"),
        ("nan", f"^the weights of {{base}} must be finite numbers; {DOWN} holds NaN"),
        ("adapter", "must hold whole weights; {base} also has the LoRA file adapter_config.json"),
        ("adapter nan", r"the weights of .*adapter must be finite numbers; .*lora_A\S* holds NaN"),
    ],
)
def test_faulty_weights_are_named_and_nothing_is_made_up(fault, message, tmp_path):
    """The weights that a base lacked were random: two merges of one adapter gave two models."""
    base, adapter = small_models.folder("llama", tie_word_embeddings=False), tmp_path / "adapter"
    make_adapter(adapter, str(base))
    if fault in ("missing", "nan"):
        change(base / "model.safetensors", DOWN, torch.full((16, 32), torch.nan) if fault == "nan" else None)
    elif fault == "no head":
        change(base / "model.safetensors", "lm_head.weight")
    elif fault == "adapter":
        for file in adapter.iterdir():
            shutil.copy(file, base)
    else:
        key = next(iter(load_file(adapter / conversion.WEIGHTS)))
        change(adapter / conversion.WEIGHTS, key, torch.full((2, 16), torch.nan))
    with pytest.raises(ValueError, match=message.format(base=base)) as caught:
        conversion.merge(str(tmp_path / "m"), base=str(base), adapter=str(adapter))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize(
    ("task_type", "kind", "num_labels"),
    [("SEQ_CLS", "classifier", 1), ("TOKEN_CLS", "token_classifier", 1), ("TOKEN_CLS", "token_classifier", 2)],
)
def test_merged_classifier_has_the_adapters_score_head(task_type, kind, num_labels, tmp_path):
    base = toys.model_folder("llama")
    wrapped = make_adapter(tmp_path / "adapter", base, task_type, num_labels)
    conversion.merge(str(tmp_path / "m"), base=base, adapter=str(tmp_path / "adapter"))
    reward = RewardModel.from_pretrained(str(tmp_path / "m"), kind=kind)
    assert reward.model.config.num_labels == num_labels
    assert reward.model.score.weight.any()
    assert difference(reward.model, wrapped) < 1e-4


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"trainable_token_indices": {"embed_tokens": [5, 6, 250]}},
        {"modules_to_save": ["embed_tokens"]},
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # peft's, on tied matrices
def test_adapter_of_embeddings_is_merged_unless_one_matrix_would_change_two(settings, tied, tmp_path):
    base = str(small_models.folder("llama", tie_word_embeddings=tied))
    wrapped = make_adapter(tmp_path / "adapter", base, **settings)
    merge = {"base": base, "adapter": str(tmp_path / "adapter")}
    if tied and "embed_tokens" in settings.get("target_modules", []):
        with pytest.raises(ValueError, match="would compute something else.*or the other way round"):
            conversion.merge(str(tmp_path / "m"), **merge)
    else:
        conversion.merge(str(tmp_path / "m"), **merge)
        assert difference(Policy.from_pretrained(str(tmp_path / "m")).model, wrapped) < 1e-3


def write_own(adapter: Path, base: str, files: str) -> None:
    """Write tokenizer files with a template of its own into an adapter's folder."""
    tokenizer = load_tokenizer(base)
    template = tokenizer.chat_template.replace("{{ message['content'] }}", "Q: {{ message['content'] }}")
    if files == "whole":
        tokenizer.chat_template = template
        tokenizer.save_pretrained(adapter)
    elif files == "template":
        (adapter / "chat_template.jinja").write_text(template)
    elif files == "settings":  # as older versions of transformers wrote it
        settings = json.loads(Path(base, "tokenizer_config.json").read_text())
        (adapter / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))


@pytest.mark.slow
@pytest.mark.parametrize("files", ["whole", "template", "settings"])
def test_tokenizer_and_template_of_the_adapter_are_used(files, tmp_path):
    base, folder, adapter = toys.model_folder("llama"), str(tmp_path / "m"), tmp_path / "adapter"
    chat = toys.chat("2+3")
    make_adapter(adapter, base)
    conversion.merge(folder, base=base, adapter=str(adapter))
    before, plain = fingerprint.folder_digest(folder), Policy.from_pretrained(folder)
    write_own(adapter, base, files)
    conversion.merge(folder, base=base, adapter=str(adapter))
    own = Policy.from_pretrained(folder)
    question = plain.tokenizer.decode(plain.prompt_ids(chat))
    assert own.tokenizer.decode(own.prompt_ids(chat)) == question.replace("2+3", "Q: 2+3")
    assert own.tokenizer.get_vocab() == plain.tokenizer.get_vocab()
    assert own.eos_ids == plain.eos_ids
    after = fingerprint.folder_digest(folder)
    assert after != before
    (file,) = [path for path in adapter.iterdir() if "Q: {{" in path.read_text("utf-8", "ignore")]
    file.write_text(file.read_text().replace("Q: {{", "Query: {{"))
    conversion.merge(folder, base=base, adapter=str(adapter))
    assert fingerprint.folder_digest(folder) not in (before, after), "an edited template is another model"


def test_template_of_an_adapter_serves_a_base_that_has_none(tmp_path):
    base, adapter = small_models.folder("llama"), tmp_path / "adapter"
    make_adapter(adapter, str(base))
    write_own(adapter, str(base), "template")
    (base / "chat_template.jinja").unlink()
    conversion.merge(str(tmp_path / "m"), base=str(base), adapter=str(adapter))
    policy = Policy.from_pretrained(str(tmp_path / "m"))
    assert "Q: 2+3" in policy.tokenizer.decode(policy.prompt_ids(toys.chat("2+3")))


def test_scores_of_a_merged_adapter_are_read_where_it_was_trained(tmp_path):
    """TRL pads with the end of turn, so trains the score at the token before, and notes this in the tokenizer only."""
    base, adapter = str(small_models.folder("llama", classifier=True)), tmp_path / "adapter"
    make_adapter(adapter, base, "SEQ_CLS", target_modules=["q_proj"])
    tokenizer = load_tokenizer(base)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(adapter)
    conversion.merge(str(tmp_path / "merged"), base=base, adapter=str(adapter))
    with pytest.raises(ValueError, match="where TRL trains it. That cannot be served"):
        RewardModel.from_pretrained(str(tmp_path / "merged"))


@pytest.mark.slow
def test_template_of_the_base_serves_an_adapter_that_has_tokens_only(tmp_path):
    base, adapter = str(small_models.folder("llama")), tmp_path / "adapter"
    make_adapter(adapter, base)
    shutil.copy(Path(base, "tokenizer.json"), adapter)
    conversion.merge(str(tmp_path / "merged"), base=base, adapter=str(adapter))
    chat = toys.chat("1+2")
    assert Policy.from_pretrained(str(tmp_path / "merged")).prompt_ids(chat) == Policy.from_pretrained(base).prompt_ids(
        chat
    )


def test_adapter_of_prompts_is_refused_by_its_kind(tmp_path):
    peft = pytest.importorskip("peft", reason="needs the extra small; pip install -e '.[small]'")
    base, adapter = str(small_models.folder("llama")), tmp_path / "adapter"
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    peft.get_peft_model(load_whole(base), settings).save_pretrained(adapter)
    with pytest.raises(ValueError, match="its peft_type PROMPT_TUNING changes the prompt"):
        conversion.merge(str(tmp_path / "merged"), base=base, adapter=str(adapter))


def test_damaged_tokenizer_settings_of_an_adapter_are_one_error(tmp_path):
    adapter = tmp_path / "adapter"
    make_adapter(adapter, toys.model_folder("llama"))
    for content in ('{"chat_tem', "3", '{"chat_template": "{% if"}'):
        (adapter / "tokenizer_config.json").write_text(content)
        with pytest.raises(ValueError, match="adapter") as caught:
            conversion.merge(str(tmp_path / "m"), base=toys.model_folder("llama"), adapter=str(adapter))
        assert "\n" not in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_other_files_of_an_adapter_do_not_count(tmp_path):
    """The shipped adapters have a manifest and no tokenizer: what is noted of them is what was noted before."""
    base, folder, adapter = toys.model_folder("llama"), tmp_path / "m", tmp_path / "adapter"
    make_adapter(adapter, base)
    (adapter / "manifest.json").write_text("{}")
    conversion.merge(str(folder), base=base, adapter=str(adapter))
    origin = json.loads((folder / fingerprint.MERGED).read_text())["origin"]
    assert list(origin["adapter"]) == ["adapter_config.json", "adapter_model.safetensors"]
