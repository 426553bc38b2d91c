"""Unresolved settings of overrides; Hydra composes the files of a combination of choices once per process."""

import functools
from collections.abc import Sequence
from typing import Any

import hydra
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .overrides import parse
from .schema import CONFIGS

MISSING = object()


def compose(name: str, overrides: Sequence[Override]) -> DictConfig:
    """Return a config composed by Hydra, which must have been initialised.

    Raises:
        ValueError: a file or setting that does not exist.
    """
    try:
        return hydra.compose(name, [override.input_line for override in overrides])
    except (HydraException, OmegaConfBaseException) as error:
        settings = " ".join(str(override.input_line) for override in overrides)
        raise ValueError(f"{' '.join(str(error).split())} in the settings {settings}. Use key=value.") from error


@functools.lru_cache(maxsize=512)
def composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Return the unresolved settings of these overrides; not to be changed.

    Hydra sets single values after it has composed the files. It takes a tenth of a second, so that what it composed is
    kept, and values that replace others are set here.
    """
    parsed = parse(overrides)
    values = [override for override in parsed if _is_value(override)]
    settings: dict[str, Any] | None = _composed_files(tuple(o.input_line for o in parsed if o not in values))
    for override in values:
        settings = settings and with_value(settings, override.key_or_group.split("."), override.value())
    return settings or _composed_files(overrides)


@functools.lru_cache(maxsize=512)
def _composed_files(overrides: tuple[str, ...]) -> dict[str, Any]:
    return OmegaConf.to_container(compose("config", parse(overrides)), resolve=False)


def _is_value(override: Override) -> bool:
    """Return whether an override replaces a single value, and so has no part in which files are composed."""
    names = override.key_or_group.split(".")
    chooses = len(names) == 1 and (CONFIGS / names[0]).is_dir()
    plain = override.type == OverrideType.CHANGE and override.package is None and all(map(str.isidentifier, names))
    if override.is_sweep_override() or not plain or chooses or names[0] == "hydra":
        return False
    value = override.value()
    return isinstance(value, int | float | bool | None) or (isinstance(value, str) and "${" not in value)


def with_value(settings: dict[str, Any], names: Sequence[str], value: Any) -> dict[str, Any] | None:
    """Return settings with one value replaced; None if there is no single value of that name."""
    first, *below = names
    old = settings.get(first, MISSING)
    if below:
        value = with_value(old, below, value) if isinstance(old, dict) else None
        return None if value is None else settings | {first: value}
    return None if old is MISSING or isinstance(old, dict | list) else settings | {first: value}
