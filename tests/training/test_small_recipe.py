"""Recipe of scale=small: answers that are stored and derived, choice of prompts, adapters, and agreement with runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import toys
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file

from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.config.schema import CONFIGS
from nabla_reasoner.evaluation.accuracy import greedy_accuracy
from nabla_reasoner.models.language_models import Policy, RewardModel
from nabla_reasoner.tasks import grading, problems
from nabla_reasoner.tasks.grading import Grade
from nabla_reasoner.training.recipes import small_answers, small_prompts
from nabla_reasoner.training.recipes.small_answers import Answer
from nabla_reasoner.training.sft import PolicyTraining
from nabla_reasoner.types import Problem

ROOT = Path(__file__).resolve().parents[2]
CHOSEN = ROOT / "assets/sweeps/small_prompts.csv"
TOY = toys.model_folder("llama")
QUESTIONS = [Problem(f"t/{i}", f"What is {i} + 1?", str(i + 1), "chain_sum") for i in range(3)]


def make_problem(expression: str, answer: str) -> Problem:
    return Problem(expression, f"{expression} =", answer, "chain_sum", {"expression": expression})


def parity(problem: Problem, response: str, finished: bool = True) -> Grade:
    """Grade a text by a rule that needs no arithmetic, so that random models have right and wrong answers."""
    return Grade(response, (sum(response.encode()) + len(problem.question)) % 2 == 0)


@pytest.fixture
def graded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nabla_reasoner.tasks.grading.grade", parity)


def settings(work: Path, **changes: object) -> DictConfig:
    """Return the settings that sampling reads."""
    values = {"work_folder": str(work), "seed": 0, "max_new_tokens": 6, "policy": {"path": TOY}, "device": "cpu"}
    return OmegaConf.create({**values, **changes})


def sampled(config: DictConfig, questions: list[Problem] = QUESTIONS) -> list[Answer]:
    sampling = OmegaConf.create({"temperature": 1.0, "top_p": 1.0, "top_k": 0})
    return small_answers.sample_answers(config, questions, 4, "toy", sampling)


def test_derived_answers_are_graded_correct():
    wrong = Answer(make_problem("98 - 68", "30"), "98 - 68 = 11.\nThe answer is = 11", True, False)
    assert small_answers.corrected(wrong).response == "98 - 68 = 30.\nThe answer is = 30"
    assert small_answers.corrected(wrong._replace(finished=False)) is None
    right = Answer(make_problem("17 - 99", "-82"), "17 - 99 = -82", True, True, [1, 2])
    changed = small_answers.moved(right, make_problem("50 - 82", "-32"))
    assert (changed.response, changed.token_ids) == ("50 - 82 = -32", None)
    assert small_answers.moved(right, make_problem("50 + 82", "132")) is None, "sum and difference differ in wording"
    with_example = [make_problem(f"{a} - {b}\nFor example 9 - 5 = 4.", str(a - b)) for a, b in ((9, 5), (30, 10))]
    example = Answer(with_example[0], "9 - 5 = 4", True, True)
    assert small_answers.moved(example, with_example[1]).response == "30 - 10 = 20", "the suffix has numbers too"
    unclear = right._replace(response="17 - 99 = 5 - 87 = -82")
    assert small_answers.moved(unclear, make_problem("50 - 82", "-32")) is None, "5 and 87 have an unknown origin"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("33 + 71 = 71", None),
        ("71 + 33 = 105", "71 + 33 = 104"),
        ("33 + 71 = 105. The answer is 105", "33 + 71 = 104. The answer is 104"),
        ("The answer is 33", "The answer is 104"),
    ],
)
def test_correction_leaves_the_numbers_of_the_question(response: str, expected: str | None):
    changed = small_answers.corrected(Answer(make_problem("33 + 71", "104"), response, True, False))
    assert (changed and changed.response) == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("The answer is 633.640000.", "The answer is 1,106.38."),  # as the question writes it
        ("The answer is 633.64", "The answer is 1,106.38"),
        ("The answer is largest", None),  # no number
        ("The answer is 1106.380", None),  # right
    ],
)
def test_corrected_number_is_written_as_in_the_question(response: str, expected: str | None):
    question = "Pick the largest number of the following candidates: 633.640000 1,106.38"
    problem = Problem("n/0", question, "1106.38", "number_format", {"solution": 1106.38})
    correct = grading.grade(problem, response).correct
    changed = small_answers.corrected(Answer(problem, response, True, correct))
    assert (changed and changed.response) == expected


def test_answers_move_to_questions_of_their_wording_only():
    asked = [make_problem("17 - 99", "-82"), make_problem("50 - 82", "-32"), make_problem("1 + 2", "3")]
    answers = [
        Answer(asked[0], "17 - 99 = -82", True, True),
        Answer(asked[1], "50 - 82 = 9", True, False),
        Answer(asked[2], "1 + 2 = 4", True, False),
    ]
    pools = small_answers.by_origin(OmegaConf.create({"seed": 0}), {"chain_sum": {"train": asked}}, answers)
    texts = {origin: [answer.response for answer in pool] for origin, pool in pools.items()}
    assert texts == {
        "right": ["17 - 99 = -82"],
        "corrected": ["50 - 82 = -32", "1 + 2 = 3"],
        "moved": ["50 - 82 = -32"],
    }


def test_stopped_sampling_goes_on_where_it_was(graded, tmp_path, monkeypatch):
    monkeypatch.setattr(small_answers, "CHUNK", 5)
    whole = sampled(settings(tmp_path / "whole"))
    assert [answer.problem for answer in whole] == [problem for problem in QUESTIONS for _ in range(4)]
    assert len({tuple(answer.token_ids) for answer in whole}) > 6, "every answer has random numbers of its own"
    text = (tmp_path / "whole" / "toy.jsonl").read_text()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "toy.jsonl").write_text("".join(text.splitlines(keepends=True)[:7]) + '["What is')
    assert sampled(settings(tmp_path / "cut")) == whole
    assert (tmp_path / "cut" / "toy.jsonl").read_text() == text


def test_answers_of_other_settings_questions_or_weights_are_refused(graded, tmp_path, monkeypatch):
    sampled(settings(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(small_answers, "model_version", lambda path: f"another version of {path}")
        with pytest.raises(ValueError, match="must hold answers sampled with .*another version"):
            sampled(settings(tmp_path))
        patch.setattr(small_answers, "model_version", lambda path: None)  # as of a hub name that is not downloaded yet
        assert sampled(settings(tmp_path)) == sampled(settings(tmp_path))
    with pytest.raises(ValueError, match="must hold answers sampled with .*'seed': 1"):
        sampled(settings(tmp_path, seed=1))
    with pytest.raises(ValueError, match="must hold answers to the same questions"):
        sampled(settings(tmp_path), QUESTIONS[::-1])


@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
def test_training_sequence_is_the_finished_chat_with_the_verdict_at_every_token(kind):
    reward = toys.reward(kind)
    tokenizer = reward.tokenizer
    text = tokenizer.encode("12+34=46", add_special_tokens=False)
    chat = [*QUESTIONS[0].messages, {"role": "assistant", "content": "12+34=46"}]
    expected = tokenizer.apply_chat_template(chat, return_dict=False)
    for tokens in (None, text, [*text, reward.eos_ids[0]]):  # a changed text, one that was cut off, a finished one
        answer = Answer(QUESTIONS[0], "12+34=46", True, True, tokens)
        example = small_answers.reward_example(reward, answer, "sums")
        assert (example.prompt_ids + example.response_ids)[: len(expected)] == expected or kind == "likelihood"
        assert expected[: len(example.prompt_ids + example.response_ids)] == example.prompt_ids + example.response_ids
        assert (example.group, example.labels) == ("sums", [1.0] * len(example.response_ids))


def prompt_settings(folder: Path, **changes: object) -> DictConfig:
    """Return the settings of the stage `prompts`: two difficulties and two suffixes of one task."""
    choices = {
        "difficulties": [{"min_terms": 2, "max_terms": 2, "min_digits": n, "max_digits": n} for n in (2, 3)],
        "suffixes": ["", " Be brief."],
    }
    prompts = {"questions": 5, "samples": 3, "greedy": [0, 100], "gain": 10, "same_answer": 100, "count": 1}
    prompts["tasks"] = {"products": choices}
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    held_out = {"test": 4, "validation": 4}
    shared = {"folder": str(folder / "assets"), "sampling": sampling, "held_out": held_out}
    return settings(folder / "work", prompts={**prompts, **changes}, **shared)


@pytest.mark.slow
def test_prompts_are_measured_on_training_questions_and_not_twice(graded, tmp_path, monkeypatch):
    config = prompt_settings(tmp_path)
    small_prompts.compare(config)
    file = tmp_path / "assets" / "sweeps" / "small_prompts.csv"
    rows = pd.read_csv(file, keep_default_na=False, na_values={"any_of_n": ""})
    assert list(rows.columns) == list(small_prompts.COLUMNS)
    assert [(json.loads(row.difficulty)["max_digits"], row.suffix) for row in rows.itertuples()] == [
        (digits, suffix) for digits in (2, 3) for suffix in ("", " Be brief.")
    ]
    policy = Policy.from_pretrained(TOY)
    difficulty = json.loads(rows.difficulty[1])
    asked = problems.generate("products", split="train", size=5, settings=difficulty)
    asked = [problem._replace(question=problem.question + " Be brief.") for problem in asked]
    assert rows.greedy[1] == pytest.approx(greedy_accuracy(policy, asked, 6))
    assert (rows.samples == 3).all()
    assert (rows.any_of_n >= rows.one_sample).all()
    assert list(rows.fits) == list(rows.any_of_n - rows.one_sample >= 10)
    text = file.read_text()
    file.unlink()
    monkeypatch.setattr(Policy, "from_pretrained", lambda *_, **__: pytest.fail("everything was measured before"))
    small_prompts.compare(config)
    assert file.read_text() == text


def test_prompts_that_do_not_fit_are_not_sampled(graded, tmp_path):
    config = prompt_settings(tmp_path, greedy=[101, 102])
    candidate = next(small_prompts.candidates(config))
    row = small_prompts.measure(config, Policy.from_pretrained(TOY), candidate)
    assert (row["samples"], row["one_sample"], row["any_of_n"], row["fits"]) == (0, None, None, False)


def test_task_with_one_answer_to_most_questions_does_not_fit(graded, tmp_path, monkeypatch):
    """Five of five questions have the answer 7; in a task with five answers each is right for a fifth."""
    questions = [Problem(f"t/{i}", f"What is {i} + 1?", "7", "products") for i in range(5)]
    monkeypatch.setattr(small_prompts.tiny, "splits", lambda config: {"products": {"train": questions}})
    config = prompt_settings(tmp_path, same_answer=99, gain=0)
    candidate, policy = next(small_prompts.candidates(config)), Policy.from_pretrained(TOY)
    row = small_prompts.measure(config, policy, candidate)
    assert (row["samples"], row["same_answer"], row["fits"]) == (3, 100.0, False)
    questions[:] = [problem._replace(answer=str(i)) for i, problem in enumerate(questions)]
    row = small_prompts.measure(config, policy, candidate)
    assert (row["samples"], row["same_answer"], row["fits"]) == (3, 20.0, True)


def test_best_fitting_prompt_of_each_task_is_chosen():
    def row(task: str, gain: float | None) -> dict[str, object]:
        return {"task": task, "one_sample": gain and 10.0, "any_of_n": gain and 10.0 + gain, "fits": bool(gain)}

    rows = [row("a", 21.0), row("a", 25.0), row("b", None), row("c", 24.0), row("c", 24.0), row("d", 30.0)]
    assert [i for i, chosen in enumerate(small_prompts.mark_chosen(rows, 3)) if chosen["chosen"]] == [1, 3, 5]
    assert [i for i, chosen in enumerate(small_prompts.mark_chosen(rows, 1)) if chosen["chosen"]] == [5]
    assert not any(chosen["chosen"] for chosen in small_prompts.mark_chosen(rows[2:3], 3))


def toy_recipe(folder: Path, *overrides: str) -> DictConfig:
    """Return the recipe with a random model, two tasks, two rewards and a few steps."""
    shrunk = [
        *(f"{key}={TOY}" for key in ("policy.path", "policy.prepare.folder")),
        *(f"folder={folder}/assets", f"work_folder={folder}/work", "threads=1", "max_new_tokens=6"),
        *("held_out={validation: 3, test: 3}", "tasks.chain_sum.train=8", "tasks.chain_sum.sampled=6"),
        "+tasks.basic_arithmetic={train: 8, sampled: 6, settings: {min_terms: 2, max_terms: 2}, suffix: ''}",
        "+improvement.batch.basic_arithmetic=5",
        *("~tasks.gcd", "~tasks.number_format"),
        *(f"~rewards.{kind}-{task}" for kind in ("likelihood", "verifier") for task in ("gcd", "number-format")),
        "only=[likelihood,verifier,measure]",
        *("samples={per_question: 2}", "validation={questions: 3, per_question: 3}"),
        *(f"rewards.{name}.lora.layers_to_transform=[1]" for name in ("likelihood", "verifier")),
        *(f"rewards.{name}.schedule.num_steps=3" for name in ("likelihood", "verifier")),
        *(f"~rewards.{name}.batch.chain_sum.corrected" for name in ("likelihood", "verifier")),
        "~rewards.likelihood.batch.chain_sum.moved",
        *(f"+rewards.{name}.batch.basic_arithmetic={{right: 2}}" for name in ("likelihood", "verifier")),
        *("improvement.questions=4", "improvement.validation=2"),
        *(f"improvement.recipes.{name}.lora.layers_to_transform=[1]" for name in ("sft", "grpo")),
        *(f"improvement.recipes.{name}.schedule.num_steps=2" for name in ("sft", "grpo")),
        *(f"improvement.recipes.{name}.every=1" for name in ("sft", "grpo")),
        "improvement.recipes.grpo.sampling.group_size=2",
    ]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train/small", [*shrunk, *overrides])


@pytest.mark.slow
def test_recipe_writes_both_adapters_and_what_they_are_worth(graded, tmp_path, monkeypatch):
    pytest.importorskip("peft", reason="needs the extra small; pip install -e '.[small]'")
    from nabla_reasoner.training.recipes import small

    monkeypatch.chdir(tmp_path)
    config = toy_recipe(tmp_path)
    small.train(config)
    for name, recipe in config.rewards.items():
        folder = small.adapter_folder(config, name)
        assert {file.name for file in folder.iterdir()} == {
            "adapter_model.safetensors",
            "adapter_config.json",
            "manifest.json",
        }
        tensors = load_file(folder / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
        assert all("layers.1." in key or "score" in key for key in tensors)
        assert any(tensor.any() for key, tensor in tensors.items() if "lora_B" in key), "the adapter was trained"
        assert {len(tensor) for key, tensor in tensors.items() if "lora_A" in key} == {recipe.kept_rank}
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["shipped"] == recipe.kind
        assert set(manifest["validation"]) == {"chain_sum", "basic_arithmetic"}
        for measured in manifest["validation"].values():
            assert {"gap_closed", "auc", "auc_within", "token_auc"} <= set(measured)
    verifier = RewardModel.from_pretrained(str(tmp_path / "work/verifier-merged"))
    assert verifier.model.score.weight.any()
    saved = load_file(small.adapter_folder(config, "verifier") / "adapter_model.safetensors")
    head = next(tensor for key, tensor in saved.items() if "score" in key)
    np.testing.assert_array_equal(verifier.model.score.weight.numpy(), head.float().numpy())
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kept_rank": 9}, r"rewards.verifier.kept_rank must be at most 8.*got 9"),
        ({"lora": {"use_rslora": True}}, r"rewards.verifier.lora.use_rslora must be left out"),
        ({"lora": {"rank_pattern": {"q_proj": 4}}}, r"rewards.verifier.lora.rank_pattern must be left out"),
    ],
)
def test_adapter_that_cannot_be_cut_is_refused(tmp_path, changed: dict, message: str):
    from nabla_reasoner.training.recipes import small

    config = toy_recipe(tmp_path)
    OmegaConf.set_struct(config, False)
    config = OmegaConf.merge(config, {"rewards": {"verifier": changed}})
    with pytest.raises(ValueError, match=message):
        small.stages_of(config)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-sft", "smollm2-grpo"])
def test_policy_is_improved_by_an_adapter(name, graded, tmp_path, monkeypatch):
    pytest.importorskip("peft", reason="needs the extra small; pip install -e '.[small]'")
    from nabla_reasoner.training.recipes import small

    def rise(self, batch, index):
        self.accuracies[batch[0].task] = float(self.global_step)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PolicyTraining, "validation_step", rise)
    small.train(toy_recipe(tmp_path, f"only=[{name}]"))
    (file,) = (tmp_path / "assets" / "policies").rglob("adapter_model.safetensors")
    tensors = load_file(file)
    assert {key.split("layers.")[1][0] for key in tensors} == {"1"}
    assert any(tensor.any() for key, tensor in tensors.items() if "lora_B" in key)
    row = pd.read_csv(tmp_path / "assets" / "sweeps" / "improvement.csv").iloc[0]
    assert (row.policy, row.last_step) == (name, 2)


def test_recipe_and_runs_share_tasks_and_sampling():
    scale = yaml.safe_load((ROOT / "configs/scale/small.yaml").read_text(encoding="utf-8"))
    default = yaml.safe_load((ROOT / "configs/config.yaml").read_text(encoding="utf-8"))
    recipe = yaml.safe_load((ROOT / "configs/train/small.yaml").read_text(encoding="utf-8"))
    for task, details in recipe["tasks"].items():
        assert details["settings"] == {**default["difficulty"], **scale["difficulty"]}[task]
        assert details["suffix"] == scale["suffixes"][task]
        assert recipe["max_new_tokens"] == scale["limits"][task]
    assert recipe["sampling"].items() <= scale["sampling"].items()
    assert scale["num_problems"] <= recipe["held_out"]["test"]
    assert set(scale["grid"]["task"].split(",")) <= set(recipe["tasks"])
    assert set(recipe["improvement"]["batch"]) <= set(recipe["tasks"])
    assert scale["grid"]["measured"] in ("${.reward}", scale["grid"]["reward"])
    assert set(scale["grid"]["reward"].split(",")) == {"smollm2", "smollm2-verifier"}


def test_tasks_of_the_recipe_are_those_that_were_chosen():
    recipe = yaml.safe_load((ROOT / "configs/train/small.yaml").read_text(encoding="utf-8"))
    rows = pd.read_csv(CHOSEN, keep_default_na=False)
    chosen = {row.task: (json.loads(row.difficulty), row.suffix) for row in rows[rows.chosen].itertuples()}
    assert len(chosen) == recipe["prompts"]["count"]
    used = {task: (details["settings"], details["suffix"]) for task, details in recipe["tasks"].items()}
    assert used == chosen


@pytest.mark.parametrize("task", ["chain_sum", "gcd", "number_format"])
@pytest.mark.parametrize("name", ["smollm2", "smollm2-verifier"])
def test_reward_of_a_task_is_the_adapter_that_was_trained_on_it(name: str, task: str):
    (cell,) = compose_cells(["scale=small", f"task={task}", f"reward={name}"])
    adapter = Path(cell.reward.prepare.keywords()["adapter"])
    recipe = yaml.safe_load((ROOT / "configs/train/small.yaml").read_text(encoding="utf-8"))
    (trained,) = [entry for entry in recipe["rewards"].values() if Path("assets", entry["folder"]) == adapter]
    assert (trained["kind"], list(trained["batch"])) == (cell.reward.kind, [task])
    manifest = json.loads((ROOT / adapter / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["shipped"], list(manifest["validation"])) == (cell.reward.kind, [task])
    tensors = load_file(ROOT / adapter / "adapter_model.safetensors")
    assert {len(tensor) for key, tensor in tensors.items() if "lora_A" in key} == {trained["kept_rank"]}
    assert manifest["recipe"]["kept_rank"] == trained["kept_rank"]
