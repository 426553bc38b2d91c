"""GRPO against TRL, its behaviour on toy policies, resumed trainings, and selection of the best weights."""

import math

import lightning
import pytest
import torch
import toys
import transformers

from nabla_reasoner.engine import generation
from nabla_reasoner.engine.generation import Rollout
from nabla_reasoner.engine.sampling import Sampling, keyed_uniforms
from nabla_reasoner.models.tokenizers import load_tokenizer
from nabla_reasoner.tasks import grading
from nabla_reasoner.training import loop, losses, sft
from nabla_reasoner.training.data import Example, Mixture, pad
from nabla_reasoner.training.grpo import GroupRelativeTraining, GroupSampling, ResponseBatch, response_mask
from nabla_reasoner.training.loop import Schedule
from nabla_reasoner.training.sft import SupervisedTraining
from nabla_reasoner.types import Problem

LIMIT = 6


def language_model(dtype=torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(toys.model_folder("llama"), dtype=dtype)


def tokenizer():
    return load_tokenizer(toys.model_folder("llama"))


def make_problems(count=6, task="chain_sum"):
    return [Problem(str(i), f"What is {i} + {i + 1}?", str(2 * i + 1), task) for i in range(count)]


def grpo(score, *, steps=40, rate=3e-3, model=None, seed=0, **settings):
    return GroupRelativeTraining(
        model or language_model(),
        tokenizer(),
        Schedule(steps, rate, warmup_steps=1, weight_decay=0.0),
        LIMIT,
        sampling=GroupSampling(**{"group_size": 4, **settings}),
        seed=seed,
        reference=language_model(),
        score=score,
    )


def even_tokens(problems, rollouts):
    """Return a reward that is easy to raise: the share of even token ids."""
    return [sum(token % 2 == 0 for token in rollout.token_ids) / len(rollout.token_ids) for rollout in rollouts]


def where(folder, name="m"):
    return {"device": "cpu", "folder": str(folder), "name": name, "identity": {"recipe": "toy"}}


def stream(items=None, counts=None, repeats=1):
    return Mixture(
        items or {"chain_sum": make_problems()}, counts or {"chain_sum": 4}, 0, collate=list, repeats=repeats
    )


@pytest.mark.slow
@pytest.mark.parametrize("updates", [1, 2])
def test_grpo_raises_reward_of_toy_policy(tmp_path, updates):
    module = grpo(even_tokens, steps=25 * updates, rate=1.5e-2 / updates, updates_per_batch=updates)
    before = mean_reward(module)
    loop.fit(module, stream(repeats=updates), **where(tmp_path))
    assert mean_reward(module) > before + 0.15


def test_dropout_changes_neither_responses_nor_ratios(tmp_path):
    """Sampling and losses ran with dropout: the ratio before any update was 0.01 to 20."""
    model, batch = language_model(), make_problems()
    for part in model.modules():
        if hasattr(part, "attention_dropout"):
            part.attention_dropout = 0.5
    module = grpo(even_tokens, model=model, updates_per_batch=2, steps=2)
    ratios = []

    def recorded(responses):
        present = module.log_probabilities(module.model, responses.blocks)
        ratios.append((present - responses.old).detach().exp()[response_mask(responses.blocks)])
        return GroupRelativeTraining.update_loss(module, responses)

    module.update_loss = recorded
    loop.fit(module, stream({"chain_sum": batch}, repeats=2), **where(tmp_path))
    torch.testing.assert_close(ratios[0], torch.ones_like(ratios[0]), rtol=0, atol=1e-6)
    assert (ratios[1] != 1).any()


def mean_reward(module):
    prompts = [module.policy.prompt_ids(problem.messages) for problem in make_problems() for _ in range(40)]
    noise = [keyed_uniforms(9, str(i), 0, "probe", LIMIT) for i in range(len(prompts))]
    rollouts = generation.sample(module.policy, prompts, noise, Sampling(1.0), [LIMIT] * len(prompts))
    return sum(even_tokens(prompts, rollouts)) / len(prompts)


def test_response_log_probabilities_equal_hugging_face_loss():
    model = language_model(torch.float64)
    items = [Example("a", [2, 9, 10], [40, 41, 1]), Example("a", [2, 9], [42, 1]), Example("a", [2], [7, 8, 9, 1])]
    values = losses.response_log_probabilities(model, pad(items)[0], 280)
    for row, (_, prompt, response, _) in enumerate(items):
        ids, start, end = torch.tensor([prompt + response]), len(prompt), len(prompt) + len(response)
        labels = ids.clone()
        labels[:, :start] = -100
        mean = model(input_ids=ids, labels=labels).loss
        torch.testing.assert_close(values[row, start:end].mean().float(), -mean.float())
        assert not values[row, :start].any()
        assert not values[row, end:].any()


def test_padding_rows_of_the_output_matrix_take_no_probability():
    model, block = language_model(torch.float64), pad([Example("a", [2, 9], [42, 17, 1])])[0]
    expected = losses.response_log_probabilities(model, block, 280)
    loss = losses.next_token_loss(model, [block], 280)
    model.resize_token_embeddings(320)
    with torch.no_grad():
        model.get_output_embeddings().weight[280:] = 3.0
    torch.testing.assert_close(losses.response_log_probabilities(model, block, 280), expected)
    torch.testing.assert_close(losses.next_token_loss(model, [block], 280), loss)
    assert losses.next_token_loss(model, [block], 320) > loss + 0.01


def test_log_probabilities_follow_the_sampling_temperature():
    model, block = language_model(torch.float64), pad([Example("a", [2, 9], [42, 17, 1])])[0]
    logits = model(input_ids=block.ids).logits[0, 1:4] / 0.7
    expected = torch.log_softmax(logits, -1).gather(1, torch.tensor([[42], [17], [1]]))[:, 0]
    torch.testing.assert_close(losses.response_log_probabilities(model, block, 280, 0.7)[0, 2:], expected)


def test_same_seed_samples_the_same_responses():
    first, second, other = (grpo(even_tokens, updates_per_batch=2, seed=seed) for seed in (0, 0, 1))
    for module in (first, second, other):
        module.log = lambda *args, **kwargs: None
    a, b, c = (module.sample_responses(make_problems(3)) for module in (first, second, other))
    assert torch.equal(a.blocks[0].ids, b.blocks[0].ids)
    assert a.blocks[0].ids.shape != c.blocks[0].ids.shape or not torch.equal(a.blocks[0].ids, c.blocks[0].ids)
    torch.testing.assert_close(first.log_probabilities(first.model, a.blocks), a.old)


def test_response_with_failed_grading_is_ignored():
    """A group of failed rollouts has no advantages; one failed rollout does not change those of the others."""
    values = iter([[float("nan")] * 4 + [1.0, 0.0, float("nan"), 1.0]])
    module = grpo(lambda problems, rollouts: next(values))
    module.log = lambda *args, **kwargs: None
    advantages = module.sample_responses(make_problems(2)).advantages
    assert len(advantages) == 3
    deviation = math.sqrt(1 / 3) + 1e-4  # advantages of 1, 0, 1, whose mean is 2/3
    torch.testing.assert_close(
        advantages.double(), torch.tensor([1 / 3, -2 / 3, 1 / 3], dtype=torch.float64) / deviation
    )


@pytest.mark.parametrize("normalisation", ["token", "sequence", "length"])
def test_responses_left_out_change_neither_loss_nor_gradient(normalisation, monkeypatch):
    rewards = [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, float("nan"), 1.0, 0.0, 0.0, 1.0, 0.0]

    def update(leave_out: bool) -> tuple[int, torch.Tensor, list[torch.Tensor]]:
        module = grpo(lambda problems, rollouts: rewards, normalisation=normalisation)
        module.log = lambda *args, **kwargs: None
        if not leave_out:
            monkeypatch.setattr(type(module), "_informative", lambda self, advantages: list(range(len(advantages))))
        batch = module.sample_responses(make_problems(3))
        monkeypatch.undo()
        loss = module.update_loss(batch)
        loss.backward()
        return len(batch.advantages), loss, [p.grad for p in module.model.parameters()]

    fewer, loss, gradients = update(True)
    every, expected, wanted = update(False)
    assert (fewer, every) == (7, 12)
    torch.testing.assert_close(loss, expected)
    for mine, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)


def test_failed_grading_gives_nan_reward(monkeypatch):
    verdicts = iter([grading.Grade("1", False, "took too long"), grading.Grade("1", True)])
    monkeypatch.setattr(grading, "grade", lambda *args: next(verdicts))
    policy = toys.policy(dtype="float32")
    values = sft.verifiable_reward(policy)(make_problems(2), [Rollout([5], True), Rollout([5], True)])
    assert math.isnan(values[0])
    assert values[1] == 1.0


def test_resumed_training_knows_that_rewards_came_before(tmp_path):
    """The state that a checkpoint keeps holds it; the check would otherwise judge batches that it never saw."""
    rewarded = grpo(lambda problems, rollouts: [float(i % 2) for i in range(len(rollouts))], steps=2, patience=1)
    loop.fit(rewarded, stream(), **where(tmp_path / "first"))
    resumed = grpo(lambda problems, rollouts: [0.0] * len(rollouts), steps=2, patience=1)
    resumed.load_state_dict(rewarded.state_dict())
    loop.fit(resumed, stream(), **where(tmp_path / "second"))


def test_training_without_reward_raises_with_remedy(tmp_path):
    module = grpo(lambda problems, rollouts: [0.0] * len(rollouts), steps=10, patience=3)
    with pytest.raises(ValueError, match="none of its responses in 3 batches earned a reward. Start from supervised"):
        loop.fit(module, stream(), **where(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_size": 1}, "group_size must be >= 2; got 1"),
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"updates_per_batch": 0}, "updates_per_batch must be >= 1; got 0"),
        ({"kl_weight": -0.1}, "kl_weight must be >= 0"),
        ({"normalisation": "words"}, "one of sequence, token, length; got 'words'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GroupSampling(**settings).check()


def test_kl_weight_without_reference_policy_is_refused():
    with pytest.raises(ValueError, match="needs a reference policy"):
        GroupRelativeTraining(
            language_model(), tokenizer(), Schedule(1, 1e-3), LIMIT, sampling=GroupSampling(kl_weight=0.1), seed=0
        )


@pytest.mark.slow
def test_kl_penalty_keeps_policy_near_reference(tmp_path):
    distances = []
    for weight in (0.0, 3.0):
        module = grpo(even_tokens, steps=20, kl_weight=weight)
        loop.fit(module, stream(), **where(tmp_path / str(weight)))
        block = pad([Example("a", module.policy.prompt_ids(p.messages), [40, 41, 42]) for p in make_problems()])
        now, then = (module.log_probabilities(m, block) for m in (module.model, module.reference[0]))
        distances.append((now - then).abs().max().item())
    assert distances[1] < 0.5 * distances[0]


@pytest.mark.slow
def test_training_with_adapter_changes_only_its_weights(tmp_path):
    peft = pytest.importorskip("peft", reason="needs the extra `reference`: pip install -e '.[reference]'")
    wrapped = peft.get_peft_model(
        language_model(), peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    )
    before = {name: value.clone() for name, value in wrapped.named_parameters()}
    module = grpo(even_tokens, steps=8, model=wrapped.get_base_model())
    loop.fit(module, stream(), **where(tmp_path))
    changed = {name for name, value in wrapped.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)


def test_frozen_weights_in_bfloat16_leave_the_adapter_and_its_gradient_in_float32():
    peft = pytest.importorskip("peft", reason="needs the extra `reference`: pip install -e '.[reference]'")
    block = pad([Example("a", [2, 9, 10], [40, 41, 1]), Example("a", [2, 9], [42, 1])])[0]
    gradients, values = {}, {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        settings = peft.LoraConfig(
            task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False
        )
        wrapped = peft.get_peft_model(language_model(dtype), settings)
        values[dtype] = losses.response_log_probabilities(wrapped.get_base_model(), block, 280)
        values[dtype].sum().backward()
        adapter = [weight for weight in wrapped.parameters() if weight.requires_grad]
        assert {weight.dtype for weight in adapter} == {torch.float32}
        gradients[dtype] = torch.cat([weight.grad.flatten() for weight in adapter])
    assert values[torch.bfloat16].dtype == torch.float32
    torch.testing.assert_close(values[torch.bfloat16], values[torch.float32], atol=0.05, rtol=0.02)
    assert torch.cosine_similarity(*gradients.values(), dim=0) > 0.99


class Killed(Exception):
    pass


class Interrupted(Mixture):
    """Batches that raise `Killed` at the sixth one of a fresh start."""

    def __iter__(self):
        for number, batch in enumerate(super().__iter__(), start=self.first_batch):
            if number == 5 and self.first_batch == 0:
                raise Killed
            yield batch


@pytest.mark.slow
@pytest.mark.parametrize("updates", [1, 2])
def test_interrupted_grpo_resumes_to_the_same_weights(tmp_path, updates):
    ends = []
    for kind, folder in ((Mixture, tmp_path / "whole"), (Interrupted, tmp_path / "killed")):
        for _ in range(2):
            lightning.seed_everything(0, verbose=False)
            module = grpo(even_tokens, steps=8, updates_per_batch=updates)
            data = kind({"chain_sum": make_problems()}, {"chain_sum": 3}, 0, collate=list, repeats=updates)
            try:
                ended = loop.fit(module, data, **where(folder), interval=4, validation=[make_problems(2)])
                break
            except Killed:
                continue
        ends.append((ended, module.state_dict()))
    assert ends[0][0] == ends[1][0]
    module = grpo(even_tokens, steps=8, updates_per_batch=updates)  # killed after the last step, before it was saved
    data = Mixture({"chain_sum": make_problems()}, {"chain_sum": 3}, 0, collate=list, repeats=updates)
    assert loop.fit(module, data, **where(tmp_path / "whole"), interval=4, validation=[make_problems(2)]) == ends[0][0]
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, ends[0][1][name], rtol=0, atol=0)
    loop.discard_checkpoint(str(tmp_path / "whole"), where(tmp_path / "whole")["name"])
    assert not list((tmp_path / "whole").rglob("*.ckpt"))
    for name, tensor in ends[0][1].items():
        torch.testing.assert_close(tensor, ends[1][1][name], rtol=0, atol=0)


@pytest.mark.slow
def test_checkpoint_of_another_recipe_is_refused(tmp_path):
    data = Interrupted({"chain_sum": make_problems()}, {"chain_sum": 3}, 0, collate=list)
    with pytest.raises(Killed):
        loop.fit(grpo(even_tokens, steps=8), data, **where(tmp_path), interval=4, validation=[make_problems(2)])
    other = {**where(tmp_path), "identity": {"recipe": "another"}}
    with pytest.raises(ValueError, match=r"recipe: toy -> another. Go back to those, or delete the file"):
        loop.fit(grpo(even_tokens, steps=8), stream(), **other, interval=4, validation=[make_problems(2)])


def test_training_ends_with_best_validated_weights(tmp_path):
    """With accuracies 10 (start), 30, 50, 50, 20 the weights of the first 50 are kept."""
    script, states = iter([10.0, 30.0, 50.0, 50.0, 20.0]), []

    class Scripted(SupervisedTraining):
        def validation_step(self, batch, index):
            self.accuracies["chain_sum"] = next(script)
            states.append({name: value.clone() for name, value in self.model.state_dict().items()})

    torch.manual_seed(0)
    items = {"chain_sum": [Example("chain_sum", [2, 9], [40 + i, 1]) for i in range(6)]}
    module = Scripted(language_model(), tokenizer(), Schedule(8, 1e-3, warmup_steps=1), LIMIT)
    ended = loop.fit(
        module, Mixture(items, {"chain_sum": 3}, 0), **where(tmp_path), interval=2, validation=[make_problems(2)]
    )
    assert ended == (4, 50.0, 8)
    assert len(states) == 5
    for name, value in module.model.state_dict().items():
        assert torch.equal(value, states[2][name])
    assert any(not torch.equal(value, states[4][name]) for name, value in module.model.state_dict().items())


def test_resumed_training_keeps_earlier_best_weights(tmp_path):
    """With accuracies 10 (start) and 50 before the interruption and 20 after it, the weights of the 50 are kept."""
    script, states = iter([10.0, 50.0, 20.0]), []

    class Scripted(SupervisedTraining):
        def validation_step(self, batch, index):
            self.accuracies["chain_sum"] = next(script)
            states.append({name: value.clone() for name, value in self.model.state_dict().items()})

    items = {"chain_sum": [Example("chain_sum", [2, 9], [40 + i, 1]) for i in range(6)]}

    def train():
        module = Scripted(language_model(), tokenizer(), Schedule(8, 1e-2, warmup_steps=1), LIMIT)
        data = Interrupted(items, {"chain_sum": 3}, 0)
        return module, loop.fit(module, data, **where(tmp_path), interval=4, validation=[make_problems(2)])

    with pytest.raises(Killed):
        train()
    module, result = train()
    assert result == (4, 50.0, 8)
    assert len(states) == 3
    for name, value in module.model.state_dict().items():
        assert torch.equal(value, states[1][name])
    assert any(not torch.equal(states[1][name], value) for name, value in states[2].items())


def test_validation_measures_greedy_accuracy_by_task(tmp_path):
    """Of four problems whose reference answer is the model's own greedy one, two are given another answer."""
    module = SupervisedTraining(language_model(), tokenizer(), Schedule(1, 1e-3), LIMIT)
    answers = iter([True, False, True, False])
    grades = lambda problem, text, finished: grading.Grade("1", next(answers))  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grading, "grade", grades)
        module.validation_step(make_problems(4), 0)
    assert module.accuracies == {"chain_sum": 50.0}


@pytest.mark.slow
@pytest.mark.parametrize(("normalisation", "theirs"), [("sequence", "grpo"), ("token", "bnpo"), ("length", "dr_grpo")])
def test_advantages_and_loss_equal_those_of_trl(tmp_path, normalisation, theirs):
    trl = pytest.importorskip("trl", reason="needs the extra `reference`: pip install -e '.[reference]'")
    datasets = pytest.importorskip("datasets")
    given = [0.2, 1.0, -0.5, 1.0, 3.0, 3.0, 3.0, 3.0]  # two prompts, groups of four; the second all equal
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=LIMIT,
        beta=0.3,
        epsilon=0.1,
        epsilon_high=0.25,
        loss_type=theirs,
        temperature=0.9,
        num_iterations=2,
        use_cpu=True,
        report_to=[],
        scale_rewards="group",
        use_bias_correction_kl=False,
        bf16=False,
        seed=3,
        mask_truncated_completions=False,
    )
    trainer = trl.GRPOTrainer(
        model=language_model(),
        reward_funcs=lambda completions, **rest: given,
        args=arguments,
        processing_class=tokenizer(),
        train_dataset=datasets.Dataset.from_dict({"prompt": ["What is 1 + 2?", "Add 5 and 6."]}),
    )
    batch = [{"prompt": text} for text in ("What is 1 + 2?", "Add 5 and 6.") for _ in range(4)]
    trainer.current_gradient_accumulation_steps = 1  # TRL's training loop sets it
    trainer.model.train()
    inputs = trainer._generate_and_score_completions(batch)
    for row, length in ((1, 3), (4, 5), (6, 1)):  # shorter answers, so that the normalisations differ
        inputs["completion_mask"][row, length:] = 0
    prompts = [row[mask.bool()].tolist() for row, mask in zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True)]
    answers = [
        row[mask.bool()].tolist() for row, mask in zip(inputs["completion_ids"], inputs["completion_mask"], strict=True)
    ]
    advantages = losses.group_advantages(torch.tensor(given).view(2, 4)).flatten()
    torch.testing.assert_close(advantages, inputs["advantages"], rtol=1e-5, atol=1e-5)

    module = grpo(
        None,
        model=language_model(),
        clip_low=0.1,
        clip_high=0.25,
        kl_weight=0.3,
        temperature=0.9,
        normalisation=normalisation,
        updates_per_batch=2,
    )
    blocks = pad([Example("a", p, a) for p, a in zip(prompts, answers, strict=True)])
    with torch.no_grad():
        old = module.log_probabilities(module.model, blocks)
        reference = module.log_probabilities(module.reference[0], blocks)
    torch.manual_seed(5)
    for mine, other in zip(module.model.parameters(), trainer.model.parameters(), strict=True):
        noise = 0.02 * torch.randn_like(mine)  # the policy after some updates: ratios on both sides of the clip
        mine.data += noise
        other.data += noise
    inputs["old_per_token_logps"] = aligned(old, blocks[0], inputs["completion_mask"])
    inputs["ref_per_token_logps"] = aligned(reference, blocks[0], inputs["completion_mask"])
    expected = trainer._compute_loss(trainer.model, inputs)
    module.log = lambda *_, **__: None  # no trainer here
    loss = module.update_loss(ResponseBatch(blocks, advantages, old, reference))
    ratio = (module.log_probabilities(module.model, blocks) - old).exp()
    assert (ratio < 0.9).any()
    assert (ratio > 1.25).any()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    expected.backward()
    for mine, other in zip(module.model.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5)


def aligned(values, block, mask):
    """Convert our rows (prompt and response from the left) to TRL's (responses only, from the left)."""
    out = torch.zeros(mask.shape)
    for row in range(len(mask)):
        response = values[row][block.is_response[row]]
        out[row, : len(response)] = response
    return out
