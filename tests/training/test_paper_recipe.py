"""Recipe of GRPO at the paper's size: TRL's arguments, without a GPU, a network or a model."""

import json
import shutil

import pytest
import toys
from hydra import compose, initialize_config_dir

from nabla_reasoner.config.schema import CONFIGS
from nabla_reasoner.models.response_texts import ResponseTexts
from nabla_reasoner.models.tokenizers import load_tokenizer
from nabla_reasoner.tasks import grading
from nabla_reasoner.training.recipes import paper
from nabla_reasoner.types import Problem


def config(*overrides: str):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train/paper", list(overrides))


@pytest.mark.slow
def test_dry_run_builds_trl_arguments_from_the_recipe():
    trl = pytest.importorskip("trl", reason="needs the extra `reference`: pip install -e '.[reference]'")
    arguments = paper.dry_run(
        config("policy=qwen2.5-7b-instruct", "shared.improvement.recipes.grpo.sampling.kl_weight=0.04")
    )
    recipe = config().shared.improvement.recipes.grpo
    assert isinstance(arguments, trl.GRPOConfig)
    assert (arguments.num_generations, arguments.temperature) == (
        recipe.sampling.group_size,
        recipe.sampling.temperature,
    )
    assert (arguments.beta, arguments.loss_type, arguments.vllm_mode) == (0.04, "bnpo", "colocate")
    assert arguments.use_vllm
    assert arguments.generation_batch_size * 8 == 64 * 8, "one process; eight GPUs sample the whole batch"


def test_batch_with_incomplete_groups_is_refused():
    with pytest.raises(ValueError, match=r"\(512\) must be a multiple of num_devices x responses_per_device \(40\)"):
        paper.trainer_settings(config("responses_per_device=5"))


def test_group_size_one_is_refused_before_loading():
    with pytest.raises(ValueError, match="group_size must be >= 2; got 1"):
        paper.trainer_settings(config("shared.improvement.recipes.grpo.sampling.group_size=1"))


@pytest.mark.slow
def test_missing_vllm_is_refused_before_loading_and_may_be_left_out(monkeypatch):
    monkeypatch.setattr(paper.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(paper, "train_with_trl", lambda config: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=r"no vllm\. Make one \(docs/serving.md .* vllm=null"):
        paper.train(config())
    without = config("vllm=null")
    paper.check_engine(without)
    settings = paper.trainer_settings(without)
    assert settings["use_vllm"] is False
    assert not any(name.startswith("vllm") for name in settings)


TEXTS = toys.shared_policy().texts
END = toys.shared_policy().eos_ids[0]


def responses(*texts: str) -> dict[str, list]:
    """Return what TRL passes of these responses, whose text it decodes without special tokens."""
    ids = [TEXTS.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    return {"completions": [TEXTS.plain(tokens) for tokens in ids], "completion_ids": ids}


def test_trl_reward_is_grade_or_none_on_failure(monkeypatch):
    problems = [Problem("a", "1+1?", "2", "train"), Problem("b", "2+3?", "5", "train")]
    reward = paper.trl_reward(problems, {END}, TEXTS)
    given = responses(r"So \boxed{2}.<|end|>", r"\boxed{4}<|end|>", "five<|end|>")
    assert reward(**given, problem_id=["a", "b", "b"], trainer_state=None) == [1.0, 0.0, 0.0]
    failed = grading.Grade("9", False, "grading took more than 10 seconds")
    monkeypatch.setattr(grading, "grade", lambda problem, text, finished: failed)
    assert reward(**responses("9"), problem_id=["a"]) == [None]


def test_trl_reward_grades_a_cut_answer_as_unfinished():
    """The number may go on: "The answer is 5" may be the beginning of 52."""
    question = Problem("b", "2+3?", "5", "train")
    assert not grading.grade(question, "The answer is 5", False).correct
    reward = paper.trl_reward([question], {END, 3}, TEXTS)
    given = responses("The answer is 5<|end|>", "The answer is 5", "")
    assert given["completions"] == ["The answer is 5", "The answer is 5", ""]
    assert reward(**given, problem_id=["b"] * 3) == [1.0, 0.0, 0.0]


def test_trl_reward_reads_no_answer_in_a_think_block_that_the_prompt_opened():
    question = Problem("b", "2+3?", "5", "train")
    reward = paper.trl_reward([question], {END}, TEXTS._replace(open_block="<think>\n"))
    given = responses(r"Perhaps \boxed{5}?", r"Perhaps 4?</think> \boxed{5}<|end|>")
    assert reward(**given, problem_id=["b"] * 2) == [0.0, 1.0]


def test_training_of_another_policy_or_question_or_setting_is_not_continued(tmp_path):
    folder = str(tmp_path / "trained")
    words = [f"policy.path={toys.model_folder('llama')}", f"folder={folder}", "num_steps=4"]
    first, questions = config(*words), [Problem("a", "1+1?", "2", "train")]
    assert not paper._is_finished(first, questions)
    (tmp_path / "trained" / "checkpoint-2").mkdir()
    assert not paper._is_finished(first, questions), "it is continued"
    for other, asked, name in (
        (config(*words, "learning_rate=0.5"), questions, "learning_rate"),
        (config(f"policy.path={toys.model_folder('llama', seed=1)}", *words[1:]), questions, "policy"),
        (first, [Problem("a", "1+1=?", "2", "train")], "questions"),
    ):
        with pytest.raises(ValueError, match=f"they differ in {name} .*Choose another folder"):
            paper._is_finished(other, asked)
    (tmp_path / "trained" / "checkpoint-4").mkdir()
    assert paper._is_finished(config(*words, "num_devices=2"), questions)


def test_pinned_policy_is_refused():
    with pytest.raises(ValueError, match="got policy.revision=aaaa"):
        paper.train(config("policy.revision=" + "a" * 40, "dry_run=true"))


def test_dropout_is_off_and_that_of_an_adapter_refused():
    assert paper.trainer_settings(config("vllm=null"))["disable_dropout"]
    with pytest.raises(ValueError, match="lora_dropout must be 0.*got 0.1"):
        paper.train(config("lora={r: 4, lora_dropout: 0.1}", "dry_run=true"))


@pytest.mark.parametrize(("setting", "ends"), [(7, {1, 7}), ([1, 8], {1, 8}), (None, {1}), ("no file", {1, 9})])
def test_end_tokens_are_those_of_tokenizer_and_generation_settings(setting, ends, tmp_path):
    folder = tmp_path / "policy"
    shutil.copytree(toys.model_folder("llama"), folder)
    file = folder / "generation_config.json"
    if setting == "no file":
        file.unlink()
        file = folder / "config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "eos_token_id": 9 if setting == "no file" else setting}))
    assert paper.end_ids(str(folder)) == ends


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # trl 1.16 reads attributes that transformers 5.23 has renamed
def test_trl_tells_the_reward_where_a_response_ends(tmp_path, monkeypatch):
    """TRL itself samples and passes the ids; the responses that it counts as cut off are graded as unfinished."""
    trl = pytest.importorskip("trl", reason="needs the extra `reference`: pip install -e '.[reference]'")
    datasets = pytest.importorskip("datasets")
    seen = []
    monkeypatch.setattr(
        grading, "grade", lambda problem, text, finished: seen.append(finished) or grading.Grade("5", finished)
    )
    question = Problem("b", "What is 2 + 3?", "5", "train")
    rows = [{"prompt": question.messages, "problem_id": "b"}] * 4
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=16,
        num_generations=16,
        max_completion_length=8,
        max_steps=1,
        temperature=2.0,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
    )
    folder = toys.model_folder("llama")
    trainer = trl.GRPOTrainer(
        model=folder,
        reward_funcs=paper.trl_reward([question], paper.end_ids(folder), ResponseTexts.of(load_tokenizer(folder))),
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
    )
    assert paper.end_ids(folder) == set(trainer.eos_token_ids)
    trainer.train()
    (logged,) = [entry for entry in trainer.state.log_history if "completions/clipped_ratio" in entry]
    assert len(seen) == 16
    assert seen.count(False) / 16 == pytest.approx(logged["completions/clipped_ratio"])
    assert logged["reward"] == pytest.approx(seen.count(True) / 16)
