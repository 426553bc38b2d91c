"""Settings with their references `${...}` replaced by values, as OmegaConf replaces them but ten times as fast.

The forms that `configs/` uses are read here; settings with any other, or with a wrong reference, go to OmegaConf.
"""

import re
from typing import Any

from omegaconf import OmegaConf

PLAIN = r"\$\{[a-zA-Z_]\w*(?:\.\w+)*\}"
NAMES = rf"[a-zA-Z_]\w*(?:\.(?:\w+|{PLAIN}))*"
DEFAULT = r"0|[1-9]\d*|\d+\.\d+|'[\w-]*'|(?!(?:true|false|null|nan|inf)\b)[a-z]\w*"
# NAMES, NAMES beside the setting itself, or NAMES with a default.
REFERENCE = re.compile(rf"\$\{{(?:(\.?)({NAMES})|oc\.select:({NAMES}),({DEFAULT}))\}}", re.ASCII)
PATH = re.compile(r"[\w-]+(\.[\w-]+)*", re.ASCII)
MISSING = "???"  # of OmegaConf


class _OtherForm(Exception):
    """A reference that is not read here, or leads to no value."""


def resolved(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of plain settings in which every reference is replaced by the value that it names.

    Raises:
        OmegaConfBaseException: a reference that cannot be read, or to a setting that is not there.
    """
    try:
        return _copy(settings, None, settings)
    except (_OtherForm, RecursionError):
        return OmegaConf.to_container(OmegaConf.create(settings), resolve=True)


def _copy(value: Any, group: dict[str, Any] | None, root: dict[str, Any]) -> Any:
    """Return a value without references.

    Args:
        value: part of `root`.
        group: the group of settings that it stands in; None in a list.
        root: all settings.
    """
    if isinstance(value, dict):
        return {key: _copy(item, value, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item, None, root) for item in value]
    if isinstance(value, str):
        return _text(value, group, root) if "${" in value else value
    if value is None or isinstance(value, int | float):
        return value
    raise _OtherForm


def _text(text: str, group: dict[str, Any] | None, root: dict[str, Any]) -> Any:
    """Return a text with its references replaced; where it is nothing but one, the value as it is."""
    if whole := REFERENCE.fullmatch(text):
        return _named(whole, group, root)
    if set("$\\") & set(REFERENCE.sub("", text)):
        raise _OtherForm
    return _joined(text, group, root)


def _joined(text: str, group: dict[str, Any] | None, root: dict[str, Any]) -> str:
    def shown(reference: re.Match[str]) -> str:
        value = _named(reference, group, root)
        if value is None or isinstance(value, dict | list):
            raise _OtherForm
        return str(value)

    return REFERENCE.sub(shown, text)


def _named(reference: re.Match[str], group: dict[str, Any] | None, root: dict[str, Any]) -> Any:
    """Return the value that a reference names."""
    beside, names, optional, default = reference.groups()
    matches = _found(names or optional, group if beside else root, root)
    if optional and not matches:
        text = default.strip("'")
        return text if default[0] == "'" or text[0].isalpha() else float(text) if "." in text else int(text)
    if not matches or (optional and isinstance(matches[0], dict | list)):
        raise _OtherForm
    return matches[0]


def _found(names: str, value: Any, root: dict[str, Any]) -> list[Any]:
    """Return a list of the value of that name below another one; an empty one if there is none."""
    path = _joined(names, None, root)
    if not PATH.fullmatch(path):
        raise _OtherForm
    group = None
    for name in path.split("."):
        value = _copy(value, group, root) if isinstance(value, str) else value  # leads to another group
        if not isinstance(value, dict):
            raise _OtherForm
        if name not in value:
            return []
        group, value = value, value[name]
    if value == MISSING:
        raise _OtherForm
    return [_copy(value, group, root)]
