"""From a command line to cells: composes every choice of a sweep, checks its values, and builds the parts of a cell.

A cell is one (policy, task, method, seed): a plain nested dict of resolved settings. Composing needs no torch, so that
a wrong choice is answered at once.
"""

from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from .schema import CONFIGS, SPLITS, WANDB_MODES, Cell

MISSING = object()


def compose_cells(overrides: Sequence[str]) -> list[Cell]:
    """The cells that these overrides ask for, in the order in which Hydra runs them.

    Raises:
        ValueError: an override that cannot be read, an unknown choice or setting (the valid ones are listed), or a
            value out of range.
    """
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        parser, current = OverridesParser.create(), list(overrides)
        for override in overrides:
            if "=" not in override or not override[0].isalpha():
                raise ValueError(f"settings are written key=value; got {override!r}. See ./reproduce.sh help.")
        try:
            plain = [item.input_line for item in parser.parse_overrides(current) if not item.is_sweep_override()]
            current = plain
            config = compose("config", plain, return_hydra_config=True)
            _check_values(plain_cell(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])))
            sweeps = config.hydra.mode == RunMode.MULTIRUN
            params = [f"{key}={value}" for key, value in config.hydra.sweeper.params.items()] if sweeps else []
            jobs = BasicSweeper.split_arguments(parser.parse_overrides([*params, *overrides]), None)[0]
            cells, composed = [], {}
            for current in jobs:
                shared = tuple(item for item in current if not item.startswith("seed="))
                if shared not in composed:
                    composed[shared] = plain_cell(compose("config", current))
                seed = [item.removeprefix("seed=") for item in current if item.startswith("seed=")]
                cells.append({**composed[shared], "seed": _integer(seed[0]) if seed else composed[shared]["seed"]})
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(_explain(error, current)) from error
    for cell in cells:
        _check_values(cell)
    return cells


def plain_cell(config: DictConfig) -> Cell:
    """Resolved settings as a plain dict; with `budget=true` the method takes the larger pool it names."""
    cell = OmegaConf.to_container(config, resolve=True)
    if cell["budget"] and cell["method"]["budget"]:
        cell["method"] |= cell["method"]["budget"]
    return cell


def _integer(text: str) -> Any:
    return int(text) if text.isdecimal() else text


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """One line: what is wrong and which values are valid."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Available options in") for line in lines):
        start = next(index for index, line in enumerate(lines) if line.startswith("Available options in"))
        end = next((index for index, line in enumerate(lines) if line.startswith("Config search path")), len(lines))
        missing, valid = lines[start - 1].split(": ")[-1], ", ".join(lines[start + 1 : end])
        trained = "method/sft" in missing or "method/grpo" in missing
        hint = " SFT and GRPO are policies of their own, e.g. policy=tiny-base-sft method=greedy." if trained else ""
        return f"{missing}; {lines[start].replace('Available', 'available')} {valid}.{hint}"
    if isinstance(error, OverrideParseException):
        return f"the setting {error.override!r} cannot be read. Write key=value."
    if isinstance(error, InterpolationKeyError):
        return f"these choices do not go together: {lines[0]}. Choose a task that belongs to the scale."
    groups = {path.name for path in CONFIGS.iterdir() if path.is_dir()} - {"train"}
    chosen = [override for override in overrides if override.split("=")[0] in groups]
    try:
        config = compose("config", chosen)
    except (HydraException, OmegaConfBaseException):
        return " ".join(lines)
    for key in (override.split("=")[0] for override in overrides if override not in chosen):
        if not key.startswith("hydra") and OmegaConf.select(config, key, default=MISSING) is MISSING:
            return _unknown(config, key, groups)
    return f"{' '.join(lines)} in the settings {' '.join(overrides)}. Write key=value."


def _unknown(config: DictConfig, key: str, groups: set[str]) -> str:
    """The message for a setting that does not exist: those that do, at the deepest level that does."""
    parent = key.rpartition(".")[0]
    while parent and not isinstance(OmegaConf.select(config, parent), DictConfig):
        parent = parent.rpartition(".")[0]
    known = sorted(OmegaConf.select(config, parent)) if parent else sorted(set(config) | groups)
    where = f" of {parent}" if parent else ""
    hint = f" They belong to {config.method.name}: choose another with method=NAME." if parent == "method" else ""
    return f"unknown setting {key!r}; settings{where}: {', '.join(known)}.{hint}"


def _check_values(cell: Cell) -> None:
    """Raise ValueError on a setting of the wrong type or out of range (methods and models check their own)."""
    keys = ("seed", "num_problems", "batch_size", "max_new_tokens", "threads", "devices", "num_nodes", "pool_seeds")
    whole = {key: cell[key] for key in keys}
    whole["task.repeats"] = cell["task"]["repeats"]
    for key, value in whole.items():
        least = 0 if key == "seed" else 1
        if (value is None and key in ("num_problems", "threads")) or (type(value) is int and value >= least):
            continue
        raise ValueError(f"{key} must be a whole number >= {least}; got {value!r}.")
    for key in ("overwrite", "budget"):
        if type(cell[key]) is not bool:
            raise ValueError(f"{key} must be true or false; got {cell[key]!r}.")
    for key, valid in (("wandb", WANDB_MODES), ("split", SPLITS)):
        if cell[key] not in valid:
            raise ValueError(f"{key} must be one of {', '.join(valid)}; got {cell[key]!r}.")
    if cell["split"] != "test" and "dataset" not in cell["task"]:
        raise ValueError(
            f"split={cell['split']} is for generated tasks only; got task {cell['task']['name']}. Use split=test."
        )
