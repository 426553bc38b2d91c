"""From a command line to settings: composes `configs/` with Hydra, checks every value, and expands sweeps into cells.

Composing needs no torch, so a wrong choice is answered at once.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from .cell import Cell
from .composed_files import compose, composed
from .interpolation import resolved
from .known_settings import check_keys
from .overrides import parse
from .recipe_rules import check_recipe
from .schema import CONFIGS, GROUPS, Settings
from .settings import SETTINGS, check
from .targets import Target, targets


def compose_cells(overrides: Sequence[str], grid: "Grid | None" = None) -> list[Cell]:
    """Return the cells that these overrides ask for, the last swept setting varying fastest.

    Args:
        overrides: settings as typed, with `experiment=NAME` for a target's own.
        grid: keeps what was composed for several calls.

    Raises:
        ValueError: an override that cannot be read, an unknown choice or setting (the valid ones are listed), or a
            value out of range.
    """
    grid = grid or Grid()
    parsed = parse(overrides)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        single = [override for override in parsed if not override.is_sweep_override()]
        chosen = [override for override in single if override.key_or_group in (*GROUPS, "experiment")]
        check_keys(composed(tuple(override.input_line for override in chosen)), parsed)
        config = _resolve(composed(tuple(override.input_line for override in single)))
        _checked_cell(config)
        cells: dict[tuple[str | int, ...], Cell] = {}
        for job in jobs(config, parsed):
            seeds = [item.removeprefix("seed=") for item in job if item.startswith("seed=")]
            others = [item for item in job if not item.startswith("seed=")]
            cell = _job_cell(grid, others)
            if seeds and not (seeds[-1].isdecimal() and int(seeds[-1]) < 2**63):
                plain_cell(compose("config", parse(job)))  # says what a seed must be
            key = (*others, *(int(seed) for seed in seeds))  # 1 and 01 are one seed
            cells[key] = cell.changed(seed=int(seeds[-1])) if seeds else cell
    return list(cells.values())


def _job_cell(grid: "Grid", overrides: Sequence[str]) -> Cell:
    """Return the cell of one job.

    Raises:
        ValueError: as `compose_cells`; also an override that names a setting which the job's choices do not have, such
            as `method.step_size` with greedy decoding.
    """
    try:
        return grid.cell(overrides)
    except ValueError:
        chosen = [item for item in overrides if item.split("=")[0] in (*GROUPS, "experiment")]
        check_keys(composed(tuple(chosen)), parse(overrides))
        raise


class Grid:
    """Cells of a grid, checked once per combination."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, ...], Cell] = {}

    def cell(self, overrides: Sequence[str]) -> Cell:
        """Return the checked cell of these overrides."""
        key = tuple(overrides)
        if key not in self.cells:
            self.cells[key] = plain_cell(composed(key))
        return self.cells[key]


def compose_experiment(name: str) -> dict[str, Any]:
    """Return the resolved defaults of a target that runs cells, with its sweep not yet expanded."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return _resolve(compose("config", parse([f"experiment={name}"])))


def jobs(config: dict[str, Any], overrides: Sequence[Override]) -> list[list[str]]:
    """Return the overrides of each job: the product of the config's `sweep` and of the command line's choices.

    A value that is given twice, as in `seed=1,1`, counts once.
    """
    swept: dict[str, list[str]] = {}
    defaults = [f"{key}={value}" for key, value in _sweep_of(config).items()]
    for override in [*parse(defaults), *overrides]:
        key = override.get_key_element()
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise ValueError(f"{key} must be values with commas between them; got {override.input_line!r}.")
            swept[key] = list(dict.fromkeys(f"{key}={value}" for value in override.sweep_string_iterator()))
        else:
            swept[key] = [f"{key}={override.get_value_element_as_str()}"]
    return [list(job) for job in itertools.product(*swept.values())]


def _sweep_of(config: DictConfig | dict[str, Any]) -> DictConfig | dict[str, str]:
    """Return the choices that an experiment sweeps over by itself."""
    choices = config.get("sweep") or {}
    if not isinstance(choices, DictConfig | dict):
        raise ValueError(f"sweep must be a group of settings; got {choices!r}. Write policy=A,B to sweep over A and B.")
    return choices


def swept(overrides: Sequence[str]) -> list[str]:
    """Return overrides with the sweep of their experiment written out, as a launcher of Hydra takes them."""
    parsed = parse(overrides)
    given = {override.get_key_element() for override in parsed}
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        single = tuple(override.input_line for override in parsed if not override.is_sweep_override())
        config = OmegaConf.create(composed(single))
    return [*(f"{key}={value}" for key, value in _sweep_of(config).items() if key not in given), *overrides]


def compose_settings(target: Target, overrides: Sequence[str]) -> Settings:
    """Return the checked settings of a target that is no sweep.

    Raises:
        ValueError: as `compose_cells`; also a setting that the target does not take.
    """
    known = list(SETTINGS[target.settings].model_fields)
    parsed = parse(overrides, groups=target.groups)
    for override in parsed:
        key = override.key_or_group.split(".")[0]
        if key not in known:
            raise ValueError(
                f"unknown setting {key!r} in {override.input_line!r}; settings of {target.name}: {', '.join(known)}."
            )
    if not target.groups:
        file_settings = yaml.safe_load((CONFIGS / "experiment" / f"{target.name}.yaml").read_text(encoding="utf-8"))
        swept = [override.input_line for override in parsed if override.is_sweep_override()]
        if swept:
            raise ValueError(
                f"{target.name} takes one value per setting; got {swept[0]!r}. Quote a value with a comma."
            )
        values = {key: file_settings[key] for key in known}
        return check(target.settings, values | {override.key_or_group: override.value() for override in parsed})
    if several := [override.input_line for override in parsed if override.is_sweep_override()]:
        key, _, values = several[0].partition("=")
        raise ValueError(
            f"{target.name} takes one value per setting; got {several[0]!r}. Run it once for each, or write a list: "
            f"'{key}=[{values}]'."
        )
    check_scale(target, parsed)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        experiment = f"experiment={target.name}"
        check_keys(composed((experiment,)), parsed)
        config = composed((experiment, *(override.input_line for override in parsed)))
    settings = _resolve(config)
    return check(target.settings, {key: settings["scale_name" if key == "scale" else key] for key in known})


def compose_recipe(target: Target, overrides: Sequence[str]) -> tuple[str, DictConfig]:
    """Return the scale and the recipe of its models, `configs/train/SCALE.yaml`, with a command's overrides.

    Raises:
        ValueError: an override that cannot be read, an unknown setting, or a value of another kind.
    """
    given = parse(overrides)
    check_scale(target, given)
    parsed = [override for override in given if override.key_or_group != "scale"]
    scale = next((str(override.value()) for override in given if override.key_or_group == "scale"), target.scales[0])
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        groups = [override for override in parsed if override.key_or_group in GROUPS]
        default = compose(f"train/{scale}", groups)
        check_keys(default, parsed)
        recipe = default if parsed == groups else compose(f"train/{scale}", parsed)
    check_recipe(*(OmegaConf.to_container(settings, resolve=False) for settings in (recipe, default)))
    return scale, recipe


def check_scale(target: Target, overrides: Sequence[Override]) -> None:
    """Raise ValueError on a scale that the target does not have, and on a missing one if it does not have tiny."""
    given = [override for override in overrides if override.key_or_group == "scale"]
    single = [override.value() for override in given if not override.is_sweep_override()]
    wrong = [repr(scale) for scale in single if scale not in target.scales]
    if not given and target.scales and "tiny" not in target.scales:
        wrong = ["none, which is tiny"]
    if wrong:
        raise ValueError(f"scale must be one of {', '.join(target.scales)} for {target.name}; got {wrong[0]}.")


def plain_cell(config: DictConfig | dict[str, Any]) -> Cell:
    """Return the checked cell of unresolved settings."""
    return _checked_cell(_resolve(config))


def _checked_cell(settings: dict[str, Any]) -> Cell:
    """Return the cell of resolved settings; with `budget=true` the method takes the larger pool that it names.

    What the target's file says of it, its sweep, and a scale's sizes for one target, under its name, are left out.
    """
    kind = settings.get("target", {}).get("cell", "cell")
    left_out = {"target", "sweep", *targets()}
    values = {name: value for name, value in settings.items() if name not in left_out}
    if values.get("budget") is True and isinstance(values["method"]["budget"], dict):
        values["method"] = values["method"] | values["method"]["budget"]
    _limit_to_benchmark(values)
    return check(kind, values)


def _limit_to_benchmark(values: dict[str, Any]) -> None:
    """Lower the number of problems that a change of settings takes to that of a benchmark that has fewer."""
    task, wanted = values["task"], values["num_problems"]
    if values.get("setting") in (None, "default") or task.get("path") is not None:
        return
    size = task.get("size")
    if isinstance(size, int) and isinstance(wanted, int) and wanted > size:
        values["num_problems"] = size


def _resolve(config: DictConfig | dict[str, Any]) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else resolved(config)
    except InterpolationResolutionError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{error.full_key} refers to a setting that is not there: {reason}. Choose a policy, reward and "
            "task that belong to the scale and together, or refer to a setting that exists."
        ) from error
