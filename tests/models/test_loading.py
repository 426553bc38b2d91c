"""Refusals at load: weights that are missing, left over or damaged, foreign code, vocabularies, contexts."""

import copy as copies
import functools
import io
import json
import shutil
import sys
from pathlib import Path

import peft
import pytest
import small_models
import torch
import toys
import transformers
from safetensors.torch import load_file, save_file

from nabla_reasoner import BestOfN, NablaReasoner, Problem, TreeOfThoughts
from nabla_reasoner.baselines.tpo import TPO
from nabla_reasoner.dto import optimize
from nabla_reasoner.models import forward_check
from nabla_reasoner.models.architecture import cache_keyword
from nabla_reasoner.models.language_models import Policy, RewardModel

UNTIED = {"tie_word_embeddings": False}


def change_weights(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def refused(match: str, folder: Path, *, kind: str | None = None, **options) -> str:
    """Return the error of loading a folder as a policy or a reward; it is one line that names the folder."""
    load = Policy.from_pretrained if kind is None else functools.partial(RewardModel.from_pretrained, kind=kind)
    with pytest.raises(ValueError, match=match) as caught:
        load(str(folder), **options)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def test_classifier_without_a_row_for_its_end_token_refused():
    """Every problem failed after all compute."""
    folder = small_models.folder("qwen2", classifier=True)
    tokenizer = copies.deepcopy(small_models.tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|turn_end|>"]})
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|turn_end|>")
    tokenizer.save_pretrained(folder)
    refused("its chat template writes token 280", folder, kind="classifier")


def test_adapter_beside_the_weights_of_a_model_object_refused():
    model = peft.get_peft_model(toys.policy().model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"has a LoRA adapter beside them. Pass peft.PeftModel.from_pretrained"):
        Policy(model, small_models.tokenizer(), "adapted")


def test_model_given_to_a_constructor_is_compared_with_its_own_forward_when_it_first_solves():
    path = small_models.folder("gemma2", sliding_window=8, final_logit_softcapping=5.0)
    capped = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    problems = [Problem("p", "1+2", "3", "free")]
    for policy, reward in (
        (Policy(capped, small_models.tokenizer(), "capped"), toys.reward("likelihood")),
        (toys.policy(), RewardModel(capped, small_models.tokenizer(), "capped", "likelihood")),
    ):
        with pytest.raises(ValueError, match=r"capped \(Gemma2ForCausalLM\) caps or"):
            BestOfN(num_samples=2, max_new_tokens=2).solve(problems, policy, reward)


def test_long_sliding_window_that_an_architecture_ignores_limits_texts():
    """Llama's conversions of Mistral keep the setting; masks with a cache had the window, others had not."""
    path = small_models.folder("llama", max_position_embeddings=1024)
    small_models.edit(path / "config.json", sliding_window=310)
    assert Policy.from_pretrained(str(path)).limit == (310, "sliding_window")
    served = small_models.folder("mistral", max_position_embeddings=1024, sliding_window=310)
    assert Policy.from_pretrained(str(served)).context == 1024


def test_special_token_for_images_behind_the_last_row_is_no_fault():
    """Gemma 3 1B's tokenizer has one token more than its matrices have rows; no chat holds it."""
    folders = [small_models.folder("llama"), small_models.folder("llama", classifier=True)]
    tokenizer = copies.deepcopy(small_models.tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<image_soft_token>"]})
    for folder in folders:
        tokenizer.save_pretrained(folder)
    policy = Policy.from_pretrained(str(folders[0]))
    assert policy.vocab_size == len(tokenizer) - 1 == len(policy.embedding)
    for folder, kind in zip(folders, ("likelihood", "classifier"), strict=True):
        reward, problem = RewardModel.from_pretrained(str(folder), kind), Problem("p", "1+2", "3", "free")
        (solution,) = BestOfN(num_samples=2, max_new_tokens=2).solve([problem], policy, reward)
        assert solution.error is None
    tokenizer.add_tokens(["ordinary"])
    tokenizer.save_pretrained(folders[0])
    refused("must have a row for each token", folders[0])


@pytest.mark.slow
def test_error_of_an_architectures_own_type_names_the_model():
    per_layer = {"vocab_size_per_layer_input": 280, "hidden_size_per_layer_input": 8}
    folder = small_models.folder("gemma4_text", sliding_window=8, num_hidden_layers=6, **per_layer)
    refused("is not a causal transformer that can be served", folder)


def test_classifier_without_score_head_refused():
    folder = small_models.folder("qwen2")
    small_models.edit(folder / "config.json", num_labels=1, id2label={"0": "a"}, label2id={"a": 0})
    refused(r"score\.weight are missing", folder, kind="classifier")


def test_untied_policy_without_output_matrix_refused():
    folder = small_models.folder("llama", **UNTIED)
    change_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    refused(r"lm_head\.weight are missing", folder)
    refused(r"lm_head\.weight are missing", folder, kind="likelihood")


@pytest.mark.parametrize(
    ("layers", "match"),
    [(3, r"model\.layers\.2\S+ and \d+ more are missing"), (1, r"model\.layers\.1\S+ and .* not read")],
)
def test_other_number_of_layers_refused(layers, match):
    folder = small_models.folder("qwen2")
    small_models.edit(folder / "config.json", num_hidden_layers=layers, layer_types=["full_attention"] * layers)
    refused(match, folder)


def test_tied_matrix_and_other_heads_accepted(tmp_path):
    tied = small_models.folder("llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    Policy.from_pretrained(str(tied))
    classifier = copy(small_models.folder("llama", classifier=True), tmp_path)
    change_weights(classifier, lambda weights: weights.update({"lm_head.weight": torch.zeros(280, 16)}))
    RewardModel.from_pretrained(str(classifier))
    change_weights(tied, lambda weights: weights.update({"score.weight": torch.zeros(1, 16)}))
    Policy.from_pretrained(str(tied))


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("lm_head.bias", None),
        ("lm_head.1.weight", "likelihood"),
        ("embed_out.weight", None),
        ("score.bias", "classifier"),
        ("score.1.weight", "classifier"),
        ("classifier.weight", "classifier"),
    ],
)
def test_surplus_weight_of_the_models_own_head_refused(key, kind):
    """FAULTS K3: the model that was saved computes something else than the one that is loaded."""
    folder = small_models.folder("llama", classifier=kind == "classifier")
    change_weights(folder, lambda weights: weights.update({key: torch.full((1, 16), 5.0)}))
    refused(rf"{key} are not read by the model", folder, kind=kind)


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_adapter_beside_whole_weights_refused_with_and_without_peft(file, installed, monkeypatch):
    """FAULTS K3: transformers applies it where peft is installed, and ignores it elsewhere."""
    if not installed:
        monkeypatch.setitem(sys.modules, "peft", None)
    folder = small_models.folder("llama")
    (folder / file).write_text('{"peft_type": "LORA", "task_type": "CAUSAL_LM"}')
    message = refused(f"LoRA file {file}", folder)
    assert "merge_and_unload" in message
    refused(f"LoRA file {file}", folder, kind="likelihood")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"])
def test_non_finite_weight_has_message_of_its_own(key, value):
    folder = small_models.folder("llama", tie_word_embeddings=True)
    change_weights(folder, lambda weights: weights[key].view(-1)[77:78].fill_(value))
    message = refused(rf"{key} holds NaN or infinity", folder)
    assert "scales" not in message


def test_overflow_of_finite_weights_refused():
    folder = small_models.folder("llama", tie_word_embeddings=True)
    change_weights(folder, lambda weights: weights["model.layers.1.mlp.up_proj.weight"].mul_(1e38))
    refused("outputs of .* must be finite", folder)


def test_code_of_its_own_refused_without_asking_or_running(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on stdin"))
    folder = small_models.folder("llama")
    witness = tmp_path / "ran"
    code = f"open({str(witness)!r}, 'w').close()\nfrom transformers import LlamaConfig as C, LlamaForCausalLM as M\n"
    (folder / "modeling_own.py").write_text(code)
    auto = {"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M"}
    small_models.edit(folder / "config.json", model_type="own", auto_map=auto)
    refused("brings code of its own .*never run", folder)
    (folder / "tokenizer.json").rename(folder / "tokenizer.old")
    refused("cannot be read", folder)
    assert not witness.exists()


def test_weights_that_are_not_safetensors_refused():
    folder = small_models.folder("llama")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    refused("must be safetensors files", folder)


def test_matrix_with_fewer_rows_than_tokens_refused_and_padding_accepted():
    small = small_models.folder("qwen2", vocab_size=279)
    refused(r"279 rows for the 280 tokens", small)
    refused(r"279 rows for the 280 tokens", small, kind="likelihood")
    padded = str(small_models.folder("qwen2", vocab_size=320))
    policy, reward = Policy.from_pretrained(padded), RewardModel.from_pretrained(padded, "likelihood", reference=padded)
    assert policy.vocab_size == 280
    reward.for_policy(policy)


@pytest.mark.slow
def test_device_that_torch_does_not_know_is_not_called_damaged_weights():
    message = refused("cannot be moved to device 'mps'", Path(toys.model_folder("llama")), device="mps")
    assert "retrain" not in message


def test_torch_device_accepted():
    assert Policy.from_pretrained(toys.model_folder("llama"), device=torch.device("cpu")).device.type == "cpu"


def test_reference_of_other_vocabulary_refused_at_load():
    reward, reference = small_models.folder("llama"), small_models.folder("llama")
    content = json.loads((reference / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    first, second = list(vocabulary)[20:22]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (reference / "tokenizer.json").write_text(json.dumps(content))
    message = refused("reward and its reference must share", reward, kind="likelihood", reference=str(reference))
    assert str(reference) in message


PROBLEMS = [Problem("1", "What is 12 + 34?", None, "free")]


@pytest.mark.parametrize("kind", ["classifier", "likelihood", "reference"])
@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
def test_text_beyond_context_of_reward_or_reference_refused(architecture, kind):
    policy = toys.policy()
    short = small_models.folder(architecture, classifier=kind == "classifier", max_position_embeddings=32)
    if kind == "reference":
        reward = RewardModel.from_pretrained(toys.model_folder("llama"), "likelihood", reference=str(short))
    else:
        reward = RewardModel.from_pretrained(str(short), kind)
    methods = [
        BestOfN(num_samples=2, max_new_tokens=40),
        NablaReasoner(max_new_tokens=40, max_rollouts=2),
        TreeOfThoughts(max_new_tokens=40),
        TPO(max_new_tokens=40),
    ]
    for method in methods:
        with pytest.raises(ValueError, match=rf"context of 32 tokens .*{short}"):
            method.solve(PROBLEMS, policy, reward)
    with pytest.raises(ValueError, match=rf"context of 32 tokens .*{short}"):
        optimize(policy, reward, prompts=[PROBLEMS[0].messages], prefix_ids=[[]], rollout_ids=[[50] * 40])


def test_closing_tokens_count_towards_context_of_reward():
    reward = RewardModel.from_pretrained(str(small_models.folder("gpt2", max_position_embeddings=32)), "likelihood")
    reward.check_length(20, 11)
    with pytest.raises(ValueError, match="20, max_new_tokens=12 and 1 to close"):
        reward.check_length(20, 12)


def test_forward_check_finds_a_wrong_head_and_a_wrong_batch(monkeypatch):
    folder = toys.model_folder("llama", classifier=True)
    plain = RewardModel.head_scores
    monkeypatch.setattr(RewardModel, "head_scores", lambda self, hidden: 1.001 * plain(self, hidden))
    refused("score head applied to the last hidden state", Path(folder), kind="classifier")
    monkeypatch.undo()
    folder = toys.model_folder("llama")
    plain_inputs = Policy.attention_inputs

    def by_column(self, keys, queries):
        return plain_inputs(self, keys, queries.max(0, keepdim=True).values.expand_as(queries))

    monkeypatch.setattr(Policy, "attention_inputs", by_column)
    refused("in a batch with another", Path(folder))


def test_forward_check_reads_less_than_two_dozen_tokens(monkeypatch):
    policy = toys.policy("llama", "float32")
    sizes = []
    forward = policy.model.base_model.forward
    monkeypatch.setattr(
        policy.model.base_model,
        "forward",
        lambda *args, **kwargs: (
            sizes.append(
                next(kwargs[k] for k in ("input_ids", "inputs_embeds") if kwargs.get(k) is not None).shape[:2]
            ),
            forward(*args, **kwargs),
        )[1],
    )
    policy.check_forward()
    assert sum(rows * columns for rows, columns in sizes) <= 48
    assert max(rows * columns for rows, columns in sizes) <= 2 * max(forward_check.LENGTHS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_sound_models_pass_in_every_dtype(architecture, dtype):
    Policy.from_pretrained(toys.model_folder(architecture), dtype=dtype)
    RewardModel.from_pretrained(toys.model_folder(architecture, classifier=True), dtype=dtype)


class OldForward(torch.nn.Module):
    def forward(self, inputs_embeds, past_key_values=None):
        return past_key_values


class NewForward(torch.nn.Module):
    def forward(self, inputs_embeds, cache=None):
        return cache


def test_cache_keyword_follows_the_signature(monkeypatch):
    assert cache_keyword(OldForward()) == "past_key_values"
    assert cache_keyword(NewForward()) == "cache"
    policy, reward = toys.policy("llama"), toys.reward(architecture="qwen2")
    method = BestOfN(num_samples=2, max_new_tokens=4)
    expected = method.solve(PROBLEMS, policy, reward)[0].token_ids
    base, caches = policy.model.base_model, []
    forward = type(base).forward

    def renamed(self, inputs_embeds=None, cache=None, **others):
        caches.append(cache)
        return forward(self, inputs_embeds=inputs_embeds, past_key_values=cache, **others)

    monkeypatch.setattr(type(base), "forward", renamed)
    later = Policy(policy.model, policy.tokenizer, "transformers 5.24")
    assert method.solve(PROBLEMS, later, reward)[0].token_ids == expected
    assert caches
    assert None not in caches


def test_classifier_is_no_language_model():
    """Its embedding matrix, tied, would be the output matrix of layers that were trained for a score."""
    path = small_models.folder("llama", classifier=True)
    small_models.edit(path / "config.json", tie_word_embeddings=True)
    folder = str(path)
    for load in (Policy.from_pretrained, functools.partial(RewardModel.from_pretrained, kind="likelihood")):
        with pytest.raises(ValueError, match=r"is of LlamaForSequenceClassification. Use kind='classifier'"):
            load(folder)
