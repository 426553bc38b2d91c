"""What a GenerationConfig asks for: settings that are honoured, and refusals by name of all that cannot be.

Honoured are max_new_tokens, do_sample, temperature, top_p, top_k, num_return_sequences, eos_token_id and pad_token_id.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import transformers
from transformers import GenerationConfig
from transformers.generation import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..engine.sampling import Sampling

HONORED = {
    "max_new_tokens",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "num_return_sequences",
    "eos_token_id",
    "pad_token_id",
}
WITHOUT_EFFECT = {  # on what is generated from one causal language model without beams
    "max_length",  # max_new_tokens, which is needed here, wins over it in transformers too
    "bos_token_id",
    "early_stopping",
    "length_penalty",
    "use_cache",
    "cache_config",
    "max_cache_len",
    "compile_config",
    "disable_compile",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "target_lookbehind",
    "transformers_version",
}
NEUTRAL = {  # values besides None and False that ask for nothing
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "min_p": 0.0,
    "top_h": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "guidance_scale": 1.0,
    "cache_implementation": "dynamic",
}
REASONS = {  # arguments of `model.generate` that are refused, and why
    "streamer": "tokens are revised after they were decoded, so that none is final before the end",
    "assistant_model": "the reward model takes part in decoding, an assistant does not",
    "synced_gpus": "every process decodes its own number of steps",
    "prefix_allowed_tokens_fn": "DTO moves logits over the whole vocabulary",
    "negative_prompt_ids": "there is no classifier-free guidance",
    "negative_prompt_attention_mask": "there is no classifier-free guidance",
    "logits_processor": "DTO optimises the policy's own logits",
    "stopping_criteria": "a rollout ends with an end token or at max_new_tokens",
}
OWN_PROCESSORS = (  # made from settings that are honoured here, or from a least length of 0
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
)
OWN_CRITERIA = (MaxLengthCriteria, EosTokenCriteria)


class HonoredSettings(NamedTuple):
    """What is honoured of a GenerationConfig.

    Attributes:
        max_new_tokens: length limit of an answer, >= 1.
        rollout: sampling of rollouts; greedy unless do_sample.
        copies: answers for each prompt, >= 1.
        eos_ids: end tokens, if they are not the model's own; None otherwise.
        pad_id: token that fills rows at their right end; None if the config names none.
    """

    max_new_tokens: int
    rollout: Sampling
    copies: int
    eos_ids: list[int] | None
    pad_id: int | None


def honored_settings(config: GenerationConfig, model: transformers.PreTrainedModel) -> HonoredSettings:
    """Return what a complete config (defaults filled in) asks for.

    Raises:
        ValueError: no max_new_tokens, or a setting that cannot be honoured.
    """
    check_config(config)
    if config.max_new_tokens is None:
        raise ValueError("max_new_tokens must be given, the length limit of an answer. Write e.g. max_new_tokens=512.")
    rollout = Sampling(temperature=0.0)
    if config.do_sample:
        rollout = Sampling(
            temperature=1.0 if config.temperature is None else config.temperature,
            top_p=1.0 if config.top_p is None else config.top_p,
            top_k=config.top_k or 0,
        )
    ends = _ids(config.eos_token_id)
    return HonoredSettings(
        max_new_tokens=config.max_new_tokens,
        rollout=rollout,
        copies=config.num_return_sequences or 1,
        eos_ids=ends if ends and set(ends) != set(_ids(model.generation_config.eos_token_id)) else None,
        pad_id=config.pad_token_id,
    )


def check_config(config: GenerationConfig) -> None:
    """Raise ValueError naming every setting that asks for something that ∇-Reasoner does not do."""
    refused = [
        f"{name}={value!r}"
        for name, value in sorted(vars(config).items())
        if not name.startswith("_")
        and name not in HONORED | WITHOUT_EFFECT
        and not (value is None or value is False or value == NEUTRAL.get(name))
        and not (name == "min_length" and config.min_new_tokens == 0)  # transformers writes the prompt's length there
    ]
    if refused:
        neutral = [f"{name}={NEUTRAL.get(name)}" for name in (item.split("=")[0] for item in refused)]
        raise ValueError(
            f"∇-Reasoner cannot honour {', '.join(refused)} (of the call, or of the model's generation_config.json). "
            f"Pass {', '.join(neutral)}."
        )


def check_arguments(arguments: dict[str, object]) -> None:
    """Raise ValueError naming an argument of `model.generate` that is given and cannot be honoured, with the reason."""
    for name, reason in REASONS.items():
        value = arguments.get(name)
        if value is None or value is False or (isinstance(value, Sequence) and not value):
            continue
        raise ValueError(f"{name} cannot be honoured by ∇-Reasoner: {reason}. Leave it out.")


def check_prepared(processors: Iterable[object], criteria: Iterable[object]) -> None:
    """Raise ValueError on a processor or criterion that `model.generate` did not make from the settings themselves."""
    given = {
        "logits_processor": [item for item in processors if type(item) not in OWN_PROCESSORS],
        "stopping_criteria": [item for item in criteria if type(item) not in OWN_CRITERIA],
    }
    check_arguments(given)


def _ids(value: int | list[int] | torch.Tensor | None) -> list[int]:
    """Return token ids as a list, in whatever form a config has them."""
    if value is None:
        return []
    return torch.as_tensor(value).flatten().tolist()
