"""Models with random weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from .language_models import Policy, RewardModel
from .tokenizers import vocabulary_size, word_tokenizer


def build_model(
    shape: Mapping[str, Any],
    tokenizer: transformers.PreTrainedTokenizerBase,
    *,
    classifier: bool = False,
    seed: int | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> transformers.PreTrainedModel:
    """Return a randomly initialised causal LM, or a classifier with one label.

    Args:
        shape: `model_type` and other settings of its configuration; they override the tokenizer's.
        tokenizer: source of `vocab_size`, `eos_token_id` and `pad_token_id`.
        seed: if given, seed of torch's global generator, which the weights are drawn from.
        device: where the weights are made; torch's default device if None.
    """
    settings = {
        "vocab_size": vocabulary_size(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **({"num_labels": 1} if classifier else {}),
        **shape,
    }
    config = transformers.AutoConfig.for_model(**settings)
    auto = transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModelForCausalLM
    if seed is not None:
        torch.manual_seed(seed)
    with device or torch.get_default_device():
        return auto.from_config(config, dtype=dtype)


def write_model(
    folder: str | Path, shape: Mapping[str, Any], tokenizer: transformers.PreTrainedTokenizerBase, **options: Any
) -> None:
    """Write a random model and its tokenizer as a Hugging Face folder; arguments as for `build_model`."""
    build_model(shape, tokenizer, **options).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def random_models(
    policy_shape: Mapping[str, Any],
    reward_shape: Mapping[str, Any],
    vocab_size: int,
    kind: str,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Policy, RewardModel]:
    """Return a frozen policy and reward model with random weights and a vocabulary of `vocab_size` words.

    Args:
        policy_shape, reward_shape: as `shape` in `build_model`.
        kind: the reward's kind, "likelihood" or "classifier".
    """
    tokenizer = word_tokenizer(vocab_size)
    options = {"seed": 0, "device": device, "dtype": dtype}
    policy = build_model(policy_shape, tokenizer, **options)
    reward = build_model(reward_shape, tokenizer, classifier=kind == "classifier", **options)
    for model in (policy, reward):
        model.eval().requires_grad_(False)
    return Policy(policy, tokenizer, "random policy"), RewardModel(reward, tokenizer, "random reward", kind)
