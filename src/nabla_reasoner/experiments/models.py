"""Training of the models of a scale, by its recipe in `configs/train/`."""

import importlib

from omegaconf import DictConfig

from .command import DONE, Command, refusing

RECIPES = "nabla_reasoner.training.recipes"


def run(command: Command, chosen: tuple[str, DictConfig]) -> int:
    """Train what the recipe of the scale names; returns the exit status."""
    scale, recipe = chosen
    module = importlib.import_module(f"{RECIPES}.{scale}")  # peft and trl belong to extras
    with refusing():
        module.train(recipe)
    return DONE
