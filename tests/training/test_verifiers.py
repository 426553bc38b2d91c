"""Token-level verifiers: labels by hand, loss by direct computation, no worked solution, checkpoints, resumption."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
import transformers
from omegaconf import OmegaConf

from nabla_reasoner.engine import scoring
from nabla_reasoner.engine.generation import Rollout
from nabla_reasoner.engine.sampling import keyed_uniforms
from nabla_reasoner.models.language_models import Policy, RewardModel
from nabla_reasoner.tasks import worked_solutions
from nabla_reasoner.tasks.grading import Grade
from nabla_reasoner.training import data, loop, verifier
from nabla_reasoner.training.data import Example, Mixture, pad
from nabla_reasoner.training.recipes import manifest, tiny, verifiers
from nabla_reasoner.types import Problem

NONE = verifier.NO_LABEL
ROWS = len(tiny.load_tokenizer(toys.model_folder("llama")))  # token ids
RAGGED = [
    Example("a", [2, 9, 10], [40, 41, 1], [NONE, 0.25, 1.0]),
    Example("a", [2, 9], [42, 1], [0.5, 0.0]),
    Example("b", [2], [7, 8, 9, 1], [NONE, NONE, NONE, 1.0]),
]
QUESTIONS = [Problem(f"t/train/{i}", f"1+{i}", str(i + 1), "toy") for i in range(12)]


def parity(problem: Problem, response: str, finished: bool = True) -> Grade:
    """Grade a text by a rule that needs no arithmetic, so that random models have right and wrong answers."""
    return Grade(response, (sum(response.encode()) + finished) % 2 == 0)


@pytest.fixture
def graded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grade by `parity`, and fail on any use of a worked solution."""

    def refuse(problem: Problem) -> str:
        raise AssertionError("a label must not depend on a worked solution")

    monkeypatch.setattr("nabla_reasoner.tasks.grading.grade", parity)
    monkeypatch.setattr(worked_solutions, "worked_solution", refuse)
    monkeypatch.setattr(data, "worked_solution", refuse)


def recipe(labels: str = "outcome", **changes: object):
    values = {
        "folder": "rewards/v",
        "start": "start",
        "head": "score",
        "scale": 0.5,
        "labels": labels,
        "batch": {"toy": 6},
        "schedule": {"num_steps": 12, "learning_rate": 1e-3, "warmup_steps": 2},
        "checkpoints": [3, 8, 12],
        "language_weight": 0.1,
        "seed": 3,
        "policies": ["one", "two"],
        "samples_per_task": 16,
        "samples_per_question": 2,
        "max_new_tokens": 6,
        "cuts": 2,
        "completions": 3,
        "half": True,
    }
    return OmegaConf.create({**values, **changes})


def configuration(folder: Path, entry) -> OmegaConf:
    """Return a recipe of models in which policies and start are toy models."""
    models = {
        "start": {"folder": toys.model_folder("llama", seed=7)},
        "one": {"folder": toys.model_folder("qwen2")},
        "two": {"folder": toys.model_folder("llama")},
        "v": entry,
    }
    (folder / "tokenizer").parent.mkdir(parents=True, exist_ok=True)
    tiny.load_tokenizer(toys.model_folder("llama")).save_pretrained(folder / "tokenizer")
    questions = {"tasks": {"toy": {"train": 12}}, "held_out": {"validation": 0, "test": 0}}
    return OmegaConf.create(
        {"folder": str(folder), "checkpoints": "checkpoints", "device": "cpu", "models": models, **questions}
    )


def classifier(seed: int = 5) -> torch.nn.Module:
    model = verifier.from_language_model(toys.model_folder("llama"))
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.score.weight)
    return model


def language_models() -> list[torch.nn.Module]:
    return [transformers.AutoModelForCausalLM.from_pretrained(toys.model_folder("llama", seed=n)) for n in (0, 7)]


@pytest.mark.parametrize("language_weight", [0.0, 0.3])
def test_loss_equals_direct_computation(language_weight: float):
    model = classifier()
    language = transformers.AutoModelForCausalLM.from_pretrained(toys.model_folder("llama"))
    values, tokens, right = [], 0.0, 0
    for _, prompt, response, labels in RAGGED:
        ids = torch.tensor([prompt + response])
        scores = model.score(model.model(ids).last_hidden_state)[0, len(prompt) :, 0].sigmoid()
        values += [
            -(label * p.log() + (1 - label) * (1 - p).log())
            for label, p in zip(labels, scores, strict=True)
            if not math.isnan(label)
        ]
        if labels[-1] == 1:
            targets = ids.clone()
            targets[:, : len(prompt)] = -100
            tokens, right = tokens + language(ids, labels=targets).loss * len(response), right + len(response)
    expected = torch.stack(values).mean() + language_weight * tokens / right
    loss = verifier.verifier_loss(model, pad(RAGGED), language_weight, ROWS)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_loss_of_wrong_responses_has_no_language_part():
    wrong = [Example("a", [2, 9], [40, 1], [0.0, 0.0])]
    losses = [verifier.verifier_loss(classifier(), pad(wrong), weight, ROWS) for weight in (0.0, 5.0)]
    assert losses[0] == losses[1]


def test_ratio_loss_equals_direct_computation():
    models = language_models()
    losses = []
    for _, prompt, response, labels in RAGGED:
        ids = torch.tensor([prompt + response])
        targets = ids.clone()
        targets[:, : len(prompt)] = -100
        trained, reference = (-model(ids, labels=targets).loss * len(response) for model in models)
        chance = (0.5 * (trained - reference)).sigmoid()
        losses.append(-(labels[-1] * chance.log() + (1 - labels[-1]) * (1 - chance).log()))
    loss = verifier.ratio_loss(*models, pad(RAGGED), 0.5, ROWS)
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-5, atol=1e-6)


def test_rows_beyond_the_vocabulary_change_no_loss():
    wide = [classifier(), *(copy.deepcopy(model) for model in language_models())]
    for model in wide:
        model.resize_token_embeddings(ROWS + 64)
        torch.nn.init.normal_(model.get_input_embeddings().weight.data[ROWS:])
        if model.get_output_embeddings() is not None:
            torch.nn.init.normal_(model.get_output_embeddings().weight.data[ROWS:])
    plain = [
        verifier.verifier_loss(classifier(), pad(RAGGED), 1.0, ROWS),
        verifier.ratio_loss(*language_models(), pad(RAGGED), 0.5, ROWS),
    ]
    losses = [
        verifier.verifier_loss(wide[0], pad(RAGGED), 1.0, ROWS),
        verifier.ratio_loss(*wide[1:], pad(RAGGED), 0.5, ROWS),
    ]
    torch.testing.assert_close(losses, plain)


@pytest.mark.slow
def test_ratio_recipe_writes_likelihood_rewards_against_its_start(graded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configuration(tmp_path / "assets", recipe(head="ratio"))
    module, mixture = verifiers.training(config, "v", {"toy": {"train": QUESTIONS}})
    assert module.loss(next(iter(mixture))).item() == pytest.approx(math.log(2)), "at first the ratio is 1"
    assert not [name for name, _ in module.named_parameters() if "reference" in name]
    tiny.fit_and_save(config, "v", module, mixture)
    start = config.models.start.folder
    assert manifest.reference_folder(config, config.models.v) == start
    examples, gaps = mixture.pools["toy"], []
    for name in ("v-3", "v-8", "v"):
        folder = str(tmp_path / "assets" / "rewards" / name)
        reward = RewardModel.from_pretrained(folder, kind="likelihood", reference=start)
        prompts, responses = [e.prompt_ids for e in examples], [e.response_ids for e in examples]
        rewards = np.array(scoring.rewards(reward, prompts, responses, close=False)[0])
        is_right = np.array([e.labels[-1] == 1 for e in examples])
        gaps.append(rewards[is_right].mean() - rewards[~is_right].mean())
    assert 0 < gaps[0] < gaps[2], "right samples rise above wrong ones"


def test_start_has_language_model_weights_and_score_zero():
    model = verifier.from_language_model(toys.model_folder("llama"))
    language = transformers.AutoModelForCausalLM.from_pretrained(toys.model_folder("llama"))
    for name, tensor in language.model.state_dict().items():
        assert torch.equal(tensor, model.model.state_dict()[name])
    assert not model.score.weight.any()
    assert verifier.verifier_loss(model, pad(RAGGED), 0.0, ROWS).item() == pytest.approx(math.log(2))


def test_outcome_label_is_the_verdict_at_every_token(graded):
    policy = Policy.from_pretrained(toys.model_folder("qwen2"))
    examples = verifiers.labelled_samples(policy, "one", QUESTIONS, recipe())
    for problem, example in zip(QUESTIONS, examples, strict=True):
        finished = example.response_ids[-1] in policy.eos_ids
        verdict = parity(problem, policy.decode(example.response_ids), finished).correct
        assert example.labels == [float(verdict)] * len(example.response_ids)
        assert example.prompt_ids == policy.prompt_ids(problem.messages)
    assert {example.labels[0] for example in examples} == {0.0, 1.0}


def test_policies_share_the_samples_and_each_question_has_several(graded, tmp_path: Path):
    config = configuration(tmp_path, recipe())
    _, mixture = verifiers.training(config, "v", {"toy": {"train": QUESTIONS}})
    tokenizer = tiny.load_tokenizer(toys.model_folder("llama"))
    prompts = [tiny.chat_example(tokenizer, QUESTIONS[i // 2], []).prompt_ids for i in range(16)]
    assert [example.prompt_ids for example in mixture.pools["toy"]] == prompts
    pairs = list(zip(mixture.pools["toy"][::2], mixture.pools["toy"][1::2], strict=True))
    assert any(a.response_ids != b.response_ids for a, b in pairs)


def test_process_labels_are_shares_of_right_completions(monkeypatch: pytest.MonkeyPatch):
    policy = Policy.from_pretrained(toys.model_folder("qwen2"))
    rollouts = [Rollout([5, 6, 7, 1], True), Rollout([8, 1], True), Rollout([1], True)]
    seen: list[tuple[list[int], int]] = []

    def continued(_, prefixes, noise, sampling, limits):
        assert sampling.temperature == 1.0
        assert all(len(row) >= limit for row, limit in zip(noise, limits, strict=True))
        seen.extend((list(prefix), limit) for prefix, limit in zip(prefixes, limits, strict=True))
        return [Rollout([30 + i % 4, 1], True) for i in range(len(prefixes))]

    def is_right(problem: Problem, response: str, finished: bool = True) -> Grade:
        return Grade(None, response.endswith(policy.decode([30])))

    monkeypatch.setattr(verifiers.generation, "sample", continued)
    monkeypatch.setattr("nabla_reasoner.tasks.grading.grade", is_right)
    verdicts, keys = [True, False, True], ["a", "b", "c"]
    settings = recipe("process", cuts=2, completions=4)
    labels = verifiers.process_labels(policy, "one", QUESTIONS[:3], keys, rollouts, verdicts, settings)
    assert [[i for i, label in enumerate(row) if not math.isnan(label)] for row in labels][1:] == [[0, 1], [0]]
    labelled = [label for row in labels for label in row[:-1] if not math.isnan(label)]
    assert labelled == [0.25] * 3, "one of the four completions of each cut is right"
    assert [row[-1] for row in labels] == [1.0, 0.0, 1.0]
    cuts = [i for i, label in enumerate(labels[0][:-1]) if not math.isnan(label)]
    prompt = policy.prompt_ids(QUESTIONS[0].messages)
    assert seen[:8] == [(prompt + [5, 6, 7, 1][: cut + 1], 6 - cut - 1) for cut in cuts for _ in range(4)]


def test_process_labels_estimate_the_policys_own_chance(graded):
    """Compare with fresh completions of the labelled prefixes; with 300 of each, a difference of 0.2 is five sigma."""
    policy = Policy.from_pretrained(toys.model_folder("qwen2"))
    settings = recipe("process", cuts=1, completions=300)
    (example,) = verifiers.labelled_samples(policy, "one", QUESTIONS[:1], settings)
    cut = next(i for i, label in enumerate(example.labels) if not math.isnan(label))
    prefix = example.response_ids[: cut + 1]
    limit = settings.max_new_tokens - len(prefix)
    noise = [keyed_uniforms(99, "fresh", number, "completion", limit) for number in range(300)]
    drawn = verifiers.generation.sample(
        policy, [example.prompt_ids + prefix] * 300, noise, verifiers.SAMPLING, [limit] * 300
    )
    right = [parity(QUESTIONS[0], policy.decode(prefix + d.token_ids), d.finished).correct for d in drawn]
    assert example.labels[cut] == pytest.approx(np.mean(right), abs=0.2)


def test_cuts_are_different_positions_before_the_last():
    for length in (1, 2, 3, 20):
        cuts = verifiers.cut_positions(length, 4, 0, "key", "cuts")
        assert len(cuts) == len(set(cuts)) == min(4, length - 1)
        assert all(0 <= cut < length - 1 for cut in cuts)
    drawn = {cut for key in range(60) for cut in verifiers.cut_positions(9, 1, 0, str(key), "cuts")}
    assert drawn == set(range(8))


def test_samples_do_not_depend_on_the_chunk(graded, monkeypatch: pytest.MonkeyPatch):
    policy = Policy.from_pretrained(toys.model_folder("qwen2"))
    whole = verifiers.labelled_samples(policy, "one", QUESTIONS, recipe("process"))
    monkeypatch.setattr(verifiers, "CHUNK", 5)
    parts = verifiers.labelled_samples(policy, "one", QUESTIONS, recipe("process"))
    assert str(whole) == str(parts)  # NaN is not equal to itself


@pytest.mark.slow
@pytest.mark.parametrize("labels", verifiers.LABELS)
def test_recipe_writes_loadable_classifiers_without_worked_solutions(labels: str, graded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configuration(tmp_path / "assets", recipe(labels))
    tiny.fit_and_save(config, "v", *verifiers.training(config, "v", {"toy": {"train": QUESTIONS}}))
    scores = []
    for name in ("v-3", "v-8", "v"):
        folder = tmp_path / "assets" / "rewards" / name
        reward = RewardModel.from_pretrained(str(folder), kind="classifier")
        assert reward.model.config.num_labels == 1
        weights = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto")
        assert {parameter.dtype for parameter in weights.parameters()} == {torch.float16}
        scores.append(reward.model.score.weight.norm().item())
    assert 0 < scores[0] < scores[1] < scores[2]
    assert not (tmp_path / "assets" / "rewards" / "v-12").exists()


@pytest.mark.slow
@pytest.mark.parametrize("death", [7, 9])
def test_killed_training_resumes_to_the_same_folders(death: int, graded, tmp_path, monkeypatch):
    """Lightning's checkpoint is of step 6; one kill comes before step 8 is written, one after it."""

    class Killed(Exception):
        pass

    class Dying(Mixture):
        def __iter__(self):
            for number, batch in enumerate(super().__iter__(), start=self.first_batch):
                if number == death and self.first_batch == 0:
                    raise Killed
                yield batch

    fit = loop.fit
    monkeypatch.setattr(loop, "fit", lambda *arguments, **settings: fit(*arguments, **settings, interval=6))
    folders = {}
    for kind, name in ((Mixture, "whole"), (Dying, "killed")):
        monkeypatch.setattr(verifiers, "Mixture", kind)
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        config = configuration(Path("assets").absolute(), recipe())
        for _ in range(2):
            module, mixture = verifiers.training(config, "v", {"toy": {"train": QUESTIONS}})
            try:
                tiny.fit_and_save(config, "v", module, mixture)
                break
            except Killed:
                continue
        assert mixture.first_batch == (6 if kind is Dying else 0)
        paths = sorted(Path("assets").rglob("model.safetensors"))
        folders[name] = {str(path): path.read_bytes() for path in paths}
    assert len(folders["whole"]) == 3
    assert folders["whole"] == folders["killed"]


@pytest.mark.parametrize("steps", [[12, 3], [3, 3, 12], [3, 8], [0, 12], []])
def test_wrong_checkpoints_are_refused(steps: list[int]):
    with pytest.raises(ValueError, match="checkpoints must ascend from at least 1 to schedule.num_steps = 12"):
        verifiers.checkpoint_folders(recipe(checkpoints=steps))


@pytest.mark.parametrize("changes", [{"head": "scores"}, {"head": "ratio", "labels": "process"}])
def test_wrong_head_is_refused(changes: dict[str, str], tmp_path: Path):
    with pytest.raises(ValueError, match="head must be score, or ratio with outcome labels; got"):
        verifiers.training(configuration(tmp_path, recipe(**changes)), "v", {})


def test_unknown_labels_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="outcome, process; got 'steps'"):
        verifiers.training(configuration(tmp_path, recipe("steps")), "v", {})


def test_manifest_lists_every_checkpoint_as_a_classifier():
    shared = OmegaConf.create({"shared": {"toy": 6}, "models": {"v": recipe(batch="${shared}")}})
    models = manifest.shipped_models(shared)
    assert {name: entry.folder for name, entry in models.items()} == {
        "v-3": "rewards/v-3",
        "v-8": "rewards/v-8",
        "v": "rewards/v",
    }
    assert OmegaConf.to_container(models["v-3"], resolve=True)["batch"] == {"toy": 6}
    assert manifest.reward_kind("v-3", models["v-3"]) == "classifier"
    assert manifest.reward_kind("v-3", recipe(head="ratio")) == "likelihood"
    assert manifest.reward_kind("likelihood-medium", {}) == "likelihood"


def test_auc_within_compares_answers_to_one_problem():
    scores = np.array([[3.0, 1.0, 2.0], [9.0, 9.0, 8.0], [0.0, 5.0, 7.0]])
    correct = np.array([[True, False, True], [False, True, True], [True, True, True]])
    assert manifest.auc_within(scores, correct) == pytest.approx((1 + 0.25) / 2)
    assert np.isnan(manifest.auc_within(scores[2:], correct[2:]))


def test_undefined_measures_are_null_in_a_manifest():
    """A policy that is always or never right has no AUC and no gap, and JSON has no NaN."""
    scores = np.array([[0.1, 0.2], [0.3, 0.4]])
    for correct in (np.ones((2, 2), bool), np.zeros((2, 2), bool)):
        found = manifest.selection_quality(scores, correct)
        assert np.isnan(found["auc"])
        assert np.isnan(found["gap_closed"])
        assert manifest.rounded(found["auc"]) is None
    assert manifest.rounded(0.12345) == 0.123


def test_token_auc_reads_every_beginning():
    reward = toys.reward("classifier", dtype="float32")
    responses = [[7, 11, 1], [12, 1], [8, 8, 9, 1]]
    correct = np.array([True, False, True])
    ends = []
    for problem, response in zip(QUESTIONS, responses, strict=False):
        prompt = reward.prompt_ids(problem.messages)
        ids = [torch.tensor([prompt + response[: length + 1]]) for length in range(len(response))]
        ends.append([reward.model.score(reward.model.model(text).last_hidden_state)[0, -1, 0].item() for text in ids])
    right, wrong = [*ends[0], *ends[2]], ends[1]
    expected = np.mean([a > b for a in right for b in wrong])
    assert manifest.token_auc(reward, QUESTIONS[:3], responses, correct) == pytest.approx(expected)
