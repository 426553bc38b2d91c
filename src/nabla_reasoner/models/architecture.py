"""Limits and attention of an architecture: longest text, sliding windows, attention masks by position.

Texts of different lengths share the columns of a batch (`engine.cached_forward`), so that a token's column is not its
position. Transformers builds the mask of a sliding window from columns; here it is built from positions.
"""

import inspect
import sys
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Parts of the names of settings that may be numbers of tokens that attention reaches over, and of those that are none.
SPAN_WORDS = ("window", "chunk", "local")
OTHER_WORDS = ("layers", "experts", "pattern", "feed_forward")
SPAN_CHECKED = 300  # largest span that the check at load reads a longer text for
LAYER_TYPES = ("full_attention", "sliding_attention")
# Settings by which some architectures change the product of output matrix and hidden state; 1 or None: no change.
LOGIT_SETTINGS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")


class Limit(NamedTuple):
    """Longest text of a model, and the setting of its config.json that says so."""

    tokens: int
    setting: str


def longest_text(model: torch.nn.Module, name: str) -> Limit:
    """Return the longest text that a model reads correctly in a batch.

    With RoPE of type longrope, the factors of a whole batch depend on its longest text; below the original length all
    texts have the same factors. Of a span of attention that is neither served nor checked at load (see `spans`), texts
    stay below it, where it changes nothing.

    Raises:
        ValueError: the configuration has no largest position (Mamba), or layers without attention over all tokens.
    """
    config = model.config.get_text_config()
    tokens = getattr(config, "max_position_embeddings", None)
    others = sorted(set(getattr(config, "layer_types", None) or ()) - set(LAYER_TYPES))
    if not isinstance(tokens, int) or tokens < 1 or others:
        fault = f"layers of type {', '.join(others)}" if others else f"max_position_embeddings {tokens}"
        raise ValueError(
            f"a model must be a transformer whose config.json names its longest text (max_position_embeddings) and "
            f"whose layers are of type {' or '.join(LAYER_TYPES)}; {name} ({type(model).__name__}) has {fault}. "
            "Use another architecture, e.g. Qwen or Llama."
        )
    limit = Limit(tokens, "max_position_embeddings")
    for settings in _rope_settings(config):
        original = settings.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        if settings.get("rope_type", settings.get("type")) == "longrope" and original and original < limit.tokens:
            limit = Limit(int(original), "longrope's original_max_position_embeddings")
    for setting, span in spans(model).items():
        if SPAN_CHECKED < span < limit.tokens and not (setting == "sliding_window" and _has_sliding_masks(model)):
            limit = Limit(span, setting)
    return limit


def spans(model: torch.nn.Module) -> dict[str, int]:
    """Return the settings that may be numbers of tokens that attention reaches over, by name.

    `sliding_window` has other names too, such as GPT-Neo's `window_size` and Doge's `keep_window_size`.
    """
    settings = model.config.get_text_config().to_dict()
    return {
        name: value
        for name, value in settings.items()
        if type(value) is int
        and value > 0
        and any(word in name for word in SPAN_WORDS)
        and not any(word in name for word in OTHER_WORDS)
    }


def _has_sliding_masks(model: torch.nn.Module) -> bool:
    """Return whether the architecture builds masks of sliding windows; others may have the setting and ignore it."""
    return hasattr(sys.modules[type(model).__module__], "create_sliding_window_causal_mask")


def _rope_settings(config: Any) -> list[dict[str, Any]]:
    """Return the settings of rotary embeddings: one group, or one for each type of layer."""
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    groups = [value for value in settings.values() if isinstance(value, dict)]
    return groups or [settings]


def sliding_window(model: torch.nn.Module) -> int | None:
    """Return the number of tokens that sliding attention reaches back, itself included; None without such layers."""
    config = model.config.get_text_config()
    types = getattr(config, "layer_types", None)
    if types is not None and "sliding_attention" not in types:
        return None
    return getattr(config, "sliding_window", None)


def logit_settings(model: torch.nn.Module) -> list[str]:
    """Return the settings that cap or scale a causal LM's logits, e.g. "final_logit_softcapping=30.0"."""
    config = model.config.get_text_config()
    values = {name: getattr(config, name, None) for name in LOGIT_SETTINGS}
    return [f"{name}={value}" for name, value in values.items() if value is not None and value != 1]


def cache_keyword(module: torch.nn.Module) -> str:
    """Return the keyword of `forward` that takes the key-value cache; transformers 5.24 renamed it to `cache`."""
    parameters = inspect.signature(module.forward).parameters
    return "cache" if "cache" in parameters and "past_key_values" not in parameters else "past_key_values"


def positional_mask(
    model: torch.nn.Module, keys: Int[Tensor, "rows width"], queries: Int[Tensor, "rows new"], window: int
) -> Tensor | dict[str, Tensor]:
    """Return the attention mask of a model with sliding layers, by position and not by column.

    Args:
        keys: position of the token in each column; -1 for an unused column.
        queries: position of each new token.
        window: see `sliding_window`.

    Returns:
        The mask [rows, 1, new, width] of sliding layers; by type of layer if the model has several types.
    """
    columns, rows = keys[:, None, None, :], queries[:, None, :, None]
    causal = (columns >= 0) & (columns <= rows)
    sliding = causal & (rows - columns < window)
    masks = {"full_attention": causal, "sliding_attention": sliding}
    if model.config.get_text_config()._attn_implementation == "eager":  # adds the mask to the scores
        masks = {kind: _additive(mask, model.dtype) for kind, mask in masks.items()}
    has_types = getattr(model.config.get_text_config(), "layer_types", None) is not None
    return masks if has_types else masks["sliding_attention"]


def _additive(mask: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
