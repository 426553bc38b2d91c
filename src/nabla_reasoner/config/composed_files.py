"""Unresolved settings of overrides, put together from files and values that Hydra composes once per process."""

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
PARTS = {"policy", "reward", "variant", "task", "method"}  # groups whose files change their own part only


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

    Hydra sets single values after it has composed the files. It takes a fifth of a second, so that what it composed is
    kept, and values that replace others are set here.
    """
    parsed = parse(overrides)
    values = [override for override in parsed if _is_value(override)]
    settings: dict[str, Any] | None = _composed_files(tuple(o.input_line for o in parsed if o not in values))
    for override in values:
        settings = settings and with_value(settings, override.key_or_group.split("."), override.value())
    return settings or _composed_files(overrides)


def _composed_files(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of choices, put together from what each of them changes.

    A choice of `PARTS` changes that part of the config only; if one changes anything else, or stands beside a value of
    its part, the combination itself is composed.
    """
    changed = {item.split(".")[0] for item in overrides if "." in item.split("=")[0]}  # needs its part's choice
    chosen = {item.split("=")[0]: item for item in overrides if item.split("=")[0] in PARTS - changed}
    shared = tuple(item for item in overrides if item not in chosen.values())
    base = _composed_by_hydra(shared)
    combined = dict(base)
    for group, item in chosen.items():
        part = _part(base, shared, group, item)
        if part is None:
            return _composed_by_hydra(overrides)
        combined[group] = part
    return combined


def _part(base: dict[str, Any], shared: tuple[str, ...], group: str, item: str) -> Any:
    """Return a group's settings for one choice; None if the choice changes other settings too.

    Where the config composed without the choice holds a file of the group as it stands, so does one composed with the
    choice: that file is read instead.
    """
    file = _plain_file(group, item.removeprefix(f"{group}="))
    if file is not None and base[group] == _plain_file(group, base[group]["name"]):
        return file
    part = _composed_by_hydra((*shared, item))
    return part[group] if part | {group: base[group]} == base else None


@functools.cache
def _plain_file(group: str, name: str) -> dict[str, Any] | None:
    """Return the content of a group's file with the one that it builds on; None if it changes other settings."""
    path = CONFIGS / group / f"{name}.yaml"
    if not path.is_file() or "@package" in path.read_text(encoding="utf-8"):
        return None
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    match content.pop("defaults", None):
        case None:
            return content
        case [str(other), "_self_"] if (below := _plain_file(group, other)) is not None:
            return OmegaConf.to_container(OmegaConf.merge(below, content), resolve=False)
    return None


@functools.lru_cache(maxsize=512)
def _composed_by_hydra(overrides: tuple[str, ...]) -> dict[str, Any]:
    return OmegaConf.to_container(compose("config", parse(overrides)), resolve=False)


def _is_value(override: Override) -> bool:
    """Return whether an override replaces a value or list, and so has no part in which files are composed."""
    names = override.key_or_group.split(".")
    chooses = len(names) == 1 and (CONFIGS / names[0]).is_dir()
    plain = override.type == OverrideType.CHANGE and override.package is None and all(map(str.isidentifier, names))
    if override.is_sweep_override() or not plain or chooses or names[0] == "hydra":
        return False
    return _is_plain(override.value())


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return "${" not in value if isinstance(value, str) else isinstance(value, int | float | None)


def with_value(settings: dict[str, Any], names: Sequence[str], value: Any) -> dict[str, Any] | None:
    """Return settings with a value, or a list by another one, replaced; None if there is none of that name."""
    first, *below = names
    old = settings.get(first, MISSING)
    if below:
        value = with_value(old, below, value) if isinstance(old, dict) else None
        return None if value is None else settings | {first: value}
    groups = dict if isinstance(value, list) else dict | list  # Hydra merges into them
    return None if old is MISSING or isinstance(old, groups) else settings | {first: value}
