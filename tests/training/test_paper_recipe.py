"""Recipe of GRPO at the paper's size: TRL's arguments, without a GPU, a network or a model."""

import pytest
from hydra import compose, initialize_config_dir

from nabla_reasoner.config.schema import CONFIGS
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


def test_trl_reward_is_grade_or_none_on_failure(monkeypatch):
    problems = [Problem("a", "1+1?", "2", "train"), Problem("b", "2+3?", "5", "train")]
    reward = paper.trl_reward(problems)
    chats = [[{"role": "assistant", "content": text}] for text in (r"So \boxed{2}.", r"\boxed{4}", "five")]
    assert reward(chats, problem_id=["a", "b", "b"], trainer_state=None) == [1.0, 0.0, 0.0]
    failed = grading.Grade("9", False, "grading took more than 10 seconds")
    monkeypatch.setattr(grading, "grade", lambda problem, text: failed)
    assert reward(["9"], problem_id=["a"]) == [None]
