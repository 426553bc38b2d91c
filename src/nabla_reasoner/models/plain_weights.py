"""Refusal of quantised weights: they need kernels of their own, or would be read as the integers they are packed in.

Gradients, precision and recorded FLOPs are those of plain weights.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import safetensors
import transformers

from ..json_text import parse_json

PLAIN = ("F16", "BF16", "F32", "F64")  # safetensors' names of the precisions that are read as they are
# Tables of whole numbers or truth values that old transformers saved beside the weights: masks and positions.
TABLES = re.compile(r"(^|\.)(position_ids|token_type_ids|(attn|attention)\.bias)$")
SETTING = "quantization_config"
REMEDY = "Use the original weights, or dequantise the model (transformers' model.dequantize()) and save it again."


def check_plain(folder: Path, name: str) -> None:
    """Look at a folder's settings and at the headers of its weight files.

    Files that cannot be read are left to the loading itself, which says so.

    Raises:
        ValueError: settings of quantised weights, or a weight that is no floating-point number of 16 bits or more.
    """
    try:
        settings = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = None
    if isinstance(settings, dict):
        _check_settings(settings, name)
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safetensors.safe_open(file, "pt") as weights:
                dtypes = {key: weights.get_slice(key).get_dtype() for key in weights.keys()}
        except (OSError, safetensors.SafetensorError):
            continue
        for key, dtype in dtypes.items():
            if dtype not in PLAIN and not TABLES.search(key):
                raise ValueError(
                    f"the weights of {name} must be numbers in {', '.join(PLAIN)}; {key} in {file.name} is in {dtype}, "
                    f"as of a quantised model. {REMEDY}"
                )


def check_configuration(config: transformers.PreTrainedConfig, name: str) -> None:
    """Raise ValueError on a configuration of quantised weights: that of a hub name, whose files are not here yet."""
    _check_settings(config.to_dict(), name)


def _check_settings(settings: Mapping[str, object], name: str) -> None:
    """Raise ValueError on settings of quantised weights, of the whole model or of a part such as its text model."""
    for part in (settings, *(value for value in settings.values() if isinstance(value, dict))):
        setting = part.get(SETTING)
        if setting is not None:
            method = setting.get("quant_method") if isinstance(setting, dict) else None
            raise ValueError(
                f"the weights of {name} must be plain numbers; its config.json has {SETTING}"
                f"{f' with quant_method {method}' if method else ''}. {REMEDY}"
            )
