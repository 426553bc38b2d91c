"""Sizes of models: against the models that Transformers builds, and against what autograd keeps."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from nabla_reasoner.models.backbone import model_size
from nabla_reasoner.planning import model_sizes
from nabla_reasoner.planning.model_sizes import Model, ModelSize, check_vocabulary, load, parameters

ASSETS = Path(__file__).resolve().parents[2] / "assets"
TYPES = {"Qwen/Qwen2.5-7B": "qwen2", "Skywork/Skywork-Reward-V2-Qwen3-4B": "qwen3"}
LLAMAS = ("meta-llama/Llama-3.1-8B-Instruct", "models/smollm2-135m-instruct")


def build(size: ModelSize, model_type: str, *, classifier: bool, device: str, **others: object) -> torch.nn.Module:
    """Build a model of these sizes by Transformers."""
    config = transformers.AutoConfig.for_model(
        model_type,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim,
        vocab_size=size.rows,
        tie_word_embeddings=size.tied,
        num_labels=1,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    auto = transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModelForCausalLM
    with torch.device(device):
        return auto.from_config(config, **others)


@pytest.mark.parametrize("classifier", [False, True])
@pytest.mark.parametrize("name", [*TYPES, *LLAMAS])
def test_parameters_are_those_of_transformers(name: str, classifier: bool):
    model = load(name, classifier=classifier)
    built = build(model.size, TYPES.get(name, "llama"), classifier=classifier, device="meta", dtype=torch.bfloat16)
    count = sum(parameter.numel() for parameter in built.parameters())
    assert model.elements == pytest.approx(count, rel=2e-4)  # biases are left out
    assert model.arithmetic == pytest.approx(model_size(built), rel=2e-4)


@pytest.mark.parametrize(("model_type", "head_norms"), [("llama", False), ("qwen3", True)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kept_bytes_are_those_that_autograd_keeps(model_type: str, head_norms: bool, dtype: torch.dtype):
    size = ModelSize(
        layers=2,
        hidden=256,
        intermediate=896,
        heads=8,
        kv_heads=2,
        head_dim=32,
        rows=64,
        tokens=64,
        vocabulary="toy",
        tied=False,
        head_norms=head_norms,
    )
    built = build(size, model_type, classifier=False, device="cpu", dtype=dtype, attn_implementation="sdpa")
    built.requires_grad_(False)
    weights = {parameter.untyped_storage().data_ptr() for parameter in built.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    count = 192
    embeddings = torch.randn(1, count, size.hidden, dtype=dtype, requires_grad=True)
    mask = torch.ones(1, 1, count, count, dtype=torch.bool).tril()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        built.base_model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False)
    model = Model("toy", size, False, parameters(size, classifier=False), 0)
    assert count * model.kept_bytes(dtype.itemsize) == pytest.approx(sum(kept.values()), rel=0.1)


@pytest.mark.parametrize("folder", ["policies/tiny-base", "policies/tiny-instruct", "rewards/likelihood-medium"])
def test_shipped_folder_is_measured_exactly(folder: str):
    model = load(str(ASSETS / folder), classifier=False)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(ASSETS / folder)
    assert model.elements == sum(parameter.numel() for parameter in loaded.parameters())
    assert model.arithmetic == pytest.approx(model_size(loaded), rel=5e-3)  # biases
    cache = loaded(input_ids=torch.zeros(1, 5, dtype=torch.long), use_cache=True).past_key_values
    stored = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    assert 5 * model.cache_bytes(loaded.dtype.itemsize) == stored


def test_half_precision_file_counts_the_same_parameters(tmp_path: Path):
    shutil.copytree(ASSETS / "policies/tiny-base", tmp_path / "half")
    file = tmp_path / "half" / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    exact = load(str(ASSETS / "policies/tiny-base"), classifier=False)
    assert load(str(tmp_path / "half"), classifier=False).elements == exact.elements


def test_padded_rows_are_no_difference_of_vocabulary():
    policy = load("Qwen/Qwen2.5-7B", classifier=False)
    reward = load("Skywork/Skywork-Reward-V2-Qwen3-4B", classifier=True)
    assert (policy.size.tokens, policy.size.rows, reward.size.rows) == (151665, 152064, 151936)
    check_vocabulary(policy, reward)
    short = reward._replace(size=reward.size.model_copy(update={"rows": 151_000}))
    with pytest.raises(ValueError, match=r"151,000"):
        check_vocabulary(policy, short)


def test_vocabularies_of_other_families_are_refused():
    policy = load("meta-llama/Llama-3.1-8B-Instruct", classifier=False)
    with pytest.raises(ValueError, match="share one vocabulary"):
        check_vocabulary(policy, load("Skywork/Skywork-Reward-V2-Qwen3-8B", classifier=True))


def test_folder_with_another_tokenizer_is_refused(tmp_path: Path):
    shutil.copytree(ASSETS / "rewards/likelihood", tmp_path / "reward")
    file = tmp_path / "reward" / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    vocabulary = content["model"]["vocab"]
    *_, first, second = vocabulary
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(content), "utf-8")
    policy = load(str(ASSETS / "policies/tiny-base"), classifier=False)
    check_vocabulary(policy, load(str(ASSETS / "rewards/likelihood"), classifier=False))
    with pytest.raises(ValueError, match="share one vocabulary"):
        check_vocabulary(policy, load(str(tmp_path / "reward"), classifier=False))


def test_tokens_of_a_folder_are_those_of_its_tokenizer():
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(ASSETS / "tokenizer" / "tokenizer.json"))
    assert model_sizes.token_ids(str(ASSETS / "tokenizer")) == tokenizer.get_vocab()


def test_unknown_model_is_refused_by_name():
    with pytest.raises(ValueError, match="sizes of 'nobody/nothing' must be known"):
        load("nobody/nothing", classifier=False)


def test_broken_weight_file_is_refused(tmp_path: Path):
    shutil.copytree(ASSETS / "policies/tiny-base", tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"not a header")
    with pytest.raises(ValueError, match="safetensors file"):
        load(str(tmp_path / "broken"), classifier=False)
