"""The mode of Weights & Biases: the setting `wandb`, or the environment variable WANDB_MODE."""

import os

from .schema import WANDB_MODES

# Further names that wandb itself takes in WANDB_MODE. A "shared" run is an online one that several processes may write.
SPELLINGS = {"dryrun": "offline", "run": "online", "shared": "online"}


def check_mode(mode: object, name: str = "wandb") -> None:
    """Raise ValueError if a mode, given by the setting or variable `name`, is none of the modes."""
    if mode not in WANDB_MODES:
        raise ValueError(f"{name} must be one of {', '.join(WANDB_MODES)}; got {mode!r}.")


def chosen_mode(setting: str) -> str:
    """Return the mode: WANDB_MODE if it is set and not empty, otherwise the setting.

    The variable may have any spelling that wandb knows, in upper or lower case.

    Raises:
        ValueError: the variable is none of the modes.
    """
    variable = os.environ.get("WANDB_MODE", "").strip()
    mode = SPELLINGS.get(variable.lower(), variable.lower())
    if mode and mode not in WANDB_MODES:
        check_mode(variable, "the environment variable WANDB_MODE")
    return mode or setting


def spell_out() -> None:
    """Write WANDB_MODE as wandb itself reads it: without blanks, in lower case, or not at all where it is empty."""
    mode = chosen_mode("")
    if mode:
        os.environ["WANDB_MODE"] = mode
    else:
        os.environ.pop("WANDB_MODE", None)
