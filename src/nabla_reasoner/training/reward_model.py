"""Training a scalar reward model: outcome labels, process labels, Bradley-Terry pairs, and its head alone."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .data import Padded
from .loop import Schedule, Training

HEAD_DECAY = 1e-3  # squared norm of the head, while it is fitted alone


def reward_loss(model: torch.nn.Module, blocks: Sequence[Padded], process_weight: float) -> Float[Tensor, ""]:
    """Binary cross-entropy of the outcome, read at the last token, plus that of every token's process label.

    The process part (is the response right up to here?) shares the score head; it is what lets a small verifier learn
    at all: an outcome label alone says of forty tokens only that one of them is wrong.
    """
    hidden = [model.base_model(input_ids=block.ids, use_cache=False).last_hidden_state for block in blocks]
    return score_loss(model.score, hidden, blocks, process_weight)


def score_loss(
    head: torch.nn.Module, hidden: Sequence[Float[Tensor, "..."]], blocks: Sequence[Padded], process_weight: float
) -> Float[Tensor, ""]:
    """`reward_loss` from hidden states, one tensor of shape (batch, seq, width) per block."""
    outcome, process, sequences, tokens = [], [], 0, 0
    for states, block in zip(hidden, blocks, strict=True):
        scores = head(states)[..., 0]
        rows = torch.arange(len(block.ids), device=scores.device)
        targets = block.labels[rows, block.last]
        outcome.append(functional.binary_cross_entropy_with_logits(scores[rows, block.last], targets, reduction="sum"))
        chosen = block.is_response
        process.append(
            functional.binary_cross_entropy_with_logits(scores[chosen], block.labels[chosen], reduction="sum")
        )
        sequences, tokens = sequences + len(rows), tokens + int(chosen.sum())
    return torch.stack(outcome).sum() / sequences + process_weight * torch.stack(process).sum() / tokens


def probe(model: torch.nn.Module, blocks: Sequence[Padded], process_weight: float) -> float:
    """Fit the score head alone, which is a convex problem, and return its loss.

    Where features are there already, training them behind a random head first destroys them: it has to be done before
    (Kumar et al., arXiv 2202.10054).
    """
    with torch.no_grad():
        hidden = [model.base_model(input_ids=block.ids, use_cache=False).last_hidden_state for block in blocks]
    optimizer = torch.optim.LBFGS([model.score.weight], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = score_loss(model.score, hidden, blocks, process_weight)
        (loss + HEAD_DECAY * model.score.weight.square().sum()).backward()
        return loss

    optimizer.step(closure)
    optimizer.zero_grad()
    with torch.no_grad():
        return score_loss(model.score, hidden, blocks, process_weight).item()


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
