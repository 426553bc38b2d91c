"""Policy and reward model over Hugging Face models."""

import copy
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from ..types import Messages
from .backbone import BatchLimits, LanguageModel, check_parts, checked_ends, model_size
from .chat_format import ChatFormat, check_layout, keeps_thinking, read_format, special_ids
from .forward_check import check_forward
from .loading import load, refusing
from .pairs import check_pair, read_opening, same_ids
from .response_texts import ResponseTexts
from .reward_texts import check_written_tokens, read_suffix

__all__ = ["REWARD_MODEL_CLASSES", "BatchLimits", "LanguageModel", "Policy", "RewardModel", "TextScores", "model_size"]

REWARD_MODEL_CLASSES = {
    "classifier": transformers.AutoModelForSequenceClassification,
    "token_classifier": transformers.AutoModelForTokenClassification,
    "likelihood": transformers.AutoModelForCausalLM,
}
LABELS = {"classifier": (1,), "token_classifier": (1, 2)}  # numbers of labels that a score can be read from
KEPT_POLICIES = 8  # for which a reward is kept as it reads them; a tokenizer is tens of megabytes


class Policy(LanguageModel):
    """A causal language model π(y|x), over an `AutoModelForCausalLM`.

    Args:
        eos_ids: overrides the end-of-response ids of tokenizer and model; empty for responses without an end. Each
            is a row of the embedding matrix.

    Attributes:
        vocab_size: as in `LanguageModel`; the logits of padding rows are left out of every distribution.
        head: the output matrix as a module.
        texts: how its tokens are written as text.

    Raises:
        ValueError: a model without an output matrix, or a matrix with fewer rows than the tokenizer has tokens; end
            tokens that are no rows.
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
            self.eos_ids = checked_ends(eos_ids, len(model.get_input_embeddings().weight), f"eos_ids of {name}")
        self.texts = ResponseTexts.of(tokenizer)
        self.head = model.get_output_embeddings()
        if self.head is None:
            raise ValueError(
                f"a language model must have an output matrix; {name} ({type(model).__name__}) has none. "
                "Use a model of transformers.AutoModelForCausalLM, or Policy.from_pretrained."
            )
        rows = min(len(module.weight) for module in (model.get_input_embeddings(), self.head))
        if rows < self.vocab_size:
            raise ValueError(
                f"a model's matrices must have a row for each token; {name} has {rows:,} rows for the "
                f"{self.vocab_size:,} tokens of its tokenizer. Use its own tokenizer, or resize_token_embeddings."
            )

    @classmethod
    def from_pretrained(cls, name_or_path: str, device: str | torch.device = "cpu", dtype: str = "float32") -> "Policy":
        """Load a policy from a folder or from the hub, in eval mode and with frozen parameters.

        Raises:
            ValueError: as `loading.load` and `forward_check.check_forward`.
        """
        model, tokenizer = load(transformers.AutoModelForCausalLM, name_or_path, device, dtype)
        with refusing(str(name_or_path), model):
            policy = cls(model, tokenizer, str(name_or_path))
            policy.check_forward()
        return policy

    def check_forward(self) -> None:
        """Raise ValueError unless our way of running the model gives its own logits."""
        check_forward(self, self.logits)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens without special tokens."""
        return self.texts.plain(token_ids)

    def response_text(self, token_ids: Sequence[int]) -> str:
        """Return the text of a response, with the marks of its think blocks."""
        return self.texts.response(token_ids)

    def logits(self, hidden: Float[Tensor, "*shape hidden"]) -> Float[Tensor, "*shape vocab"]:
        """Return next-token logits z over the tokenizer's vocabulary."""
        return self.head(hidden)[..., : self.vocab_size]


@runtime_checkable
class TextScores(Protocol):
    """Another engine that runs the model of a likelihood reward."""

    def __call__(self, reward: "RewardModel", texts: Sequence[list[int]], firsts: Sequence[int]) -> list[float]:
        """Return the log-likelihood of each text's tokens from index `first` on, in nats."""
        ...


class RewardModel(LanguageModel):
    """A reward r(y|x), differentiable in the response's tokens.

    Kind "classifier" (the paper's): the score of a one-label `AutoModelForSequenceClassification` at the last token of
    the formatted chat. Kind "likelihood": Σ_l log π_strong(y_l|y_<l, x), the response's log-likelihood in nats under a
    stronger causal LM of the same vocabulary. If `reference` is given, its log-likelihood is subtracted. Kind
    "token_classifier": the score of an `AutoModelForTokenClassification` (what TRL's `PRMTrainer` writes) at the
    end-of-turn token. With two labels it is the difference of their logits, log p(label 1) - log p(label 0).
    The reward r(y_≤l|x) of a prefix of a response is the score at token l, or its log-likelihood.

    The text that it reads is its own chat template's for the finished chat, whatever end token a policy draws. A
    log-likelihood is read up to that token. If the template closes an answer with nothing, the tokenizer's is read.

    Attributes:
        parameters: as in `LanguageModel`, the reference model's included.
        strong: the stronger causal LM as a `Policy`; None for a model with a score head.
        suffix_ids: tokens the chat template writes after the end-of-turn token, up to the last that is no padding
            token: there a sequence classifier's own forward reads the score. Only kind "classifier" reads them.
        text_scores: another engine that scores whole responses; None: this model does. Gradients are always its own.
        replaced_ends: end tokens that are read as `eos_ids[0]`: special ones of its own settings and, in what
            `for_policy` returns, those of the policy.
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
        check_parts(model, tokenizer, name)
        if kind in LABELS and not hasattr(model, "score"):
            raise ValueError(
                f"a {kind} reward must have a score head named `score`; {name} ({type(model).__name__}) has none. "
                f"Use a model of transformers.{REWARD_MODEL_CLASSES[kind].__name__}, e.g. of Qwen or Llama, "
                "or kind='likelihood'."
            )
        if reference is not None and not isinstance(reference, Policy):
            raise ValueError(
                f"reference must be a Policy; got {' '.join(repr(reference).split())[:100]}. "
                "Use Policy.from_pretrained to load it."
            )
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
        self.text_scores: TextScores | None = None
        self.strong = Policy(model, tokenizer, name) if kind == "likelihood" else None
        if reference is not None:
            self.size = self.size.plus(reference.size)
            if not same_ids(tokenizer, reference):
                raise ValueError(
                    f"a reward and its reference must share one vocabulary; got {len(tokenizer.get_vocab()):,} "
                    f"({name}) and {len(reference.tokenizer.get_vocab()):,} tokens ({reference.name}) that do not "
                    "agree. Choose a reference model of the same family."
                )
        self.format = self._written = self._read_format()
        self.suffix_ids = read_suffix(self, self.format.closing) if kind == "classifier" else []
        check_written_tokens(self, self.format.closing)
        self._keeps_thinking = keeps_thinking(tokenizer)
        self._special_ids = special_ids(tokenizer)
        self._template = tokenizer.chat_template  # of which all of these were read
        self.replaced_ends = self._foreign_ends(self.eos_ids)
        self._by_policy: list[tuple[transformers.PreTrainedTokenizerBase, list[int], RewardModel]] = []

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        kind: str = "classifier",
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        reference: str | None = None,
    ) -> "RewardModel":
        """Load a reward model from a folder or from the hub, in eval mode and with frozen parameters.

        Args:
            reference: folder or hub name of the reference model of a likelihood reward.

        Raises:
            ValueError: as `Policy.from_pretrained`; unknown kind; more labels than the kind can have; a reference
                model of another vocabulary; a chat template that does not close an answer with its end token at once.
        """
        _check_kind(kind)
        model, tokenizer = load(REWARD_MODEL_CLASSES[kind], name_or_path, device, dtype)
        reference_model = Policy.from_pretrained(reference, device, dtype) if reference else None
        with refusing(str(name_or_path), model):
            reward = cls(model, tokenizer, str(name_or_path), kind, reference_model)
            reward.check_forward()
        return reward

    def check_forward(self) -> None:
        """Raise ValueError unless our way of running the model gives its own scores or logits."""
        if self.strong is not None:
            self.strong.check_forward()
        else:
            check_forward(self, lambda hidden: self.head_scores(hidden)[:, None], scores=True)

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Return the token ids of a chat up to the assistant's answer, as the template writes the finished chat."""
        if [message["role"] for message in messages] != ["user"]:  # of single questions this is known since the load
            try:
                check_layout(self.tokenizer, messages, self._written)
            except ValueError as error:
                raise ValueError(f"the reward model {self.name} cannot read this chat: {error}") from error
        ids = super().prompt_ids(messages)
        return ids[: len(ids) - self.format.dropped] + self.format.opening

    def check_length(self, prompt_length: int, max_new_tokens: int) -> None:
        """Raise ValueError if prompt, response and the tokens that close it exceed the context of reward or reference.

        Args:
            prompt_length: number of tokens of this model's own prompt.
        """
        closing = 1 + len(self.suffix_ids)
        for model in (self, self.reference):
            if model is not None and prompt_length + max_new_tokens + closing > model.context:
                raise ValueError(
                    f"what the reward model reads must fit the context of {model.context} tokens "
                    f"({model.limit.setting}) of {model.name}; got a prompt of {prompt_length}, max_new_tokens="
                    f"{max_new_tokens} and {closing} to close the answer. Shorten the question, lower max_new_tokens, "
                    "or choose another reward model."
                )

    def for_policy(self, policy: Policy) -> "RewardModel":
        """Return this reward as it reads the responses of one policy, whatever policies it has served before.

        The policy's end tokens are noted: a response that ends with one is read with this model's own end token.

        Raises:
            ValueError: a token of the policy with another id here, as both models must read the same ids; a policy that
                may write a think block which this model's template drops, or before which it writes another; a chat
                template that was replaced since this reward was made.
        """
        if self.tokenizer.chat_template != self._template:
            raise ValueError(
                f"the chat template of {self.name} must stay as it was when the reward was made; it was replaced. Make "
                "a new RewardModel of the model and the tokenizer."
            )
        for tokenizer, ends, reward in self._by_policy:
            if tokenizer is policy.tokenizer and ends == policy.eos_ids:
                return reward
        check_pair(policy, self, self._written.opening, self._keeps_thinking)
        reward = copy.copy(self)
        reward.format = self._written._replace(opening=read_opening(policy, self._written.opening))
        reward.replaced_ends = self._foreign_ends([*self.eos_ids, *policy.eos_ids])
        self._by_policy.append((policy.tokenizer, list(policy.eos_ids), reward))
        del self._by_policy[:-KEPT_POLICIES]
        return reward

    def scored_by(self, text_scores: TextScores) -> "RewardModel":
        """Return this reward with whole responses scored by another engine.

        Raises:
            ValueError: a classifier, or a likelihood reward with a reference model: two models would be needed.
        """
        if self.strong is None or self.reference is not None:
            having = f"kind={self.kind}" if self.strong is None else f"the reference model {self.reference.name}"
            raise ValueError(
                f"only a likelihood reward without a reference model can be scored by a server; {self.name} has "
                f"{having}. Leave reward_server=... out, or choose another reward."
            )
        reward = copy.copy(self)
        reward.text_scores, reward._by_policy = text_scores, []
        return reward

    @property
    def has_score_head(self) -> bool:
        """Whether r is the score of a head on the last hidden state, and not a log-likelihood."""
        return self.strong is None

    def head_scores(self, hidden: Float[Tensor, "batch hidden"]) -> Float[Tensor, " batch"]:
        """Return a classifier's score at one position per sequence."""
        scores = self.model.score(hidden)
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return scores[:, 0] if scores.shape[1] == 1 else wide[:, 1] - wide[:, 0]

    def _foreign_ends(self, ids: Sequence[int]) -> frozenset[int]:
        """Return the end tokens that are not this model's end of turn, nor ordinary tokens that end its responses."""
        return frozenset(i for i in ids if i != self.eos_ids[0] and (i in self._special_ids or i not in self.eos_ids))

    def _read_format(self) -> ChatFormat:
        try:
            chat_format = read_format(self.tokenizer)
        except ValueError as error:
            raise ValueError(f"the reward model {self.name} cannot be used: {error}") from error
        open_ended = self.kind == "likelihood" and not chat_format.closing  # nothing of the template is left out
        if chat_format.closing[:1] != self.eos_ids[:1] and not open_ended:
            raise ValueError(
                f"a {self.kind} reward's chat template must close an answer with a special end token and write nothing "
                f"before it; that of {self.name} closes an answer with "
                f"{self.tokenizer.decode(chat_format.closing)!r}. Correct chat_template."
            )
        return chat_format


def _check_kind(kind: str) -> None:
    if kind not in REWARD_MODEL_CLASSES:
        raise ValueError(f"reward kind must be one of {', '.join(REWARD_MODEL_CLASSES)}; got {kind!r}.")
