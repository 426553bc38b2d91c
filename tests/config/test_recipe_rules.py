"""Settings of recipes: values of another kind are refused in one line, by `models` and by its plan."""

import copy
import functools
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from nabla_reasoner.config.compose import compose_recipe
from nabla_reasoner.config.recipe_rules import check_recipe
from nabla_reasoner.config.targets import find

STEPS = "models.tiny-base.schedule"


@functools.cache
def defaults() -> dict[str, Any]:
    """The recipe of scale=tiny as it stands."""
    return OmegaConf.to_container(compose_recipe(find("models"), [])[1], resolve=False)


def check(text: str) -> None:
    """Check the recipe with one setting replaced, as Hydra reads it from a command line."""
    (override,) = OverridesParser.create().parse_overrides([text])
    *groups, last = override.key_or_group.split(".")
    changed = copy.deepcopy(defaults())
    functools.reduce(dict.__getitem__, groups, changed)[last] = override.value()
    check_recipe(changed, defaults())


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("folder=", "folder must be a text; got ''"),
        ("threads=x", "threads must be a whole number >= 1; got 'x'. Its default is 2."),
        ("threads=0", "threads must be a whole number >= 1; got 0"),
        ("threads=1.5", "threads must be a whole number >= 1; got 1.5"),
        (f"{STEPS}.num_steps=abc", f"{STEPS}.num_steps must be a whole number >= 1; got 'abc'"),
        (f"{STEPS}.num_steps=0", "must be a whole number >= 1; got 0"),
        (f"{STEPS}.num_steps=null", "must be a whole number >= 1; got None"),
        (f"{STEPS}.learning_rate=nan", "must be a number >= 0; got nan"),
        (f"{STEPS}.learning_rate=inf", "must be a number >= 0; got inf"),
        (f"{STEPS}.learning_rate=true", "must be a number >= 0; got True"),
        ("models.tiny-base.half=yes please", "half must be true or false; got 'yes please'"),
        ("improvement.recipes.sft.learning_rates=[a]", "must be a list whose entries are each a number >= 0"),
        ("tasks.products.settings=3", "must be a group of settings"),
        ("only=[]", "only must be a list with an entry"),
        ("seed=-1", "seed must be a whole number >= 0; got -1"),
        ("device=tpu", "device must be one of cpu, cuda; got 'tpu'"),
        ("wandb=maybe", "wandb must be one of offline, online, disabled; got 'maybe'"),
    ],
)
def test_values_of_another_kind_are_refused(override: str, said: str):
    with pytest.raises(ValueError, match=".*") as refused:
        check(override)
    assert said in str(refused.value)


@pytest.mark.slow
def test_commands_check_their_recipe():
    with pytest.raises(ValueError, match=r"threads must be a whole number >= 1; got 'x'\. Its default is 2\."):
        compose_recipe(find("models"), ["threads=x"])
    _, recipe = compose_recipe(find("models"), [f"{STEPS}.num_steps=3", "improvement.patience=null"])
    assert recipe.models["tiny-base"].schedule.num_steps == 3


@pytest.mark.parametrize(
    "override", ["threads=1", f"{STEPS}.learning_rate=1", f"{STEPS}.num_steps=3", "improvement.patience=null", "seed=7"]
)
def test_other_values_of_the_same_kind_are_taken(override: str):
    check(override)
