"""Models with random weights, of a given shape."""

from typing import Any

import torch
import transformers
from omegaconf import DictConfig

from .language_models import Policy, RewardModel
from .tokenizers import word_tokenizer


def build_model(architecture: DictConfig, tokenizer: transformers.PreTrainedTokenizerFast, *, classifier: bool):
    """A randomly initialised Hugging Face model of the given shape, with tied embeddings."""
    shape = dict(architecture)
    settings = transformers.AutoConfig.for_model(
        shape.pop("model_type"),
        **shape,
        num_key_value_heads=shape["num_attention_heads"],
        intermediate_size=shape["hidden_size"] * 8 // 3 // 32 * 32,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **({"num_labels": 1} if classifier else {}),
    )
    auto = transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModelForCausalLM
    return auto.from_config(settings)


def random_models(
    policy_shape: dict[str, Any],
    reward_shape: dict[str, Any],
    vocab_size: int,
    kind: str,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Policy, RewardModel]:
    """Policy and reward of given shapes with random weights.

    Args:
        policy_shape, reward_shape: `model_type` and whatever else its configuration takes.
        kind: of the reward, "likelihood" or "classifier".
    """
    tokenizer = word_tokenizer(vocab_size)
    shared = {
        "vocab_size": vocab_size,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }

    def build(shape: dict[str, Any], auto: Any, **more: Any) -> torch.nn.Module:
        settings = {name: value for name, value in shape.items() if name != "model_type"}
        config = transformers.AutoConfig.for_model(shape["model_type"], **settings, **shared, **more)
        torch.manual_seed(0)
        with device:
            return auto.from_config(config, dtype=dtype)

    policy = Policy(build(policy_shape, transformers.AutoModelForCausalLM), tokenizer, "random policy")
    if kind == "classifier":
        scorer = build(reward_shape, transformers.AutoModelForSequenceClassification, num_labels=1)
    else:
        scorer = build(reward_shape, transformers.AutoModelForCausalLM)
    return policy, RewardModel(scorer, tokenizer, "random reward", kind)
