"""Policy and reward model over Hugging Face models."""

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from ..types import Messages
from .tokenizers import chat_ids, load_tokenizer, suffix_ids, vocabulary_size

REWARD_MODEL_CLASSES = {
    "classifier": transformers.AutoModelForSequenceClassification,
    "token_classifier": transformers.AutoModelForTokenClassification,
    "likelihood": transformers.AutoModelForCausalLM,
}
LABELS = {"classifier": (1,), "token_classifier": (1, 2)}  # numbers of labels that a score can be read from
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


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
        eos_ids: ids that end a response; the first one is appended to a response that was cut off.
        parameters: number of parameters that take part in matrix products (see `cost`).
        embedding: the input embedding matrix.
        batch_limits: size limits of this model's batches.
    """

    def __init__(self, model: torch.nn.Module, tokenizer: transformers.PreTrainedTokenizerBase, name: str):
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.eos_ids = _eos_ids(model, tokenizer)
        self.parameters = matmul_parameters(model)
        self.embedding = model.get_input_embeddings().weight
        self.batch_limits = BatchLimits()

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
        return self.model.base_model(inputs_embeds=embeddings, use_cache=use_cache, **context).last_hidden_state


class Policy(LanguageModel):
    """A causal language model π(y|x), over an `AutoModelForCausalLM`.

    Args:
        eos_ids: overrides the end-of-response ids of tokenizer and model; empty for responses without an end.

    Attributes:
        vocab_size: number of token ids the tokenizer knows. Some families pad the embedding matrix; the logits of the
            padding rows are left out of every distribution.
        head: the output matrix as a module.
        context: largest number of tokens in a sequence.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: transformers.PreTrainedTokenizerBase,
        name: str,
        *,
        eos_ids: Sequence[int] | None = None,
    ):
        super().__init__(model, tokenizer, name)
        if eos_ids is not None:
            self.eos_ids = list(eos_ids)
        self.vocab_size = vocabulary_size(tokenizer)
        self.head = model.get_output_embeddings()
        self.context = model.config.max_position_embeddings

    @classmethod
    def from_pretrained(cls, name_or_path: str, device: str = "cpu", dtype: str = "float32") -> "Policy":
        """Load a policy from a folder or from the hub, in eval mode and with frozen parameters.

        Raises:
            ValueError: missing folder, damaged weights, no chat template, unknown dtype, or logits that are not the
                output matrix applied to the last hidden state.
        """
        model, tokenizer = _load(transformers.AutoModelForCausalLM, name_or_path, device, dtype)
        policy = cls(model, tokenizer, str(name_or_path))
        policy._check_head()
        return policy

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of a response without special tokens."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def logits(self, hidden: Float[Tensor, "*shape hidden"]) -> Float[Tensor, "*shape vocab"]:
        """Return next-token logits z over the tokenizer's vocabulary."""
        return self.head(hidden)[..., : self.vocab_size]

    def check_length(self, prompt_length: int, max_new_tokens: int) -> None:
        """Raise ValueError if prompt and response together exceed the model's context."""
        if prompt_length + max_new_tokens > self.context:
            raise ValueError(
                f"prompt and response must fit the context of {self.context} tokens of {self.name}; got a prompt of "
                f"{prompt_length} and max_new_tokens={max_new_tokens}. Shorten the question or lower max_new_tokens."
            )

    def _check_head(self) -> None:
        ids = torch.arange(2, device=self.device)[None]
        with torch.no_grad():
            expected = self.model(input_ids=ids).logits[..., : self.vocab_size]
            actual = self.logits(self.hidden_states(self.embedding[ids]))
        if not torch.allclose(actual, expected, rtol=1e-2, atol=1e-2):
            raise ValueError(
                f"a policy's logits must be its output matrix applied to its last hidden state; {self.name} "
                f"({type(self.model).__name__}) scales or caps them. Use a Qwen-, Llama- or Mistral-like model."
            )


class RewardModel(LanguageModel):
    """A reward r(y|x), differentiable in the response's tokens.

    Kind "classifier" (the paper's): the score of a one-label `AutoModelForSequenceClassification` at the last token of
    the formatted chat. Kind "likelihood": Σ_l log π_strong(y_l|y_<l, x), the response's log-likelihood in nats under a
    stronger causal LM of the same vocabulary. If `reference` is given, its log-likelihood is subtracted. Kind
    "token_classifier": the score of an `AutoModelForTokenClassification` (what TRL's `PRMTrainer` writes) at the
    end-of-turn token. With two labels it is the difference of their logits, log p(label 1) - log p(label 0).
    The reward r(y_≤l|x) of the beginning of a response is the score at token l, or its log-likelihood.

    Attributes:
        parameters: as in `LanguageModel`, the reference model's included.
        strong: the stronger causal LM as a `Policy`; None for a model with a score head.
        suffix_ids: tokens the chat template writes after the end-of-turn token; only kind "classifier" reads them.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: transformers.PreTrainedTokenizerBase,
        name: str,
        kind: str,
        reference: Policy | None = None,
    ):
        _check_kind(kind)
        if kind in LABELS and model.config.num_labels not in LABELS[kind]:
            allowed = "one or two labels" if 2 in LABELS[kind] else "one label"
            raise ValueError(
                f"a {kind} reward must have {allowed}; {name} has {model.config.num_labels}. "
                f"Choose a model with {allowed} or kind='likelihood'."
            )
        if reference is not None and kind != "likelihood":
            raise ValueError(
                f"a reference model needs kind='likelihood'; got kind={kind!r}. Drop reference or change kind."
            )
        super().__init__(model, tokenizer, name)
        self.kind = kind
        self.reference = reference
        if reference is not None:
            self.parameters += reference.parameters
        self.strong = Policy(model, tokenizer, name) if kind == "likelihood" else None
        self.suffix_ids = suffix_ids(tokenizer, self.eos_ids[0]) if kind == "classifier" else []
        self._checked: set[int] = set()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        kind: str = "classifier",
        device: str = "cpu",
        dtype: str = "float32",
        reference: str | None = None,
    ) -> "RewardModel":
        """Load a reward model from a folder or from the hub, in eval mode and with frozen parameters.

        Args:
            reference: folder or hub name of the reference model of a likelihood reward.

        Raises:
            ValueError: as `Policy.from_pretrained`; unknown kind; more labels than the kind can have.
        """
        _check_kind(kind)
        model, tokenizer = _load(REWARD_MODEL_CLASSES[kind], name_or_path, device, dtype)
        reference_model = Policy.from_pretrained(reference, device, dtype) if reference else None
        return cls(model, tokenizer, str(name_or_path), kind, reference_model)

    def check_vocabulary(self, policy: Policy) -> None:
        """Raise ValueError unless every token of the policy has the same id here: both models read the same ids."""
        if id(policy) in self._checked:
            return
        ids, policy_ids = self.tokenizer.get_vocab(), policy.tokenizer.get_vocab()
        differ = any(ids.get(token) != index for token, index in policy_ids.items())
        if differ or len(self.embedding) < policy.vocab_size:
            raise ValueError(
                f"policy and reward must share one vocabulary; got {len(policy_ids):,} ({policy.name}) "
                f"and {len(ids):,} tokens ({self.name}) that do not agree. Choose a reward model of the same family."
            )
        self._checked.add(id(policy))

    @property
    def has_score_head(self) -> bool:
        """Whether r is the score of a head on the last hidden state, and not a log-likelihood."""
        return self.strong is None

    def head_scores(self, hidden: Float[Tensor, "batch hidden"]) -> Float[Tensor, " batch"]:
        """Return a classifier's score at one position per sequence."""
        scores = self.model.score(hidden)
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return scores[:, 0] if scores.shape[1] == 1 else wide[:, 1] - wide[:, 0]


def _check_kind(kind: str) -> None:
    if kind not in REWARD_MODEL_CLASSES:
        raise ValueError(f"reward kind must be one of {', '.join(REWARD_MODEL_CLASSES)}; got {kind!r}.")


def matmul_parameters(model: torch.nn.Module) -> int:
    """Return the number of parameters in matrix products: all, without an input embedding not tied to the output."""
    count = sum(parameter.numel() for parameter in model.parameters())
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    return count if head is not None and head.weight is embedding.weight else count - embedding.weight.numel()


def _load(
    auto: type, name_or_path: str, device: str, dtype: str
) -> tuple[torch.nn.Module, transformers.PreTrainedTokenizerBase]:
    """Return model, in eval mode and frozen, and tokenizer; see `Policy.from_pretrained` for errors."""
    name = str(name_or_path)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} needs an NVIDIA GPU and a CUDA build of torch; neither was found. Use device=cpu."
        )
    if (name.startswith((".", "/", "~")) or name.count("/") != 1) and not Path(name, "config.json").is_file():
        raise ValueError(f"a model must be a hub name or a folder with a config.json; got {name!r}. Check the path.")
    tokenizer = load_tokenizer(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers' notices on unused generation settings
            model = auto.from_pretrained(name, dtype=DTYPES[dtype]).to(device)
            if dtype == "float64":
                _replace_norms(model)
    except Exception as error:  # safetensors, hub and torch each raise their own types for damaged or missing files
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the weights of {name} cannot be read: {first_line}. Fetch or retrain the model.") from error
    return model.eval().requires_grad_(False), tokenizer


def _replace_norms(model: torch.nn.Module) -> None:
    """Replace transformers' RMSNorm, which always computes in float32, by torch's, which keeps float64."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module).__name__.endswith("RMSNorm") and not isinstance(module, torch.nn.RMSNorm):
                norm = torch.nn.RMSNorm(module.weight.shape, eps=module.variance_epsilon)
                norm.weight = module.weight
                setattr(parent, name, norm)


def _eos_ids(model: torch.nn.Module, tokenizer: transformers.PreTrainedTokenizerBase) -> list[int]:
    """Return the end-of-response ids: the tokenizer's first, then those of the generation settings."""
    configured = (model.generation_config if model.can_generate() else model.config).eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    ids = [index for index in [tokenizer.eos_token_id, *configured] if index is not None]
    if not ids:
        raise ValueError(
            f"the tokenizer must name an end-of-sequence token; {tokenizer.name_or_path} names none. Set eos_token."
        )
    return list(dict.fromkeys(ids))
