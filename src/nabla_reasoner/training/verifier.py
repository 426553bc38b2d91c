"""Training of token-level verifiers on labels of responses.

Either a score head on a language model, with labels at some or all tokens, or a language model whose log-ratio to its
start is the reward.
"""

import abc
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import transformers
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..engine.numerics import at_least_float32
from ..models.architecture import logit_settings
from ..models.tokenizers import vocabulary_size
from ..models.whole_models import check_language_model, load_whole
from .data import Padded
from .loop import Schedule, Training

NO_LABEL = float("nan")  # label of a response token at which the loss is not taken


def from_language_model(folder: str) -> torch.nn.Module:
    """Return a classifier with one label: a causal LM's weights and a score head of zeros.

    With a head of zeros the first step moves the head only; a random one would first destroy the LM's features.

    Raises:
        ValueError: as `load_whole`; a classifier; a language model whose logits are not its embedding matrix applied to
            its last hidden state (see `verifier_loss`).
    """
    model = load_whole(folder, "SEQ_CLS")
    check_language_model(folder, model.config)
    if not model.config.tie_word_embeddings:
        raise ValueError(f"a verifier's language model must have tied embeddings; got {folder}. Choose another start.")
    if settings := logit_settings(model):
        raise ValueError(
            f"a verifier's language model must not cap or scale its logits; {folder} does ({', '.join(settings)}). "
            "Choose another start."
        )
    torch.nn.init.zeros_(model.score.weight)
    return model


def verifier_loss(
    model: torch.nn.Module, blocks: Sequence[Padded], language_weight: float | int, vocab_size: int
) -> Float[Tensor, ""]:
    """Return the mean binary cross-entropy at the labelled tokens, plus a next-token loss of the right responses.

    Cobbe et al. (arXiv 2110.14168) add the language model's own objective. Here it is taken on those samples whose last
    label is 1, so that it needs no worked solution; logits are the hidden states times the embedding matrix.

    Args:
        blocks: labels in [0, 1] at response tokens, `NO_LABEL` where there is none.
        language_weight: weight of the next-token loss, >= 0; 0 leaves it out.
        vocab_size: number of token ids; further rows of the embedding matrix are padding and take no probability.
    """
    embedding = model.get_input_embeddings().weight[:vocab_size]
    scored, predicted, num_labels, num_targets = [], [], 0, 0
    for block in blocks:
        hidden = model.base_model(input_ids=block.ids, use_cache=False).last_hidden_state
        labelled = block.is_response & ~block.labels.isnan()
        scores = at_least_float32(model.score(hidden[labelled])[:, 0])
        scored.append(functional.binary_cross_entropy_with_logits(scores, block.labels[labelled], reduction="sum"))
        num_labels += len(scores)
        if language_weight > 0:
            is_right = block.labels.gather(1, block.last[:, None]) == 1
            targets = block.is_response[:, 1:] & is_right
            logits = at_least_float32(hidden[:, :-1][targets] @ embedding.T)
            predicted.append(functional.cross_entropy(logits, block.ids[:, 1:][targets], reduction="sum"))
            num_targets += len(logits)
    loss = torch.stack(scored).sum() / num_labels
    return loss + language_weight * torch.stack(predicted).sum() / max(num_targets, 1) if predicted else loss


def ratio_loss(
    model: torch.nn.Module, reference: torch.nn.Module, blocks: Sequence[Padded], scale: float | int, vocab_size: int
) -> Float[Tensor, ""]:
    """Return the mean binary cross-entropy of σ(scale · r) against each response's last label.

    r = Σ_l log π(y_l|y_<l, x) - log π_ref(y_l|y_<l, x). Trained on verdicts alone, its summands are rewards of tokens
    (implicit process rewards, Yuan et al., arXiv 2412.01981).

    Args:
        model, reference: causal LMs; the reference is not trained.
        scale: β > 0 per nat.
        vocab_size: as in `verifier_loss`.
    """
    losses, count = [], 0
    for block in blocks:
        with torch.no_grad():
            before = _log_likelihoods(reference, block, vocab_size)
        log_ratio = _log_likelihoods(model, block, vocab_size) - before
        labels = block.labels.gather(1, block.last[:, None])[:, 0]
        losses.append(functional.binary_cross_entropy_with_logits(scale * log_ratio, labels, reduction="sum"))
        count += len(labels)
    return torch.stack(losses).sum() / count


def _log_likelihoods(model: torch.nn.Module, block: Padded, vocab_size: int) -> Float[Tensor, " batch"]:
    """Return log π of each response in nats."""
    logits = model(input_ids=block.ids, use_cache=False).logits[:, :-1, :vocab_size]
    losses = functional.cross_entropy(logits.transpose(1, 2), block.ids[:, 1:], reduction="none")
    return -(losses * block.is_response[:, 1:]).sum(1)


class CheckpointedTraining(Training, abc.ABC):
    """A training whose weights are also written at given steps.

    Attributes:
        checkpoints: folder by number of optimiser steps; there the weights are written in half precision once so many
            steps are done. A resumed training writes those again that it comes past.
        tokenizer: written beside them.
        vocab_size: number of its token ids, gaps included.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        schedule: Schedule,
        checkpoints: Mapping[int, Path],
        tokenizer: transformers.PreTrainedTokenizerBase,
    ):
        super().__init__(model, schedule)
        self.checkpoints = checkpoints
        self.tokenizer = tokenizer
        self.vocab_size = vocabulary_size(tokenizer)

    def on_train_batch_start(self, batch: list[Padded], batch_idx: int) -> None:
        # Before a step and not after one: Lightning's own checkpoint may already be written when a step ends.
        folder = self.checkpoints.get(self.global_step)
        if folder is not None:
            copy.deepcopy(self.model).eval().to(torch.float16).save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)


class VerifierTraining(CheckpointedTraining):
    """A verifier with a score head in training; `language_weight` as in `verifier_loss`."""

    def __init__(
        self,
        model: torch.nn.Module,
        schedule: Schedule,
        *,
        language_weight: float | int,
        checkpoints: Mapping[int, Path],
        tokenizer: transformers.PreTrainedTokenizerBase,
    ):
        super().__init__(model, schedule, checkpoints, tokenizer)
        self.language_weight = language_weight

    def loss(self, batch: list[Padded]) -> Float[Tensor, ""]:
        return verifier_loss(self.model, batch, self.language_weight, self.vocab_size)


class RatioTraining(CheckpointedTraining):
    """A language model in training whose log-ratio to its start is the reward; `scale` as in `ratio_loss`."""

    def __init__(
        self,
        model: torch.nn.Module,
        schedule: Schedule,
        *,
        scale: float | int,
        checkpoints: Mapping[int, Path],
        tokenizer: transformers.PreTrainedTokenizerBase,
    ):
        super().__init__(model, schedule, checkpoints, tokenizer)
        self.scale = scale
        # in a list, so that Lightning neither trains it nor writes it into checkpoints
        self.reference = [copy.deepcopy(model).eval().requires_grad_(False)]

    def loss(self, batch: list[Padded]) -> Float[Tensor, ""]:
        (reference,) = self.reference
        self.model.eval()  # dropout would part it from the reference
        return ratio_loss(self.model, reference.to(self.device), batch, self.scale, self.vocab_size)
