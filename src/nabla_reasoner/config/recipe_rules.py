"""Checks of a recipe's settings: each must be of the kind that it has in its YAML file."""

import math
from typing import Any, get_args

from .schema import Device, Wandb

CHOICES = {"device": get_args(Device), "wandb": get_args(Wandb)}
# Settings that must be at least 1, at any depth; other numbers must not be negative.
FROM_ONE = (
    "num_steps threads every updates_per_batch kept_rank train sampled questions per_question vocab_size max_new_tokens"
).split()

Setting = dict[str, Any] | list[Any] | str | float | int | None
SWITCHED_OFF_BY_NULL = {"patience", "trial_steps"}  # and whole groups, such as vllm


def check_recipe(settings: Setting, defaults: Setting, key: str = "") -> None:
    """Look at every setting that differs from the recipe's own.

    Args:
        settings: all settings, with interpolations such as ${seed} as they stand; these are not looked at.
        defaults: those of the YAML file, with the same choices of groups.
        key: where both stand in the recipe.

    Raises:
        ValueError: a text in place of a number and the like, an empty text or list, or a number out of range; the
            message names key, value and default.
    """
    if isinstance(settings, dict) and isinstance(defaults, dict):
        for name, value in settings.items():
            if name in defaults:
                check_recipe(value, defaults[name], f"{key}.{name}" if key else name)
        return
    if any(isinstance(value, str) and value.startswith("${") for value in (settings, defaults)):
        return
    may_be_null = isinstance(defaults, dict) or key.rpartition(".")[2] in SWITCHED_OFF_BY_NULL
    if settings == defaults or defaults is None or (settings is None and may_be_null):
        return
    if said := _fault(settings, defaults, key.rpartition(".")[2]):
        raise ValueError(f"{key} must be {said}; got {settings!r}. Its default is {defaults!r}.")


def _fault(value: Setting, default: Setting, name: str) -> str:
    """Return what a value must be and is not, or an empty text."""
    if name in CHOICES and value not in CHOICES[name]:
        return f"one of {', '.join(CHOICES[name])}"
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        least, kinds = int(name in FROM_ONE), int if isinstance(default, int) else (int, float)
        fits = isinstance(value, kinds) and not isinstance(value, bool) and least <= value < math.inf  # and no NaN
        return "" if fits else f"a {'whole ' if kinds is int else ''}number >= {least}"
    if isinstance(default, list):
        if not isinstance(value, list) or not value:
            return "a list with an entry: [A, B]"
        wrong = [said for entry in value if default and (said := _fault(entry, default[0], name))]
        return f"a list whose entries are each {wrong[0]}" if wrong else ""
    if isinstance(default, dict):
        return "" if isinstance(value, dict) else "a group of settings: {name: value}"
    return "" if isinstance(value, str) and value.strip() else "a text"
