"""Comparison of the sizes in config.json with the weight files, before a model of these sizes is built.

Transformers allocates what config.json says and compares shapes afterwards. One digit too many there would fill the
memory.
"""

import math
from pathlib import Path
from typing import Any

import safetensors

from ..json_text import parse_json

LAYERS = ("num_hidden_layers", "n_layer")
# Settings whose product is the size of one weight matrix of some layer.
MATRICES = (
    ("vocab_size", "hidden_size"),
    ("intermediate_size", "hidden_size"),
    ("num_attention_heads", "head_dim", "hidden_size"),
    ("vocab_size", "n_embd"),
    ("n_positions", "n_embd"),
    ("n_inner", "n_embd"),
)
PACKING = 8  # numbers that a quantised file may pack into one element


def check_sizes(folder: Path, name: str) -> None:
    """Raise ValueError if config.json asks for more layers or a larger matrix than the weight files can hold.

    Files that cannot be read are left to the loading itself, which says so.
    """
    try:
        settings = parse_json((folder / "config.json").read_text(encoding="utf-8"))
        shapes = [shape for file in sorted(folder.glob("*.safetensors")) for shape in _shapes(file)]
    except (OSError, ValueError, safetensors.SafetensorError):
        return
    if not shapes or not isinstance(settings, dict):
        return
    if isinstance(settings.get("text_config"), dict):
        settings = settings["text_config"]
    numbers = sum(map(math.prod, shapes))
    for key in LAYERS:
        if _is_number(settings.get(key)) and settings[key] > len(shapes):
            raise _error(name, f"{key}={settings[key]}", f"{len(shapes)} tensors")
    for keys in MATRICES:
        sizes = [settings.get(key) for key in keys]
        if all(map(_is_number, sizes)) and math.prod(sizes) > PACKING * numbers:
            product = " x ".join(f"{key}={size}" for key, size in zip(keys, sizes, strict=True))
            raise _error(name, product, f"{numbers:,} numbers")


def _shapes(file: Path) -> list[list[int]]:
    with safetensors.safe_open(file, "pt") as weights:
        return [weights.get_slice(key).get_shape() for key in weights.keys()]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _error(name: str, expected: str, held: str) -> ValueError:
    return ValueError(
        f"the weights of {name} must be those of its config.json; it says {expected}, and the files hold {held}. "
        "Correct config.json or fetch the complete weights."
    )
