"""Settings that are put together from composed files and single values, beside Hydra's own composing."""

import re

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from nabla_reasoner.config import compose, composed_files, sweeps

CELL = ["experiment=table1", "policy=tiny-base", "task=products", "method=nabla_reasoner"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        ["results_dir=/tmp/folder", "num_problems=7", "seed=3"],
        ["method.step_size=0.5", "method.selection=entropy", "method.nll_weight=1e-3", "method.selection=null"],
        ["policy.path='a, b'", "wandb=online", "keep=true", 'results_dir="it\'s"'],
        ["task.name=${scale_name}", "results_dir=out/${scale_name}"],
        ["grid.seed='0,1'", "estimate.tasks.chain_sum.uncertain=3", "method.terms=[prefix]"],
        ["num_problems=5", "scale=small", "num_problems=6", "device=cuda"],
        ["method=best_of_n", "method.num_samples=4", "method.answers=[[num_samples,2],[]]", "variant=paper"],
        ["scale=paper", "policy=llama3.1-8b-instruct", "reward=skywork-8b", "task=amc", "method=nabla_reasoner_prefix"],
        ["method=nabla_prefix_without_gradient", "method.terms=['a b', 0.5, null, true]", "num_problems=[1]"],
        ["grid={policy: x}", "extra=[]", "sampling.temperature=0.7"],
    ],
)
def test_settings_equal_those_that_hydra_composes(values: list[str]):
    overrides = [*CELL, *values]
    with initialize_config_dir(str(compose.CONFIGS), version_base="1.3"):
        expected = OmegaConf.to_container(hydra_compose("config", overrides), resolve=False)
        assert composed_files.composed(tuple(overrides)) == expected


@pytest.mark.slow
def test_files_are_composed_once_for_any_values(monkeypatch: pytest.MonkeyPatch):
    calls, original = [], composed_files.compose
    monkeypatch.setattr(composed_files, "compose", lambda *given: calls.append(given) or original(*given))
    composed_files.composed.cache_clear()
    composed_files._composed_by_hydra.cache_clear()
    counts = []
    for folder in "abc":
        compose.compose_cells([*CELL, f"results_dir={folder}", "method.step_size=0.5"])
        counts.append(len(calls))
    assert counts[0] == counts[2] > 0


@pytest.mark.parametrize("value", ["results_dir='${'", "results_dir=${nothing}", "method.step=1", "policy.path.x=1"])
def test_values_that_hydra_refuses_are_refused(value: str):
    with pytest.raises(ValueError, match=r"unknown setting|in the settings|nothing"):
        compose.compose_cells([*CELL, value])


@pytest.mark.slow
@pytest.mark.parametrize("methods", [[], ["method=nabla_reasoner,greedy"], ["method=greedy"]])
def test_setting_that_a_swept_method_lacks_is_named(methods: list[str]):
    with pytest.raises(
        ValueError, match=r"unknown setting 'method.step_size'; settings of method: .* belong to greedy"
    ):
        compose.compose_cells(["experiment=table1", "scale=tiny", *methods, "method.step_size=7"])


@pytest.mark.parametrize(
    ("target", "word", "told"),
    [
        (
            "table1",
            "policy.path=/mine",
            "policy.path is of one policy; this command has tiny-base,tiny-instruct. Add policy=",
        ),
        ("table1", "policy.name=mine", "policy.name is of one policy"),
        ("table1", "policy.name=a,b", "policy.name must be one name, as one policy would have several rows; got "),
        ("table2", "reward.name=a,b", "reward.name must be one name"),
        ("table1", "method.name=mine", "method.name is of one method; this command has greedy,"),
        ("table2", "reward.path=/mine", "reward.path is of one reward"),
    ],
)
def test_path_or_name_of_several_choices_is_refused(target: str, word: str, told: str):
    with pytest.raises(ValueError, match=re.escape(told)):
        sweeps.compose_sweeps(target, ["scale=tiny", word])


def test_cells_of_two_rewards_that_would_share_a_record_file_are_refused():
    words = ["policy=tiny-base", "task=products", "method=greedy", "seed=0", "reward=likelihood,classifier"]
    with pytest.raises(ValueError, match="reward.name: likelihood -> classifier"):
        sweeps.compose_sweeps("table1", words)
