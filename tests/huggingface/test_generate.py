"""`model.generate(..., custom_generate=…)`: equal to `NablaReasoner.solve`, by a callable and by a folder; refusals."""

import copy
import functools
import shutil
from pathlib import Path

import pytest
import small_models
import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig, dynamic_module_utils

from nabla_reasoner import NablaReasoner, Policy, Problem, RewardModel
from nabla_reasoner.engine.sequences import replaced_columns
from nabla_reasoner.huggingface import FOLDER, generate, problem_id, prompts
from nabla_reasoner.huggingface.calls import generate_from_folder
from nabla_reasoner.huggingface.generation_settings import HONORED, NEUTRAL, WITHOUT_EFFECT

QUESTIONS = ["What is 12 + 34?", "6", "Add 5 and 6, then take 7."]
SETTINGS = {"num_iterations": 3, "step_size": 0.5, "grad_threshold": 0.0, "max_rollouts": 3, "nll_weight": 0.1}
ARCHITECTURES = ("qwen2", "llama", "qwen3", "mistral")
DRAWN = {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "top_k": 40, "max_new_tokens": 6}


@functools.cache
def model_folder(architecture: str, seed: int = 0) -> str:
    folder = small_models.folder(architecture, seed=seed)
    if architecture == "mistral":  # its configuration has a window by default
        small_models.edit(folder / "config.json", sliding_window=None)
    return str(folder)


@functools.cache
def causal_model(architecture: str = "qwen2") -> transformers.PreTrainedModel:
    """Return a model as a user loads it: not frozen."""
    return AutoModelForCausalLM.from_pretrained(model_folder(architecture), dtype=torch.float32).eval()


@functools.cache
def frozen_policy(architecture: str = "qwen2") -> Policy:
    return Policy.from_pretrained(model_folder(architecture))


@functools.cache
def reward(kind: str = "likelihood") -> RewardModel:
    if kind == "classifier":
        return RewardModel.from_pretrained(str(small_models.folder("llama", classifier=True, seed=5)))
    return RewardModel.from_pretrained(model_folder("llama", 7), "likelihood")


def prompt(question: str) -> list[int]:
    tokenizer = small_models.tokenizer()
    chat = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)


def padded(questions: list[str]) -> dict[str, torch.Tensor]:
    prompts = [{"input_ids": prompt(question)} for question in questions]
    batch = small_models.tokenizer().pad(prompts, padding_side="left", return_tensors="pt")
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


@functools.cache
def solved(question: str, architecture: str = "qwen2", *, repeat: int = 0, reward_model=None, **settings) -> list[int]:
    """Return the answer of `NablaReasoner.solve`, with the settings that `DRAWN` stands for."""
    sampling = {"rollout_temperature": 0.9, "rollout_top_p": 0.95, "rollout_top_k": 40}
    method = NablaReasoner(**{**SETTINGS, "max_new_tokens": 6, **sampling, **settings})
    problem = Problem(problem_id(prompt(question)), question, None, "free")
    policy = frozen_policy(architecture)
    (solution,) = method.solve([problem], policy, reward_model or reward(), seed=3, repeat=repeat)
    return solution.token_ids


def call(model: transformers.PreTrainedModel | None = None, custom_generate=generate, **arguments) -> torch.Tensor:
    model = model or causal_model()
    given = {**padded(QUESTIONS[:1]), "reward_model": reward(), "seed": 3, **DRAWN, **SETTINGS, **arguments}
    return model.generate(custom_generate=custom_generate, **given)


def called_by_a_folder(**arguments) -> torch.Tensor:
    """Answer all questions without the signature's types, which tests check before anything else."""
    return generate_from_folder(
        **{**padded(QUESTIONS), "model": causal_model(), "reward_model": reward(), **DRAWN, **arguments}
    )


@functools.cache
def answered(count: int = 1) -> torch.Tensor:
    """Return what the callable answers to the first questions."""
    return call(**padded(QUESTIONS[:count]))


@pytest.fixture
def module_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers copy the folder's code below a temporary path."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


@pytest.mark.slow
def test_answer_needs_search_and_gradient():
    assert solved(QUESTIONS[0]) != solved(QUESTIONS[0], use_gradient=False)
    assert solved(QUESTIONS[0]) != solved(QUESTIONS[0], max_rollouts=1)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_left_padded_batch_equals_solve(architecture):
    questions = QUESTIONS if architecture == "qwen2" else QUESTIONS[:2]
    batch = padded(questions)
    assert not batch["attention_mask"].all()
    output = call(causal_model(architecture), **batch)
    answers = [solved(question, architecture) for question in questions]
    width, longest = batch["input_ids"].shape[1], max(map(len, answers))
    assert output.dtype == torch.long
    assert torch.equal(output[:, :width], batch["input_ids"])
    pad = small_models.tokenizer().pad_token_id
    assert output[:, width:].tolist() == [answer + [pad] * (longest - len(answer)) for answer in answers]


@pytest.mark.parametrize(
    "route", ["config", *(pytest.param(name, marks=pytest.mark.slow) for name in ("positional", "named"))]
)
def test_folder_equals_callable(route, module_cache):
    expected = answered(3)
    given = {**padded(QUESTIONS), "reward_model": reward(), "seed": 3, **SETTINGS, "trust_remote_code": True}
    given |= {"generation_config": GenerationConfig(**DRAWN)} if route == "config" else DRAWN
    inputs = [given.pop("input_ids")] if route == "positional" else []
    given["tokenizer"] = small_models.tokenizer()
    assert torch.equal(causal_model().generate(*inputs, custom_generate=FOLDER, **given), expected)


@pytest.mark.slow
def test_model_folder_with_its_own_generate(module_cache, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_folder("qwen2"), folder)
    shutil.copytree(Path(FOLDER) / "custom_generate", folder / "custom_generate")
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    ids = padded(QUESTIONS[:1])["input_ids"]
    assert torch.equal(model.generate(ids, reward_model=reward(), seed=3, **DRAWN, **SETTINGS), answered())


def test_local_folder_needs_trust(module_cache):
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        call(custom_generate=FOLDER, trust_remote_code=False)


def test_requirements_have_no_extras():
    lines = (Path(FOLDER) / "custom_generate/requirements.txt").read_text("utf-8").splitlines()
    requirements = [line for line in lines if not line.startswith("#")]
    assert requirements
    assert not any("[" in line for line in requirements)
    dynamic_module_utils.check_python_requirements(FOLDER, requirements_file="custom_generate/requirements.txt")


def test_greedy_rollouts_without_do_sample():
    output = call(do_sample=False, temperature=1.0, top_p=1.0, top_k=50)
    expected = solved(QUESTIONS[0], rollout_temperature=0.0, rollout_top_p=1.0, rollout_top_k=0)
    assert output[0, len(prompt(QUESTIONS[0])) :].tolist() == expected
    assert expected != solved(QUESTIONS[0])


@pytest.mark.slow
def test_copies_of_a_prompt_are_repeats(module_cache):
    width, pad = len(prompt(QUESTIONS[0])), small_models.tokenizer().pad_token_id
    expected = [solved(QUESTIONS[0], repeat=repeat) for repeat in (0, 1)]
    assert expected[0] != expected[1]
    for route in (generate, FOLDER):
        output = call(custom_generate=route, num_return_sequences=2, trust_remote_code=True)
        rows = [row[: width + len(answer)].tolist() for row, answer in zip(output, expected, strict=True)]
        assert [row[width:] for row in rows] == expected
        rest = [row[width + len(answer) :] for row, answer in zip(output, expected, strict=True)]
        assert all((part == pad).all() for part in rest)


@pytest.mark.slow
def test_other_end_tokens_are_honoured():
    (first, *_) = solved(QUESTIONS[0])
    output = call(eos_token_id=[first], do_sample=True)
    policy = Policy(frozen_policy().model, small_models.tokenizer(), "p", eos_ids=[first])
    problem = Problem(problem_id(prompt(QUESTIONS[0])), QUESTIONS[0], None, "free")
    sampling = {"rollout_temperature": 0.9, "rollout_top_p": 0.95, "rollout_top_k": 40}
    method = NablaReasoner(**SETTINGS, max_new_tokens=6, **sampling)
    (solution,) = method.solve([problem], policy, reward(), seed=3)
    assert output[0, len(prompt(QUESTIONS[0])) :].tolist() == solution.token_ids
    assert solution.token_ids != solved(QUESTIONS[0])


@pytest.mark.slow
def test_classifier_and_chats_of_another_template():
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    other = RewardModel.from_pretrained(str(small_models.folder("llama", classifier=True, seed=5)))
    template = other.tokenizer.chat_template.replace("<|user|>", "<|user|>Judge: ")
    assert template == other.tokenizer.chat_template  # the template writes roles by a variable
    other.tokenizer.chat_template = template.replace("{{ message['content'] }}", "Judge: {{ message['content'] }}")
    with pytest.raises(ValueError, match="it was replaced. Make a new RewardModel"):  # it was read as before
        call(**padded(QUESTIONS), reward_model=other, messages=chats)
    other = RewardModel(other.model, other.tokenizer, other.name, "classifier")
    with pytest.raises(ValueError, match="chat template of its own"):
        call(reward_model=other)
    output = call(**padded(QUESTIONS), reward_model=other, messages=chats)
    width = padded(QUESTIONS)["input_ids"].shape[1]
    for row, question in zip(output, QUESTIONS, strict=True):
        answer = solved(question, reward_model=other)
        assert row[width : width + len(answer)].tolist() == answer
    with pytest.raises(ValueError, match="one chat for each prompt; got 2 for 3"):
        call(**padded(QUESTIONS), reward_model=other, messages=chats[:2])
    with pytest.raises(ValueError, match="one chat for each prompt; got 1 for 3"):
        call(**padded(QUESTIONS), reward_model=other, messages=chats[:1])
    with pytest.raises(ValueError, match="one chat for each prompt; got 3 for 1"):
        call(**padded(QUESTIONS[:1]), reward_model=other, messages=chats, num_return_sequences=3)
    for messages in (chats[0], ["a", "b", "c"]):
        with pytest.raises(ValueError, match=r"messages must .*got .* Write \[\["):
            called_by_a_folder(reward_model=other, messages=messages)


@pytest.mark.parametrize("seed", [0.5, "a", None, True])
def test_seed_is_a_whole_number_as_in_solve(seed):
    with pytest.raises(TypeError, match="seed must be a whole number; got"):
        called_by_a_folder(seed=seed)


def test_reward_reads_an_answered_chat_as_its_template_writes_it():
    """Templates such as Qwen3's write an empty think block before an answer, which the opened prompt does not hold."""
    tokenizer = copy.deepcopy(small_models.tokenizer())
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "<|{{ message['role'] }}|>", "<|{{ message['role'] }}|>{% if message['role'] == 'assistant' %}12{% endif %}"
    )
    thinking = RewardModel(reward().model, tokenizer, "thinking", "likelihood")
    expected = solved_with(thinking, small_models.tokenizer())
    chats = [[{"role": "user", "content": QUESTIONS[0]}]]
    assert call(reward_model=thinking, messages=chats).tolist()[0] == expected
    cut = padded(QUESTIONS[:1])["input_ids"][:, :-1]
    with pytest.raises(ValueError, match="opening of the assistant's turn"):
        call(input_ids=cut, attention_mask=torch.ones_like(cut))


def test_opening_of_a_template_that_ends_chats_with_a_token_of_its_own():
    """Phi-3's does: the whole chat counted as the opening, and every prompt was refused."""
    tokenizer = copy.deepcopy(small_models.tokenizer())
    tokenizer.chat_template += "{% if not add_generation_prompt %}<|pad|>{% endif %}"
    assert prompts._opening(tokenizer) == tokenizer.encode("<|assistant|>", add_special_tokens=False)


def test_reward_in_training_mode_and_automatic_precision_are_refused():
    noisy = RewardModel(copy.deepcopy(reward().model).train(), small_models.tokenizer(), "noisy", "likelihood")
    with pytest.raises(ValueError, match="the model of noisy must be in eval mode"):
        call(reward_model=noisy)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match="torch.autocast must be off"):
        call()


@pytest.mark.slow
def test_end_token_of_minus_one_means_that_nothing_ends_an_answer():
    """Transformers' way of never stopping; -1 is also the index of the last token."""
    policy = Policy(frozen_policy().model, small_models.tokenizer(), "p", eos_ids=[7])
    policy.eos_ids = [-1, 7]
    served = reward().for_policy(policy)
    assert replaced_columns(served, served.vocab_size) == ([7], served.eos_ids[0])
    endless = Policy(frozen_policy().model, small_models.tokenizer(), "p", eos_ids=[])
    sampling = {"rollout_temperature": 0.9, "rollout_top_p": 0.95, "rollout_top_k": 40}
    method = NablaReasoner(**SETTINGS, max_new_tokens=6, **sampling)
    problem = Problem(problem_id(prompt(QUESTIONS[0])), QUESTIONS[0], None, "free")
    (solution,) = method.solve([problem], endless, reward(), seed=3)
    assert call(eos_token_id=-1)[0, len(prompt(QUESTIONS[0])) :].tolist() == solution.token_ids
    with pytest.raises(ValueError, match="eos_ids of .* must be whole numbers from 0 to 279.*got 1000000"):
        call(eos_token_id=10**6)


def solved_with(reward_model: RewardModel, tokenizer: transformers.PreTrainedTokenizerBase) -> list[int]:
    policy = Policy(frozen_policy().model, tokenizer, "p")
    ids = policy.prompt_ids([{"role": "user", "content": QUESTIONS[0]}])
    sampling = {"rollout_temperature": 0.9, "rollout_top_p": 0.95, "rollout_top_k": 40}
    problem = Problem(problem_id(ids), QUESTIONS[0], None, "free")
    method = NablaReasoner(**SETTINGS, max_new_tokens=6, **sampling)
    (solution,) = method.solve([problem], policy, reward_model, seed=3)
    assert reward_model.format.opening
    return [*ids, *solution.token_ids]


def test_weights_stay_trainable_and_get_no_gradient():
    model = causal_model()
    assert all(weight.requires_grad for weight in model.parameters())
    call()
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert torch.is_grad_enabled()


REFUSED = {
    "num_beams": (4, "num_beams=4.*Pass num_beams=1"),
    "repetition_penalty": (1.3, "repetition_penalty=1.3"),
    "stop_strings": ("x", "stop.strings"),
    "min_new_tokens": (3, "min_new_tokens=3"),
    "return_dict_in_generate": (True, "return_dict_in_generate=True"),
    "suppress_tokens": ([4], r"suppress_tokens=\[4\]"),
    "min_p": (0.1, "min_p=0.1"),
    "max_time": (3.0, "max_time=3.0"),
    "bad_words_ids": ([[4]], r"bad_words_ids=\[\[4\]\]"),
    "cache_implementation": ("static", "cache_implementation='static'"),
    "prefix_allowed_tokens_fn": (lambda batch, ids: [4], "prefix_allowed_tokens_fn cannot be honoured"),
    "logits_processor": ([transformers.MinPLogitsWarper(0.1)], "logits_processor cannot be honoured"),
    "stopping_criteria": ([transformers.MaxTimeCriteria(1.0)], "stopping_criteria cannot be honoured"),
    "streamer": (transformers.TextStreamer(small_models.tokenizer()), "streamer cannot be honoured.*revised"),
    "max_new_tokens": (None, "max_new_tokens must be given"),
    "reward_model": (None, "reward_model must be a nabla_reasoner.RewardModel; got none"),
    "inputs_embeds": (torch.zeros(1, 3, 16), "inputs_embeds cannot be honoured"),
    "position_ids": (torch.tensor([[7] * 22]), "position_ids cannot be honoured"),
    "acceptance": ("sometimes", "acceptance must be one of"),
}


@pytest.mark.parametrize("route", ["callable", "folder"])
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_honoured_is_refused_by_name(name, route, module_cache, capsys):
    value, message = REFUSED[name]
    if name in ("logits_processor", "stopping_criteria"):
        lists = {
            "logits_processor": transformers.LogitsProcessorList,
            "stopping_criteria": transformers.StoppingCriteriaList,
        }
        value = lists[name](value)
    if name == "position_ids":
        value = torch.full((1, len(prompt(QUESTIONS[0]))), 7)
    if route == "folder":
        options = {"custom_generate": FOLDER, "trust_remote_code": True}
    else:
        options = {"custom_generate": generate}
    with pytest.raises(ValueError, match=message) as caught:
        call(**options, **{name: value})
    assert "\n" not in str(caught.value)


def test_unknown_keyword_is_refused(module_cache):
    with pytest.raises(ValueError, match="stepsize.*settings are max_rollouts"):
        call(custom_generate=FOLDER, trust_remote_code=True, stepsize=1.0)
    with pytest.raises(ValueError, match="stepsize"):
        call(stepsize=1.0)


@pytest.mark.slow
def test_gradients_under_no_grad_but_not_in_inference_mode():
    with torch.no_grad():
        assert torch.equal(call(), answered())
    with torch.inference_mode(), pytest.raises(ValueError, match="inference mode computes none"):
        call()
    with torch.inference_mode():
        model = copy.deepcopy(causal_model())
    with pytest.raises(ValueError, match="inference mode computes none"):
        call(model)


def test_training_mode_is_refused():
    model = AutoModelForCausalLM.from_pretrained(model_folder("qwen2"), dtype=torch.float32).train()
    with pytest.raises(ValueError, match="eval mode"):
        call(model)


def test_right_padding_is_refused():
    batch = {name: value.flip(1) for name, value in padded(QUESTIONS).items()}
    with pytest.raises(ValueError, match="padding must stand on its left; row 0"):
        call(**batch)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            torch.tensor([[60, 280]]),
            "input_ids must hold tokens of the policy's vocabulary, 0 to 279; got 280 in row 0",
        ),
        (torch.tensor([[60, -1]]), "input_ids must hold tokens of the policy's vocabulary, 0 to 279; got -1 in row 0"),
        (torch.zeros(0, 4, dtype=torch.long), r"input_ids must hold a prompt; got the shape \[0, 4\]"),
        (torch.tensor([[60.0, 61.0]]), "input_ids must be whole numbers; got torch.float32"),
        (torch.tensor([60, 61]), r"input_ids must be \[batch, prompt\]; got the shape \[2\]"),
    ],
)
def test_prompts_that_are_no_tokens_are_refused(ids, message):
    """FAULTS K21: they failed in the middle with an IndexError of torch."""
    chats = [[{"role": "user", "content": QUESTIONS[0]}]] * len(ids)
    given = {"reward_model": reward(), "seed": 3, "messages": chats, **SETTINGS}
    config = GenerationConfig(**DRAWN, pad_token_id=0)
    for route in (generate, lambda model, ids, **others: generate_from_folder(ids, model=model, **others)):
        with pytest.raises(ValueError, match=message) as caught:
            route(causal_model(), ids, generation_config=config, **given)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_padding_is_found_without_a_mask(module_cache):
    expected = answered(3)
    ids = padded(QUESTIONS)["input_ids"]
    for route in (generate, FOLDER):
        output = call(custom_generate=route, input_ids=ids, attention_mask=None, trust_remote_code=True)
        assert torch.equal(output, expected)


@pytest.mark.parametrize(
    ("architecture", "message"), [("gemma2", "final_logit_softcapping"), ("mamba", "max_position_embeddings")]
)
def test_architecture_that_cannot_be_served_is_refused_in_one_line(architecture, message):
    model = AutoModelForCausalLM.from_pretrained(str(small_models.folder(architecture)), dtype=torch.float32)
    with pytest.raises(ValueError, match=message) as caught:
        call(model, functools.partial(generate, tokenizer=small_models.tokenizer()))
    assert "\n" not in str(caught.value)
    assert "Use another architecture" in str(caught.value)


def test_model_without_a_folder_needs_a_bound_tokenizer():
    config = transformers.AutoConfig.from_pretrained(model_folder("qwen2"))
    model = AutoModelForCausalLM.from_config(config).eval()
    model.load_state_dict(causal_model().state_dict())
    model.config._name_or_path = model.name_or_path = ""
    with pytest.raises(ValueError, match="functools.partial"):
        call(model, tokenizer=small_models.tokenizer())  # dropped by transformers
    bound = functools.partial(generate, tokenizer=small_models.tokenizer())
    assert torch.equal(call(model, bound), answered())


@pytest.mark.slow
def test_tokenizer_of_a_model_is_loaded_once():
    model, judge = causal_model(), RewardModel.from_pretrained(model_folder("llama", 7), "likelihood")
    for _ in range(3):
        call(model, reward_model=judge, max_new_tokens=2)
    assert len(judge._by_policy) == 1


def test_reward_keeps_few_of_the_policies_it_has_served():
    judge = RewardModel.from_pretrained(model_folder("llama", 7), "likelihood")
    for _ in range(12):
        tokenizer = copy.deepcopy(small_models.tokenizer())
        judge.for_policy(Policy(causal_model(), tokenizer, "policy"))
    assert len(judge._by_policy) == 8


def test_padding_token_of_its_own_needs_no_chats():
    """Prompts hold no padding; a tokenizer that pads with its end token writes the same chats."""
    padding = copy.deepcopy(small_models.tokenizer())
    padding.pad_token = padding.eos_token
    bound = functools.partial(generate, tokenizer=padding)
    assert torch.equal(call(causal_model(), bound), answered())


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"min_length": 0}])
def test_no_least_number_of_tokens_is_no_wish(given, module_cache):
    """Transformers writes the length of the prompt into `min_length` then."""
    assert torch.equal(call(min_new_tokens=0, **given), answered())
    assert torch.equal(called_by_a_folder(min_new_tokens=0, **given), called_by_a_folder())


def test_cache_under_its_later_name():
    """Transformers 5.24 hands its empty cache over as `cache`; one that holds tokens is refused under both names."""
    config = GenerationConfig(**DRAWN, pad_token_id=0)
    given = {"generation_config": config, "reward_model": reward(), "seed": 3, **SETTINGS}
    ids = padded(QUESTIONS[:1])["input_ids"]
    filled = DynamicCache()
    filled.update(torch.zeros(1, 1, 3, 8), torch.zeros(1, 1, 3, 8), 0)
    for name in ("cache", "past_key_values"):
        assert torch.equal(generate(causal_model(), ids, **given, **{name: DynamicCache()}), answered())
        with pytest.raises(ValueError, match=f"{name} cannot be honoured"):
            generate(causal_model(), ids, **given, **{name: filled})


def test_every_default_of_transformers_asks_for_nothing():
    defaults = GenerationConfig._get_default_generation_params()
    for name, value in defaults.items():
        assert name in HONORED | WITHOUT_EFFECT or value in (None, False, NEUTRAL.get(name)), name
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert known >= {*HONORED, *WITHOUT_EFFECT, *NEUTRAL}


def test_answer_does_not_depend_on_earlier_calls():
    """A reward model reads every policy's end tokens as its own; none may stay when another policy is served."""
    before = reward().replaced_ends
    call(eos_token_id=[9], num_return_sequences=1)
    assert reward().replaced_ends == before
    assert torch.equal(call(), answered())
