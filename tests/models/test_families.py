"""Architectures: those served equal Hugging Face's own outputs, alone and in batches; others are refused by name."""

import numpy as np
import pytest
import small_models
import torch
from torch.utils.flop_counter import FlopCounterMode

from nabla_reasoner.dto import gradient_passes, gradients, objective
from nabla_reasoner.engine import generation, scoring
from nabla_reasoner.engine.sampling import Sampling, keyed_uniforms
from nabla_reasoner.engine.sequences import TokenSequence
from nabla_reasoner.models import backbone
from nabla_reasoner.models.language_models import Policy, RewardModel

WINDOW = {"sliding_window": 8}
EXPERTS = {"num_local_experts": 2, "num_experts": 4, "num_experts_per_tok": 2}
SERVED = {
    "mistral": WINDOW,
    "gemma": {},
    "gemma3_text": {**WINDOW, "num_hidden_layers": 6},  # five layers with a window, one without
}
SERVED_TOO = {
    "qwen2": {},
    "llama": {},
    "gpt_oss": {**WINDOW, **EXPERTS},
    "qwen2 with window": {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1, **WINDOW},
    "phi3": WINDOW,
    "olmo3": WINDOW,
    "starcoder2": WINDOW,
    "mixtral": {**WINDOW, **EXPERTS},
    "granite without scale": {"model_type": "granite", "logits_scaling": 1.0, "embedding_multiplier": 3.0},
    "gemma2 without cap": {"model_type": "gemma2", "final_logit_softcapping": None, **WINDOW},
    "qwen3": {},
    "olmo2": {},
    "gpt2": {},
    "gpt_neox": {},
    "stablelm": {},
    "falcon": {"head_dim": None},
    "opt": {"word_embed_proj_dim": 16},
    "phi": {},
    "bloom": {},
}
REFUSED = {
    "gemma2": (WINDOW, r"Gemma2ForCausalLM\) caps or scales them \(final_logit_softcapping=30\.0"),
    "granite": ({"logits_scaling": 4.0}, r"GraniteForCausalLM\) caps or scales them \(logits_scaling=4\.0"),
    "cohere": ({}, r"CohereForCausalLM\) caps or scales them \(logit_scale=0\.0625"),
    "mamba": ({"max_position_embeddings": None}, r"MambaForCausalLM\) has layers of type linear_attention"),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, r"Lfm2ForCausalLM\) has layers of type conv"),
    "mpt": ({}, r"batch with another.*MptForCausalLM\) gives a logit of [-\d.]+ instead of [-\d.]+"),
    "bert": ({}, r"BertLMHeadModel\) gives a logit of [-\d.]+ instead of [-\d.]+"),
    # Experts of other names, layers that run several times, and a part for images: recorded 1.49, 0.32 and 6.0 times.
    "jetmoe": (
        {"num_local_experts": 4, "num_experts_per_tok": 2, "kv_channels": 8},
        r"JetMoeForCausalLM\) takes 24,832 for a token, and 36,992 would be recorded",
    ),
    "hrm_text": ({}, r"HrmTextForCausalLM\) takes 99,072 for a token, and 31,488 would be recorded"),
    "fuyu": ({}, r"FuyuForCausalLM\) takes 17,152 for a token, and 103,552 would be recorded"),
}


def write(name: str, settings: dict, **options) -> str:
    if settings.get("final_logit_softcapping", 0) is None:  # None would leave the default
        folder = small_models.folder("gemma2", **WINDOW, **options)
        small_models.edit(folder / "config.json", final_logit_softcapping=None)
        return str(folder)
    settings = dict(settings)
    return str(small_models.folder(settings.pop("model_type", name), **settings, **options))


def texts(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(5, 250, length).tolist() for length in lengths]


def families(table):
    return [pytest.param(name, settings, id=name) for name, settings in table.items()]


def assert_served(name, settings):
    """Greedy tokens equal `generate`, likelihoods equal `forward`, for prompts longer and shorter than a window."""
    policy = Policy.from_pretrained(write(name, settings))
    prompts, length = texts([4, 60, 20]), 24
    noise = [keyed_uniforms(0, str(i), 0, "r", length) for i in range(3)]
    rollouts = generation.sample(policy, prompts, noise, Sampling(0.0), [length] * 3)
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        ids = policy.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=length
        )
        assert rollout.token_ids == ids[0, len(prompt) :].tolist()
    reward = RewardModel(policy.model, policy.tokenizer, "reward", "likelihood")
    responses = [text + reward.eos_ids[:1] for text in [*texts([25, 3, 40], 1), *texts([2, 30, 11], 2)]]
    values, _ = scoring.rewards(reward, [*prompts, *prompts], responses)
    for value, prompt, response in zip(values, [*prompts, *prompts], responses, strict=True):
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([prompt + response])).logits[0, :, : policy.vocab_size]
        rows = logits.double().log_softmax(-1)[len(prompt) - 1 : -1]
        assert value == pytest.approx(rows[torch.arange(len(response)), response].sum().item(), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), families(SERVED))
def test_batch_equals_hugging_face_alone(name, settings):
    assert_served(name, settings)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), families(SERVED_TOO))
def test_other_batch_equals_hugging_face_alone(name, settings):
    assert_served(name, settings)


@pytest.mark.parametrize("name", ["gemma", "gemma2", "gemma3_text", "mistral"])
def test_classifier_score_equals_hugging_face_logit(name):
    settings = {**WINDOW} if name != "gemma" else {}
    reward = RewardModel.from_pretrained(write(name, settings, classifier=True))
    prompts, responses = texts([4, 30, 12]), [text + [1] for text in texts([20, 3, 9], 1)]
    values, _ = scoring.rewards(reward, [*prompts, *prompts], [*responses, *responses[::-1]])
    pairs = zip([*prompts, *prompts], [*responses, *responses[::-1]], strict=True)
    with torch.no_grad():
        expected = [
            reward.model(input_ids=torch.tensor([prompt + response])).logits.item() for prompt, response in pairs
        ]
    assert values == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_refused_architecture_named_for_policy_reward_and_reference(name):
    settings, message = REFUSED[name]
    path = str(small_models.folder(name, **settings))
    for load in (
        lambda: Policy.from_pretrained(path),
        lambda: RewardModel.from_pretrained(path, "likelihood"),
        lambda: RewardModel.from_pretrained(str(small_models.folder("llama")), "likelihood", reference=path),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            load()
        assert "\n" not in str(caught.value)
        assert path in str(caught.value)
        assert "Use another architecture" in str(caught.value)


NEO = {
    "num_hidden_layers": None,
    "num_attention_heads": None,
    "num_layers": 2,
    "num_heads": 2,
    "max_position_embeddings": 512,
}
LOCAL = {**NEO, "attention_types": [[["global", "local"], 1]]}
SPANS = {
    "small": ("gpt_neo", {**LOCAL, "window_size": 16}),
    "smallest": ("gpt_neo", {**LOCAL, "window_size": 5}),
    "GPT-Neo's own": ("gpt_neo", {**LOCAL, "window_size": 256}),
    "keep": ("doge", {"keep_window_size": 12}),
    "keep more": ("doge", {"keep_window_size": 100}),
}


@pytest.mark.parametrize("span", SPANS)
def test_window_of_another_name_refused_with_both_numbers(span):
    """FAULTS K6: in a batch of 4, 60 and 20 tokens the short text would see another window than alone."""
    name, settings = SPANS[span]
    path = str(small_models.folder(name, **settings))
    for load in (Policy.from_pretrained, lambda path: RewardModel.from_pretrained(path, "likelihood")):
        with pytest.raises(ValueError, match=r"gives a logit of [-\d.]+ instead of [-\d.]+") as caught:
            load(path)
        assert path in str(caught.value)


def test_window_beyond_the_check_limits_texts_and_global_layers_do_not():
    large = Policy.from_pretrained(str(small_models.folder("gpt_neo", **LOCAL, window_size=400)))
    large.check_length(200, 200)
    with pytest.raises(ValueError, match=r"context of 400 tokens \(window_size\)"):
        large.check_length(200, 201)
    settings = {**NEO, "attention_types": [[["global"], 2]], "window_size": 16}
    assert Policy.from_pretrained(str(small_models.folder("gpt_neo", **settings))).context == 512


def test_soft_cap_refused_however_small_the_logits():
    path = small_models.folder("gemma2", initializer_range=1e-4)
    with pytest.raises(ValueError, match="final_logit_softcapping"):
        Policy.from_pretrained(str(path))


@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
@pytest.mark.parametrize("name", ["gemma", "gemma3_text"])
def test_gradient_of_scaled_embedding_equals_autograd_and_finite_differences(name, kind):
    policy = Policy.from_pretrained(write(name, {}, seed=1), dtype="float64")
    reward = RewardModel.from_pretrained(
        write(name, {}, classifier=kind == "classifier", seed=2), kind, dtype="float64"
    )
    (prompt,), (rollout,) = texts([7]), texts([6], 1)
    sequence = TokenSequence(prompt, prompt, [], rollout)
    weights = {"reward_weight": 0.7, "nll_weight": 0.3}
    (gradient,) = gradient_passes.evaluate(policy, reward, [sequence], **weights)
    rows = gradients.onehot_gradient([gradient], [range(len(rollout))])
    onehots = torch.nn.functional.one_hot(torch.tensor(rollout), policy.vocab_size).double().requires_grad_()
    loss = objective.relaxed_objective(policy, reward, sequence, onehots, **weights)
    (expected,) = torch.autograd.grad(loss, onehots)
    torch.testing.assert_close(rows, expected, rtol=1e-8, atol=1e-8)
    direction = torch.randn(onehots.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        up, down = (
            objective.relaxed_objective(policy, reward, sequence, onehots + step * direction, **weights)
            for step in (1e-5, -1e-5)
        )
    assert (up - down).item() / 2e-5 == pytest.approx((rows * direction).sum().item(), rel=1e-5)
    # the objective reads tokens as the module embeds them, not as the matrix stores them
    ids = torch.tensor([prompt])
    torch.testing.assert_close(policy.embedding[ids], policy.model.get_input_embeddings()(ids))
    assert not torch.allclose(policy.embedding, policy.model.get_input_embeddings().weight)


def test_effective_embedding_follows_a_changed_weight():
    policy = Policy.from_pretrained(write("gemma", {}))
    before = policy.embedding.clone()
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(2)
    torch.testing.assert_close(policy.embedding, 2 * before)


def test_longrope_limits_texts_to_original_length():
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [3.0] * 4,
        "original_max_position_embeddings": 16,
    }
    path = str(small_models.folder("phi3", rope_parameters=rope, original_max_position_embeddings=16))
    policy, reward = Policy.from_pretrained(path), RewardModel.from_pretrained(path, "likelihood")
    policy.check_length(8, 8)
    with pytest.raises(ValueError, match=r"16 tokens \(longrope's original_max_position_embeddings\)"):
        policy.check_length(9, 8)
    with pytest.raises(ValueError, match=r"16 tokens \(longrope's original_max_position_embeddings\)"):
        reward.check_length(8, 8)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "bloom"])
def test_size_counts_the_matrix_products_of_a_token(architecture: str):
    policy = Policy.from_pretrained(str(small_models.folder(architecture, **SERVED_TOO.get(architecture, {}))))
    policy.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        policy.model(torch.tensor([[5]]))
    size = policy.size
    assert counter.get_total_flops() == pytest.approx(2 * (size.layers + size.head) + 4 * size.attention, rel=0.005)


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss"])
def test_size_counts_the_experts_that_a_token_is_sent_to(architecture: str):
    policy = Policy.from_pretrained(str(small_models.folder(architecture, **SERVED_TOO[architecture])))
    layer = policy.model.base_model.layers[0]
    attention = sum(part.weight.numel() for part in layer.self_attn.children() if isinstance(part, torch.nn.Linear))
    hidden, inner = policy.model.config.hidden_size, policy.model.config.intermediate_size
    number = len(layer.mlp.experts.gate_up_proj)
    assert (number, policy.model.config.num_experts_per_tok) == (4, 2)
    expert = 3 * hidden * inner
    assert policy.size.layers == 2 * (attention + number * hidden + 2 * expert)
    assert policy.model.get_experts_implementation() == {"": "grouped_mm"}  # the count at load has put it back


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_flops_of_another_number_of_layers_are_refused_in_every_precision(dtype: str, monkeypatch: pytest.MonkeyPatch):
    path = str(small_models.folder("llama"))
    size = Policy.from_pretrained(path, dtype=dtype).size
    wrong = size._replace(layers=size.layers + size.layers // 20)
    monkeypatch.setattr(backbone, "model_size", lambda model: wrong)
    recorded = f"{2 * (wrong.layers + wrong.head):,} would be recorded"
    with pytest.raises(ValueError, match=rf"LlamaForCausalLM\) takes [\d,]+ for a token, and {recorded}"):
        Policy.from_pretrained(path, dtype=dtype)
