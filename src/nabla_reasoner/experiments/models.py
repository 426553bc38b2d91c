"""Training of the models of a scale, by its recipe in `configs/train/`."""

import importlib

from omegaconf import DictConfig

from .command import DONE, Command, refusing

RECIPES = "nabla_reasoner.training.recipes"


def run(command: Command, settings: tuple[str, DictConfig]) -> int:
    """Train the models that the recipe of the scale names; return the exit status."""
    scale, recipe = settings
    module = importlib.import_module(f"{RECIPES}.{scale}")  # imported late: peft and trl are optional dependencies
    with refusing():
        module.train(recipe)
    return DONE
