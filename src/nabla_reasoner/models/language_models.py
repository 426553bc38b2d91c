"""Policy and reward model: ordinary Hugging Face models behind the few operations the method needs."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from ..types import Messages

KINDS = ("classifier", "likelihood")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


class Policy:
    """A causal language model π(y|x) with its tokenizer and chat template.

    Attributes:
        model: the `AutoModelForCausalLM`, in eval mode, parameters frozen.
        tokenizer: its fast tokenizer; must have a chat template.
        vocab_size: number of token ids the tokenizer knows. Output rows beyond it (padding of the embedding matrix in
            some families) take no part in any distribution.
        eos_ids: ids that end a response; the first is used where one has to be written.
        parameters: number of parameters that take part in matrix products (see `cost`).
    """

    def __init__(self, model: torch.nn.Module, tokenizer: Any, name: str):
        self.model, self.tokenizer, self.name = model.eval().requires_grad_(False), tokenizer, name
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1
        self.eos_ids = _eos_ids(model, tokenizer)
        self.parameters = matmul_parameters(model)
        self.embedding = model.get_input_embeddings().weight
        self.head = model.get_output_embeddings()
        self.context = model.config.max_position_embeddings

    @classmethod
    def from_pretrained(cls, name_or_path: str, device: str = "cpu", dtype: str = "float32") -> "Policy":
        """Load a policy from a folder or from the hub.

        Raises:
            ValueError: missing folder, damaged weights, no chat template, unknown dtype, or a model whose logits are
                not its output matrix applied to its last hidden state (such models need their own code here).
        """
        model, tokenizer = _load(transformers.AutoModelForCausalLM, name_or_path, device, dtype)
        policy = cls(model, tokenizer, str(name_or_path))
        policy._check_head()
        return policy

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Token ids of a chat up to and including the opening of the assistant's turn."""
        return _prompt_ids(self.tokenizer, messages)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a response, special tokens left out."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def hidden_states(
        self, embeddings: Float[Tensor, "batch seq hidden"], **context: Any
    ) -> Float[Tensor, "batch seq hidden"]:
        """Last hidden states, ahead of the output matrix; right padding is harmless because attention is causal.

        Args:
            context: what the model read before (`past_key_values`, with mask and positions; see `cache.read`).
        """
        return _hidden_states(self.model, embeddings, context)

    def logits(self, hidden: Float[Tensor, "*shape hidden"]) -> Float[Tensor, "*shape vocab"]:
        """Next-token logits z over the tokenizer's vocabulary."""
        return self.head(hidden)[..., : self.vocab_size]

    def check_length(self, prompt_length: int, max_new_tokens: int) -> None:
        """Raise ValueError when prompt and response together exceed the model's context."""
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


class RewardModel:
    """A reward r(y|x), differentiable in the response's tokens.

    kind "classifier": a scalar head on a language model (`AutoModelForSequenceClassification`, one label), read at the
    last token of the formatted chat; the paper's kind. kind "likelihood": Σ_l log π_strong(y_l|y_<l, x), the response's
    log-likelihood in nats under a stronger causal LM of the same vocabulary, minus that under `reference` when given.

    Attributes:
        scorer: the model whose embedding the response's tokens enter.
        suffix_ids: tokens the chat template writes after the end-of-turn token (read by a classifier only).
    """

    def __init__(self, model: torch.nn.Module, tokenizer: Any, name: str, kind: str, reference: Policy | None = None):
        if kind not in KINDS:
            raise ValueError(f"reward kind must be one of {', '.join(KINDS)}; got {kind!r}.")
        if kind == "classifier" and model.config.num_labels != 1:
            raise ValueError(f"a classifier reward must have one label; {name} has {model.config.num_labels}.")
        if reference is not None and kind != "likelihood":
            raise ValueError("a reference model goes with kind='likelihood' only; drop reference or change kind.")
        self.model, self.tokenizer, self.name, self.kind = model.eval().requires_grad_(False), tokenizer, name, kind
        self.reference = reference
        self.strong = Policy(model, tokenizer, name) if kind == "likelihood" else None
        self.embedding = model.get_input_embeddings().weight
        self.parameters = matmul_parameters(model) + (reference.parameters if reference else 0)
        self.eos_ids = _eos_ids(model, tokenizer)
        self.suffix_ids = _suffix_ids(tokenizer, self.eos_ids[0]) if kind == "classifier" else []
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
        """Load a reward model from a folder or from the hub.

        Raises:
            ValueError: as `Policy.from_pretrained`; unknown kind; a classifier with more than one label.
        """
        if kind not in KINDS:
            raise ValueError(f"reward kind must be one of {', '.join(KINDS)}; got {kind!r}.")
        auto = (
            transformers.AutoModelForSequenceClassification
            if kind == "classifier"
            else transformers.AutoModelForCausalLM
        )
        model, tokenizer = _load(auto, name_or_path, device, dtype)
        baseline = Policy.from_pretrained(reference, device, dtype) if reference else None
        return cls(model, tokenizer, str(name_or_path), kind, baseline)

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Token ids of a chat up to the opening of the assistant's turn, by the reward model's own template."""
        return _prompt_ids(self.tokenizer, messages)

    def check_vocabulary(self, policy: Policy) -> None:
        """Raise ValueError unless every token of the policy has the same id here (ids pass between the two models)."""
        if id(policy) in self._checked:
            return
        mine, theirs = self.tokenizer.get_vocab(), policy.tokenizer.get_vocab()
        if any(mine.get(token) != index for token, index in theirs.items()) or len(self.embedding) < policy.vocab_size:
            raise ValueError(
                f"policy and reward must share one vocabulary; got {len(theirs):,} ({policy.name}) and {len(mine):,} "
                f"tokens ({self.name}) that do not agree. Choose a reward model of the same family."
            )
        self._checked.add(id(policy))

    def hidden_states(
        self, embeddings: Float[Tensor, "batch seq hidden"], **context: Any
    ) -> Float[Tensor, "batch seq hidden"]:
        """Last hidden states of the scorer for input embeddings; as `Policy.hidden_states`."""
        return _hidden_states(self.model, embeddings, context)

    def head_scores(self, hidden: Float[Tensor, "batch hidden"]) -> Float[Tensor, " batch"]:
        """A classifier's raw score at one position per sequence."""
        return self.model.score(hidden)[:, 0]


def _hidden_states(model: torch.nn.Module, embeddings: Tensor, context: dict[str, Any]) -> Tensor:
    use_cache = "past_key_values" in context
    return model.base_model(inputs_embeds=embeddings, use_cache=use_cache, **context).last_hidden_state


def matmul_parameters(model: torch.nn.Module) -> int:
    """Parameters that take part in a matrix product: all but an input embedding that is not also the output matrix."""
    count = sum(parameter.numel() for parameter in model.parameters())
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    return count if head is not None and head.weight is embedding.weight else count - embedding.weight.numel()


def _load(auto: Any, name_or_path: str, device: str, dtype: str) -> tuple[torch.nn.Module, Any]:
    name = str(name_or_path)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} needs an NVIDIA GPU and a CUDA build of torch; none is here. Use device=cpu."
        )
    if (name.startswith((".", "/", "~")) or name.count("/") != 1) and not Path(name, "config.json").is_file():
        raise ValueError(f"a model must be a hub name or a folder with a config.json; got {name!r}. Check the path.")
    tokenizer = load_tokenizer(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers' notices on unused generation settings
            model = auto.from_pretrained(name, dtype=DTYPES[dtype]).to(device)
            if dtype == "float64":
                _widen_norms(model)
    except Exception as error:  # safetensors, hub and torch each raise types of their own for damaged or missing files
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"the weights of {name} cannot be read: {first_line}. Fetch or retrain the model.") from error
    return model, tokenizer


def _widen_norms(model: torch.nn.Module) -> None:
    """Let float64 be float64: transformers' RMSNorm computes in float32 whatever its input, torch's does not."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module).__name__.endswith("RMSNorm") and not isinstance(module, torch.nn.RMSNorm):
                norm = torch.nn.RMSNorm(module.weight.shape, eps=module.variance_epsilon)
                norm.weight = module.weight
                setattr(parent, name, norm)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model folder or hub name; it must have a chat template.

    A folder's own `tokenizer.json` is taken as it stands: through AutoTokenizer some architectures rebuild it with
    their family's pre-tokenizer, and the ids change.
    """
    try:
        if Path(name, "tokenizer.json").is_file():
            tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(name)
        else:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    except Exception as error:
        raise ValueError(f"the tokenizer of {name} cannot be read: {str(error).splitlines()[0]}.") from error
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer must have a chat template; that of {name} has none. Set tokenizer.chat_template."
        )
    return tokenizer


def _prompt_ids(tokenizer: Any, messages: Messages) -> list[int]:
    return list(
        tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True, return_dict=False)
    )


def _eos_ids(model: torch.nn.Module, tokenizer: Any) -> list[int]:
    """End-of-response ids: the tokenizer's first, then those of the generation settings."""
    configured = (model.generation_config if model.can_generate() else model.config).eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    ids = [index for index in [tokenizer.eos_token_id, *configured] if index is not None]
    if not ids:
        raise ValueError(f"the tokenizer must name an end-of-sequence token; {tokenizer.name_or_path} names none.")
    return list(dict.fromkeys(ids))


def _suffix_ids(tokenizer: Any, eos: int) -> list[int]:
    """Tokens that the chat template writes after a finished assistant turn's end token, e.g. a line break."""
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids = list(tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False))
    return ids[len(ids) - ids[::-1].index(eos) :] if eos in ids else []
