"""Training a scalar reward model: outcome labels, process labels, Bradley-Terry pairs, and a start from a causal LM."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .training import Padded, Schedule, Training


def reward_loss(
    model: torch.nn.Module, blocks: Sequence[Padded], process_weight: float
) -> Float[Tensor, ""]:
    """Binary cross-entropy of the outcome, read at the last token, plus that of every token's process label.

    The process part (is the response right up to here?) shares the score head; it is what lets a small verifier learn
    at all: an outcome label alone says of forty tokens only that one of them is wrong.
    """
    outcome, process, sequences, tokens = [], [], 0, 0
    for block in blocks:
        hidden = model.base_model(input_ids=block.ids, use_cache=False).last_hidden_state
        scores = model.score(hidden)[..., 0]
        rows = torch.arange(len(block.ids), device=scores.device)
        targets = block.labels[rows, block.last]
        outcome.append(functional.binary_cross_entropy_with_logits(scores[rows, block.last], targets, reduction="sum"))
        chosen = block.is_response
        process.append(
            functional.binary_cross_entropy_with_logits(scores[chosen], block.labels[chosen], reduction="sum")
        )
        sequences, tokens = sequences + len(rows), tokens + int(chosen.sum())
    return torch.stack(outcome).sum() / sequences + process_weight * torch.stack(process).sum() / tokens


def pair_loss(model: torch.nn.Module, blocks: Sequence[Padded]) -> Float[Tensor, ""]:
    """Bradley-Terry: -log σ(r(y⁺) - r(y⁻)), averaged over pairs.

    Args:
        blocks: in every block the right response of a pair stands at an even row, the wrong one in the row below it.
    """
    margins = []
    for block in blocks:
        hidden = model.base_model(input_ids=block.ids, use_cache=False).last_hidden_state
        rows = torch.arange(len(block.ids), device=hidden.device)
        scores = model.score(hidden[rows, block.last])[:, 0]
        margins.append(scores[0::2] - scores[1::2])
    return -functional.logsigmoid(torch.cat(margins)).mean()


class RewardTraining(Training):
    """A scalar verifier trained on outcome and process labels."""

    def __init__(self, model: torch.nn.Module, schedule: Schedule, process_weight: float = 1.0):
        super().__init__(model, schedule)
        self.process_weight = process_weight

    def loss(self, blocks: Sequence[Padded]) -> Float[Tensor, ""]:
        return reward_loss(self.model, blocks, self.process_weight)


class PairTraining(Training):
    """A scalar reward model trained on which of two responses to one prompt is right."""

    def loss(self, blocks: Sequence[Padded]) -> Float[Tensor, ""]:
        return pair_loss(self.model, blocks)


def grow(classifier: torch.nn.Module, language_model: torch.nn.Module) -> None:
    """Start a classifier from a shallower causal LM: embedding and layers are copied, deeper ones begin as no-ops.

    A verifier has to compare each token with the model's own prediction of it, which exists only in the last layer one
    position earlier; the added layers are where that comparison can be learnt. What is copied stays frozen: it already
    says what was expected, and a step costs half.
    """
    source, target = language_model.base_model, classifier.base_model
    target.embed_tokens.load_state_dict(source.embed_tokens.state_dict())
    for index, layer in enumerate(target.layers):
        if index < len(source.layers):
            layer.load_state_dict(source.layers[index].state_dict())
        else:
            torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
            torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    for copied in (target.embed_tokens, *target.layers[: len(source.layers)]):
        copied.requires_grad_(False)
