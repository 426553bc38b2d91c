"""Paths, valid names and types of settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

DEFAULTS = {"scale": "tiny", "results_dir": "results"}


def read_settings(words: Sequence[str]) -> dict[str, str]:
    """The two settings that these targets take.

    Raises:
        ValueError: another setting, or an unknown scale.
    """
    chosen = dict(DEFAULTS)
    for word in words:
        key, _, value = word.partition("=")
        if key not in DEFAULTS or not value:
            raise ValueError(f"settings of this target are scale=NAME and results_dir=DIR; got {word!r}.")
        chosen[key] = value
    if chosen["scale"] not in choices("scale"):
        raise ValueError(f"scale must be one of {', '.join(choices('scale'))}; got {chosen['scale']!r}.")
    return chosen


ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs"
SPLITS = ("test", "validation")
WANDB_MODES = ("offline", "online", "disabled")
Cell = dict[str, Any]


def choices(group: str) -> list[str]:
    """Names that `group=NAME` may take."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
