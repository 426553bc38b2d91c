"""A Hugging Face model with its tokenizer: embeddings, hidden states, end tokens, length limit."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor

from ..cost import ModelSize
from ..types import Messages
from . import architecture
from .chat_format import end_of_turn, special_ids
from .tokenizers import chat_ids, vocabulary_size

NO_END = -1  # in the settings of transformers: no end token
ROWS = 2**14  # embedding rows that are computed together


@dataclasses.dataclass
class BatchLimits:
    """Size limits of a model's batches; `engine.batching` lowers them when memory runs out.

    Attributes:
        tokens: tokens of one forward pass, padding included.
        rows: sequences decoded together; more rows only move more of the cache per step.
    """

    tokens: int = 16_384
    rows: int = 512


class LanguageModel:
    """A Hugging Face model with its tokenizer and chat template; base of policy and reward model.

    The constructor leaves the model as it is; `from_pretrained` loads one in eval mode and with frozen parameters.

    Attributes:
        tokenizer: a fast tokenizer with a chat template.
        eos_ids: ids that end a response: the chat template's end-of-turn token first, then those of tokenizer and
            generation settings. The first one is appended to a response that was cut off.
        vocab_size: number of token ids the tokenizer knows. Some families pad the embedding matrix; Gemma 3 has a
            special token for images beyond it, which does not count.
        size: what the model computes per token (see `cost`).
        context: largest number of tokens in a sequence.
        window: number of tokens that sliding attention reaches back; None without sliding layers.
        batch_limits: size limits of this model's batches.

    Raises:
        ValueError: no model or tokenizer of transformers; no transformer that can be served; an adapter that is not
            merged; end tokens that are no row of the embedding matrix.
    """

    def __init__(self, model: torch.nn.Module, tokenizer: transformers.PreTrainedTokenizerBase, name: str):
        check_parts(model, tokenizer, name)
        _check_kind(model, name)
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.limit = architecture.longest_text(model, name)
        self.context = self.limit.tokens
        self.window = architecture.sliding_window(model)
        self.vocab_size = _readable_size(tokenizer, len(model.get_input_embeddings().weight))
        self.eos_ids = _eos_ids(model, tokenizer, name)
        self.size = model_size(model)
        self.batch_limits = BatchLimits()
        self._cache_keyword = architecture.cache_keyword(model.base_model)
        self._scaled: tuple[tuple[Any, ...], Tensor] | None = None

    def __repr__(self) -> str:
        weight = self.model.get_input_embeddings().weight
        precision = str(weight.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({self.name!r}, {self.vocab_size:,} tokens, {precision} on {weight.device})"

    @property
    def embedding(self) -> Float[Tensor, "rows hidden"]:
        """The vectors that token ids are replaced by: the input embedding matrix, scaled if its module scales it."""
        module = self.model.get_input_embeddings()
        if type(module).forward is torch.nn.Embedding.forward:
            return module.weight
        weight = module.weight
        state = (weight.data_ptr(), weight.device, weight.dtype, None if weight.is_inference() else weight._version)
        if self._scaled is None or self._scaled[0] != state:
            with torch.no_grad():
                parts = torch.arange(len(weight), device=weight.device).split(ROWS)
                self._scaled = (state, torch.cat([module(part) for part in parts]))
        return self._scaled[1]

    @property
    def device(self) -> torch.device:
        """The device of the input embeddings."""
        return self.model.get_input_embeddings().weight.device

    @property
    def attention(self) -> str:
        """Transformers' name of the implementation of attention that the model runs with, e.g. "sdpa"."""
        return str(self.model.config.get_text_config()._attn_implementation)

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Return the token ids of a chat up to and including the opening of the assistant's turn."""
        return chat_ids(self.tokenizer, messages)

    def hidden_states(
        self, embeddings: Float[Tensor, "batch seq hidden"], **context: Any
    ) -> Float[Tensor, "batch seq hidden"]:
        """Return the last hidden states for input embeddings, before the output matrix or score head.

        Right padding does not change the states of other tokens because attention is causal.

        Args:
            context: cached prefix (`past_key_values`, mask and positions; see `engine.cached_forward.read`).
        """
        use_cache = "past_key_values" in context
        if use_cache:
            context[self._cache_keyword] = context.pop("past_key_values")
        return self.model.base_model(inputs_embeds=embeddings, use_cache=use_cache, **context).last_hidden_state

    def attention_inputs(
        self, keys: Int[Tensor, "rows width"], queries: Int[Tensor, "rows new"]
    ) -> dict[str, Tensor | dict[str, Tensor]]:
        """Return mask and positions of new tokens after cached ones, as keywords of `hidden_states`.

        Args:
            keys: position of the token in each column of the cache and of the new tokens; -1 for an unused column.
            queries: position of each new token.
        """
        if self.window is None:  # right padding needs no mask: attention is causal
            return {"attention_mask": keys >= 0, "position_ids": queries}
        return {
            "attention_mask": architecture.positional_mask(self.model, keys, queries, self.window),
            "position_ids": queries,
        }

    def check_length(self, prompt_length: int, max_new_tokens: int) -> None:
        """Raise ValueError if prompt and response together exceed the model's context."""
        if prompt_length + max_new_tokens > self.context:
            reason = "" if self.limit.setting == "max_position_embeddings" else f" ({self.limit.setting})"
            raise ValueError(
                f"prompt and response must fit the context of {self.context} tokens{reason} of {self.name}; got a "
                f"prompt of {prompt_length} and max_new_tokens={max_new_tokens}. Shorten the question or lower "
                "max_new_tokens."
            )


def _readable_size(tokenizer: transformers.PreTrainedTokenizerBase, rows: int) -> int:
    """Return the number of token ids; without special tokens after the last row of the matrix that no chat has."""
    size, special = vocabulary_size(tokenizer), special_ids(tokenizer)
    if size <= rows or not set(range(rows, size)) <= special:
        return size
    written = chat_ids(tokenizer, [{"role": "user", "content": "2+3"}])
    ends = [tokenizer.eos_token_id or 0, *_end_of_turn(tokenizer, [])]
    return size if max([*written, *ends]) >= rows else rows


def check_parts(model: object, tokenizer: object, name: str) -> None:
    """Raise ValueError unless these are a model and a tokenizer of transformers, and not their names."""
    for part, given, valid in (
        ("model", model, isinstance(model, torch.nn.Module) and hasattr(model, "config")),
        ("tokenizer", tokenizer, isinstance(tokenizer, transformers.PreTrainedTokenizerBase)),
    ):
        if not valid:
            raise ValueError(
                f"the {part} of {name} must be a {part} of transformers; got {' '.join(repr(given).split())[:100]}. "
                "Use from_pretrained to load both from a folder or hub name."
            )


def checked_ends(ids: object, rows: int, source: str) -> list[int]:
    """Return end tokens as a list of Python integers.

    Tokens that the tokenizer does not know are valid: some families name one among the rows that pad the matrix.

    Args:
        rows: of the embedding matrix.
        source: where they were given, for an error.

    Raises:
        ValueError: no list, or an entry that is no whole number in [0, rows), which no token would ever equal.
    """
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise ValueError(f"{source} must be a list of token ids; got {ids!r}. Write a list; [] for no end token.")
    ends = list(ids)
    for end in ends:
        if isinstance(end, bool) or not isinstance(end, (int, np.integer)) or not 0 <= end < rows:
            raise ValueError(
                f"{source} must be whole numbers from 0 to {rows - 1}, the rows of the embedding matrix; got {end!r}, "
                "which no token ever is. Correct it, or leave it out."
            )
    return [int(end) for end in ends]


def _check_kind(model: torch.nn.Module, name: str) -> None:
    """Raise ValueError on a model whose LoRA adapter is not merged: its layers are elsewhere."""
    if hasattr(model, "peft_type") or getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"a model must have whole weights; {name} ({type(model).__name__}) has a LoRA adapter beside them. Pass "
            "peft.PeftModel.from_pretrained(BASE, ADAPTER).merge_and_unload()."
        )


def model_size(model: torch.nn.Module) -> ModelSize:
    """Return the parameters in matrix products, and what attention computes.

    Embeddings of tokens and positions are looked up, not multiplied; the output matrix or score head counts apart from
    the layers. Of experts those count that a token is sent to.
    """
    head = model.get_output_embeddings() if model.can_generate() else getattr(model, "score", None)
    in_head = head.weight.numel() if head is not None else 0
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return ModelSize(
        layers=_matrix_parameters(model.base_model, config),
        head=in_head,
        attention=config.num_hidden_layers * heads * head_size,
    )


def _matrix_parameters(layers: torch.nn.Module, config: transformers.PreTrainedConfig) -> int:
    """Return the parameters by which a token's hidden states are multiplied, all layers together."""
    looked_up = {id(part.weight) for part in layers.modules() if isinstance(part, torch.nn.Embedding)}
    in_experts, others = 0, 0
    for name, parameter in layers.named_parameters():
        if ".experts." in name:  # one tensor of all experts, with a bias of two dimensions; or a module for each
            is_matrix = parameter.ndim > 2 or (parameter.ndim == 2 and name.endswith(".weight"))
            in_experts += parameter.numel() * is_matrix
        elif parameter.ndim > 1 and id(parameter) not in looked_up:
            others += parameter.numel()
    if in_experts:
        number = getattr(config, "num_local_experts", None) or config.num_experts
        in_experts = in_experts * config.num_experts_per_tok // number
    return others + in_experts


def _eos_ids(model: torch.nn.Module, tokenizer: transformers.PreTrainedTokenizerBase, name: str) -> list[int]:
    """Return the end-of-response ids: the template's end of turn, the tokenizer's, those of the generation settings.

    An id of -1 is transformers' way of naming none.
    """
    config = model.generation_config if model.can_generate() else model.config.get_text_config()
    configured = getattr(config, "eos_token_id", None)
    configured = configured if isinstance(configured, list) else [configured]
    given = [index for index in configured if index is not None and index != NO_END]
    rows = len(model.get_input_embeddings().weight)
    given = checked_ends(given, rows, f"eos_token_id in the {type(config).__name__} of {name}")
    ids = given if tokenizer.eos_token_id is None else [tokenizer.eos_token_id, *given]
    ids = list(dict.fromkeys([*_end_of_turn(tokenizer, ids), *ids]))
    if not ids:
        raise ValueError(
            f"the tokenizer must name an end-of-sequence token; {tokenizer.name_or_path} names none. Set eos_token."
        )
    return ids


def _end_of_turn(tokenizer: transformers.PreTrainedTokenizerBase, ends: Sequence[int]) -> list[int]:
    """Return the token by which the chat template ends an assistant's turn, or nothing if it writes no such token."""
    try:
        closing = end_of_turn(tokenizer)
    except ValueError:  # a policy never reads a finished chat; a reward model refuses such a template
        return []
    return [index for index in closing[:1] if index in ends or index in special_ids(tokenizer)]
