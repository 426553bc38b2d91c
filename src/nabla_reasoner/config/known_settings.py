"""Names of settings: whether they exist, and at which place a value is set."""

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from .composed_files import MISSING, with_value
from .schema import GROUPS


def check_keys(settings: dict[str, Any] | DictConfig, overrides: Sequence[Override]) -> None:
    """Raise ValueError on a setting that does not exist; names those that do, at the deepest level that does."""
    for override in overrides:
        key = override.key_or_group
        if key in GROUPS or key == "experiment" or key.startswith("hydra"):
            continue
        if isinstance(settings, dict):  # in a recipe null switches a group off
            _check_group(settings, override)
            _check_place(settings, key)
        if isinstance(settings, dict) and with_value(settings, key.split("."), None) is not None:
            continue
        config = OmegaConf.create(settings)
        if OmegaConf.select(config, key, default=MISSING, throw_on_missing=False) is not MISSING:
            continue
        parent = key.rpartition(".")[0]
        while parent and not isinstance(OmegaConf.select(config, parent), DictConfig):
            parent = parent.rpartition(".")[0]
        known = sorted(OmegaConf.select(config, parent)) if parent else sorted({*config, *GROUPS} - {"target"})
        where = f" of {parent}" if parent else ""
        hint = f" They belong to {config.method.name}: choose methods with method=NAME." if parent == "method" else ""
        raise ValueError(f"unknown setting {key!r}; settings{where}: {', '.join(map(str, known))}.{hint}")


def _check_group(settings: dict[str, Any], override: Override) -> None:
    """Raise ValueError on a value in the place of a whole group of settings, to which other settings refer."""
    key, group = override.key_or_group, settings.get(override.key_or_group)
    if isinstance(group, dict) and not (override.is_delete() or isinstance(override.value(), dict)):
        raise ValueError(
            f"{key} must be a group of settings; got {override.input_line.partition('=')[2]}. "
            f"Write {key}.{next(iter(group), 'KEY')}=VALUE for one of them."
        )


def _check_place(settings: dict[str, Any], key: str) -> None:
    """Raise ValueError on a setting inside a group that only refers to another one: it is set there."""
    value: Any = settings
    names = key.split(".")
    for depth, name in enumerate(names[:-1], start=1):
        value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str) and value.startswith("${"):
            place = ".".join([value.strip("${}"), *names[depth:]])
            raise ValueError(f"{'.'.join(names[:depth])} is {value}, set in another place. Write {place}=VALUE.")
