"""Training of the models of a scale, by its recipe in `configs/train/`."""

import importlib
import os
import shutil
from contextlib import ExitStack
from pathlib import Path

from omegaconf import DictConfig

from ..config.data_folder import locate
from ..config.wandb_mode import check_mode, chosen_mode
from .command import DONE, Command, refusing

RECIPES = "nabla_reasoner.training.recipes"
WORK_FOLDERS = ("checkpoints", "work_folder")  # settings of recipes: folders of unfinished trainings


def copy_shipped(folder: str) -> None:
    """Copy a recipe's folder to here if it is shipped but not here.

    Training writes into the current folder. A single stage reads what the other stages wrote, and the manifest
    describes all of it.
    """
    shipped = locate(folder)
    if shipped == folder:
        return
    unfinished = f"{folder}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(shipped, unfinished)
    os.replace(unfinished, folder)
    print(f"Copied the shipped models from {shipped} to {Path.cwd() / folder}; the training replaces them there.")


def _folders_to_lock(recipe: DictConfig) -> dict[str, Path]:
    """Return the folders that one training at a time may write to, by the setting that names another.

    A dry run has none. Of the processes that `accelerate launch` starts, the first holds the locks.
    """
    if recipe.get("dry_run") or ("num_devices" in recipe and os.environ.get("RANK", "0") != "0"):
        return {}
    folders = {key: Path(recipe[key]) for key in WORK_FOLDERS if recipe.get(key)}
    models = Path(recipe.folder)  # may be shipped: its lock lies beside it
    return {**folders, "folder": models.with_name(f".{models.name}.lock")}


def run(command: Command, settings: tuple[str, DictConfig]) -> int:
    """Train the models that the recipe of the scale names; return the exit status."""
    scale, recipe = settings
    with refusing():
        check_mode(recipe.wandb)
        mode = chosen_mode(recipe.wandb)
    module = importlib.import_module(f"{RECIPES}.{scale}")  # imported late: peft and trl are optional dependencies
    if recipe.get("folder"):
        copy_shipped(recipe.folder)
    # imported late: the command line starts without torch
    from ..evaluation.results_folder import locked
    from ..reporting import wandb_training
    from ..training.loop import further_loggers

    with ExitStack() as stack:
        stack.enter_context(refusing())
        for key, folder in _folders_to_lock(recipe).items():
            stack.enter_context(locked(folder, remedy=f"choose another {key}=DIR"))
        stack.enter_context(further_loggers(wandb_training.loggers(mode, scale)))
        module.train(recipe)
    return DONE
