"""Training of the models of a scale, by its recipe."""

from omegaconf import DictConfig

from .command import DONE, Command, refusing


def run(command: Command, chosen: tuple[str, DictConfig]) -> int:
    """Train what the recipe of the scale names; returns the exit status."""
    from ..training.recipes import paper, small, tiny  # peft and trl belong to extras

    scale, recipe = chosen
    train = {"tiny": tiny.train, "small": small.train, "paper": paper.train}[scale]
    with refusing():
        train(recipe)
    return DONE
