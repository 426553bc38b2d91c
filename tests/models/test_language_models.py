import json
import shutil
from pathlib import Path

import pytest
import small_models
import torch
import toys
import transformers

from nabla_reasoner.models import loading
from nabla_reasoner.models.language_models import Policy, RewardModel, model_size
from nabla_reasoner.models.tokenizers import build_tokenizer, load_tokenizer


def test_merges_are_not_left_out_at_random():
    """Tokenizers keep the BPE dropout that their model was trained with: each prompt had other tokens."""
    folder = small_models.folder("llama")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["dropout"] = 0.5
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    prompts = {tuple(load_tokenizer(str(folder)).encode("What is 12 + 34? " * 5)) for _ in range(5)}
    assert prompts == {tuple(small_models.tokenizer().encode("What is 12 + 34? " * 5))}


def copy(tmp_path: Path, folder: str) -> Path:
    shutil.copytree(folder, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_tokenizer_json_of_folder_determines_ids(architecture):
    """AutoTokenizer would rebuild a qwen2 folder's tokenizer with Qwen's pre-tokenizer, which changes the ids."""
    folder = toys.model_folder(architecture)
    policy = Policy.from_pretrained(folder)
    text = "What is 12 + 34?\nA  line"
    direct = transformers.PreTrainedTokenizerFast(tokenizer_file=str(Path(folder, "tokenizer.json")))
    assert policy.tokenizer.encode(text) == direct.encode(text)
    assert policy.decode(policy.tokenizer.encode(text)) == text


def test_prompt_of_any_text_opens_assistant_turn():
    policy = toys.policy()
    ids = policy.prompt_ids(toys.chat("déjà vu: 3 × 4 = ? 数学"))
    assert policy.tokenizer.decode(ids) == "<|user|>déjà vu: 3 × 4 = ? 数学<|end|><|assistant|>"


def test_head_of_hidden_states_equals_model_logits():
    policy = toys.policy("llama")
    ids = torch.tensor([[4, 9, 100, 20]])
    actual = policy.logits(policy.hidden_states(policy.embedding[ids]))
    torch.testing.assert_close(actual, policy.model(input_ids=ids).logits[..., : policy.vocab_size])


def test_float64_model_computes_in_float64():
    """A change of 1e-12 must reach the output, which transformers' float32 RMSNorm would prevent."""
    policy = toys.policy("qwen2", dtype="float64")
    embeddings = policy.embedding[torch.tensor([[4, 9, 100]])]
    nudged = embeddings + 1e-12
    change = (policy.hidden_states(nudged) - policy.hidden_states(embeddings)).abs()
    assert 1e-14 < change.max() < 1e-9
    torch.testing.assert_close(
        policy.hidden_states(embeddings).float(),
        toys.policy("qwen2", dtype="float32").hidden_states(embeddings.float()),
        rtol=1e-4,
        atol=1e-4,
    )


def test_size_counts_matrices_of_layers_head_and_attention():
    for model in (toys.policy().model, toys.reward("classifier").model):
        linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
        head = linear[-1].weight.numel()
        size = model_size(model)
        assert (size.layers, size.head) == (sum(module.weight.numel() for module in linear) - head, head)
        queries = sum(module.out_features for name, module in model.named_modules() if name.endswith("q_proj"))
        assert size.attention == queries


def test_other_vocabulary_error_names_both_sizes(tmp_path):
    folder = copy(tmp_path, toys.model_folder("llama"))
    tokenizer = build_tokenizer(["something else entirely, something else"], 290)
    tokenizer.save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    reward = RewardModel.from_pretrained(str(folder), kind="likelihood")
    policy = toys.policy()
    with pytest.raises(ValueError, match=rf"one vocabulary; got {len(policy.tokenizer)} .* and {len(tokenizer)} "):
        reward.for_policy(policy)


def test_missing_folder_weights_or_template_named_in_error(tmp_path):
    with pytest.raises(ValueError, match=r"config.json; got './nowhere'"):
        Policy.from_pretrained("./nowhere")
    folder = copy(tmp_path, toys.model_folder("qwen2"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="weights of .* cannot be read"):
        Policy.from_pretrained(str(folder))
    shutil.copy(Path(toys.model_folder("qwen2"), "model.safetensors"), weights)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="chat template"):
        Policy.from_pretrained(str(folder))


def test_unknown_kind_dtype_or_device_rejected():
    folder = toys.model_folder("llama")
    with pytest.raises(ValueError, match="classifier, likelihood; got 'judge'"):
        RewardModel.from_pretrained(folder, kind="judge")
    with pytest.raises(ValueError, match="float32, float64, bfloat16; got 'int8'"):
        Policy.from_pretrained(folder, dtype="int8")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device 'cuda'"):
            Policy.from_pretrained(folder, device="cuda")


def test_classifier_with_two_labels_rejected(tmp_path):
    folder = copy(tmp_path, toys.model_folder("llama", classifier=True))
    config = json.loads((folder / "config.json").read_text())
    config.update(num_labels=2, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="one label|weights of"):
        RewardModel.from_pretrained(str(folder), kind="classifier")


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gpt2"])
def test_attention_is_that_of_the_loaded_model_with_or_without_weights(architecture):
    folder = str(small_models.folder(architecture))
    policy = Policy.from_pretrained(folder)
    layers = {type(module).__name__: module for module in policy.model.modules()}
    used = next(module for name, module in layers.items() if name.endswith("Attention"))
    assert policy.attention == used.config._attn_implementation == "sdpa"
    model, tokenizer = loading.outline(transformers.AutoModelForCausalLM, folder, "cpu", "float32")
    assert Policy(model, tokenizer, folder).attention == policy.attention
