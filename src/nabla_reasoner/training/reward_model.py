"""Training of a scalar reward model on outcome and process labels, and of its head alone."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .data import Padded
from .loop import Schedule, Training

HEAD_DECAY = 1e-3  # weight of the head's squared norm while it is fitted alone; our choice


def reward_loss(model: torch.nn.Module, blocks: Sequence[Padded], process_weight: float) -> Float[Tensor, ""]:
    """Return the binary cross-entropy of the outcome, read at the last token, plus that of all process labels.

    Both parts share the score head. Process labels (is the response right up to this token?) are needed by a small
    model: an outcome label only says that one of about forty tokens is wrong.
    """
    return score_loss(model.score, [_hidden_states(model, block) for block in blocks], blocks, process_weight)


def score_loss(
    head: torch.nn.Module, hidden: Sequence[Float[Tensor, "..."]], blocks: Sequence[Padded], process_weight: float
) -> Float[Tensor, ""]:
    """Return `reward_loss` from hidden states, one tensor of shape (batch, seq, width) per block."""
    outcome, process = [], []
    num_sequences = num_tokens = 0
    for states, block in zip(hidden, blocks, strict=True):
        scores = head(states)[..., 0]
        rows = torch.arange(len(block.ids), device=scores.device)
        outcome.append(_binary_cross_entropy(scores[rows, block.last], block.labels[rows, block.last]))
        process.append(_binary_cross_entropy(scores[block.is_response], block.labels[block.is_response]))
        num_sequences += len(rows)
        num_tokens += int(block.is_response.sum())
    return torch.stack(outcome).sum() / num_sequences + process_weight * torch.stack(process).sum() / num_tokens


def fit_head(model: torch.nn.Module, blocks: Sequence[Padded], process_weight: float) -> float:
    """Fit the score head alone, which is a convex problem, and return its loss.

    Training pretrained features under a random head first destroys them, so the head is fitted before the rest
    (Kumar et al., arXiv 2202.10054).
    """
    with torch.no_grad():
        hidden = [_hidden_states(model, block) for block in blocks]
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


class RewardTraining(Training):
    """A scalar reward model in training on outcome and process labels."""

    def __init__(self, model: torch.nn.Module, schedule: Schedule, process_weight: float = 1.0):
        super().__init__(model, schedule)
        self.process_weight = process_weight

    def loss(self, batch: list[Padded]) -> Float[Tensor, ""]:
        return reward_loss(self.model, batch, self.process_weight)


def _hidden_states(model: torch.nn.Module, block: Padded) -> Float[Tensor, "batch seq hidden"]:
    return model.base_model(input_ids=block.ids, use_cache=False).last_hidden_state


def _binary_cross_entropy(scores: Float[Tensor, " count"], labels: Float[Tensor, " count"]) -> Float[Tensor, ""]:
    return functional.binary_cross_entropy_with_logits(scores, labels, reduction="sum")
