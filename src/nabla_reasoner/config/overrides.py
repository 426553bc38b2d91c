"""Overrides of a command line: their spelling, Hydra's grammar, and whether a choice exists."""

import functools
import re
import shlex
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import OverrideParseException

from .schema import CONFIGS, GROUPS, choices, read_yaml
from .targets import Target

LAUNCHER = "hydra/launcher="
TRAINED_METHODS = ("sft", "grpo")  # policies of their own, often looked for as methods


def written_out(arguments: Sequence[str]) -> list[str]:
    """Return `--key value`, `--key=value` and `--key` (true) in the spelling of all settings, `key=value`."""
    overrides, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        if word.startswith("--") and "=" not in word:
            has_value = rest and "=" not in rest[0] and not rest[0].startswith("--")
            word = f"{word}={rest.pop(0) if has_value else 'true'}"
        overrides.append(word.removeprefix("--"))
    return overrides


def is_setting(word: str) -> bool:
    """Return whether a word is `key=value` with a setting of a cell as its key, rather than a question or a file."""
    key, equals, _ = word.partition("=")
    known = read_yaml((CONFIGS / "config.yaml").read_text(encoding="utf-8")).keys() | set(GROUPS)
    return bool(equals) and key.split(".")[0] in known


def parse(overrides: Sequence[str], groups: bool = True) -> list[Override]:
    """Return the overrides read by Hydra's grammar.

    Args:
        overrides: settings as typed.
        groups: whether names of groups, such as `task`, stand for choices; otherwise they are ordinary settings.

    Raises:
        ValueError: one that is no `key=value`, or names a choice that does not exist.
    """
    parsed = []
    for text in overrides:
        if "=" not in text or not text[0].isalpha():
            raise ValueError(f"Use key=value; got {text!r}. ./reproduce.sh TARGET --help lists the settings.")
        key, _, value = text.partition("=")
        if key != key.strip():
            raise ValueError(
                f"{text!r} must have no blank before its =. Write {shlex.quote(f'{key.strip()}={value}')}."
            )
        try:
            override = _read(text)
        except OverrideParseException as error:
            if value.startswith("~"):
                raise ValueError(f"the ~ in {text!r} was not replaced by the shell. Write {key}=$HOME...") from error
            raise ValueError(
                f"the value in {text!r} holds special characters; quote it: {_advised(key, value)}."
            ) from error
        if value != value.strip() and isinstance(override.value(), str):
            raise ValueError(
                f"white space around the value in {text!r} would be lost; quote it: {_advised(key, value)}."
            )
        if isinstance(override.value(), Glob):
            raise ValueError(f"a setting must be a value or a list of values; got the pattern {text!r}.")
        if groups:
            _check_choice(override)
        parsed.append(override)
    return parsed


@functools.lru_cache(maxsize=4096)
def _read(text: str) -> Override:
    """Return an override; a grid has the same ones in many combinations, and reading one takes a millisecond."""
    (override,) = OverridesParser.create().parse_overrides([text])
    return override


def check_launching(target: Target, overrides: Sequence[str]) -> None:
    """Raise ValueError on settings of a launcher where none is used."""
    words = [word for word in overrides if word.startswith(("hydra/", "hydra."))]
    if not words or target.settings == "plan":
        return
    if not target.has_records:
        raise ValueError(
            f"{words[0]} is for targets that run cells as jobs; {target.name} computes in its own process. Leave it "
            "out."
        )
    if not any(word.startswith(LAUNCHER) for word in words):
        raise ValueError(f"{words[0]} is for a launcher, and none is chosen. Add e.g. {LAUNCHER}submitit_slurm.")


def quoted(text: str, mark: str = "'") -> str:
    """Return a text in quotes, as the value of a setting that Hydra's grammar reads as this text.

    Args:
        mark: the quotes.
    """
    doubled = re.sub(rf"(\\*)(?={mark}|$)", lambda backslashes: 2 * backslashes[1], text)
    return mark + doubled.replace(mark, f"\\{mark}").replace("${", "\\${") + mark


def _advised(key: str, value: str) -> str:
    """Return a setting as it is to be typed in a shell, its value a text in quotes."""
    inner = value.strip()
    is_quoted = len(inner) > 1 and inner[0] == inner[-1] and inner[0] in "'\""
    text = inner[1:-1] if is_quoted else value
    return shlex.quote(f"{key}=" + quoted(text, mark='"'))


def _check_choice(override: Override) -> None:
    """Raise ValueError if a group's choice has no file."""
    group = override.key_or_group
    if group not in GROUPS:
        return
    values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.value()]
    for value in values:
        if value not in choices(group):
            trained = group == "method" and value in TRAINED_METHODS
            hint = " SFT and GRPO are policies of their own: policy=tiny-base-sft method=greedy." if trained else ""
            raise ValueError(f"{group}/{value} does not exist; valid: {', '.join(choices(group))}.{hint}")
