"""One descent in progress: its rows, Adam's moments, and the gradients evaluated so far."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import cost
from ..engine.sequences import TokenSequence
from . import straight_through
from .gradients import Gradient, onehot_gradient, row_cost


@dataclass(eq=False)
class Descent:
    """One descent in progress.

    Attributes:
        key, positions: as in `DescentStart` and `DescentStep`.
        sequence: current hard sequence.
        gradient: ∂L/∂y there.
        evaluated: gradients evaluated so far, by the hard tokens at the positions.
        first_argmax, sampled, noise: what `straight_through.hard_tokens` needs, per row.
        parameter: logits or latents, one row per position.
        logits: logits of the rows.
        onehot_gradient: ∂L/∂y of the rows.
        mean, square: Adam's moments of the parameter.
        trace: L at the hard sequence of each iteration.
        costs: costs of the evaluations after the first, of rows of ∂L/∂y, and of the output matrix.
        evaluations: number of evaluations after the first.
        target: hard sequence whose gradient is needed next.
        just_evaluated: True if the gradient was evaluated for the coming step, whatever the cache says.
    """

    key: int
    positions: list[int]
    sequence: TokenSequence
    gradient: Gradient
    evaluated: dict[tuple[int, ...], Gradient]
    first_argmax: Int[Tensor, " rows"]
    sampled: Int[Tensor, " rows"]
    noise: Float[Tensor, "rows vocab"] | None
    parameter: Float[Tensor, "rows width"]
    logits: Float[Tensor, "rows vocab"]
    onehot_gradient: Float[Tensor, "rows vocab"]
    mean: Float[Tensor, "rows width"]
    square: Float[Tensor, "rows width"]
    trace: list[float] = field(default_factory=list)
    costs: list[cost.Cost] = field(default_factory=list)
    evaluations: int = 0
    target: TokenSequence | None = None
    just_evaluated: bool = False

    @property
    def tokens(self) -> list[int]:
        """Hard tokens of the rows."""
        return [self.sequence.rollout[position] for position in self.positions]

    def move_to(self, tokens: list[int], caching: bool) -> bool:
        """Make the sequence with these hard tokens the current one; False if its gradient must be evaluated first."""
        if self.just_evaluated:
            self.just_evaluated = False
            return True
        if caching and tokens == self.tokens:
            return True
        self.target = self.with_tokens(tokens)
        if not caching or tuple(tokens) not in self.evaluated:
            return False
        gradient = self.evaluated[tuple(tokens)]
        self._use(gradient, onehot_gradient([gradient], [self.positions]))
        return True

    def add_evaluation(self, gradient: Gradient, rows: Float[Tensor, "rows vocab"]) -> None:
        """Use the gradient that was evaluated at the target, and its rows at the positions."""
        self.costs.append(gradient.cost)
        self.evaluations += 1
        self._use(gradient, rows)
        self.evaluated[tuple(self.tokens)] = gradient
        self.just_evaluated = True

    def _use(self, gradient: Gradient, rows: Float[Tensor, "rows vocab"]) -> None:
        self.sequence = self.target
        self.gradient = gradient
        self.onehot_gradient = rows
        self.costs.append(row_cost(gradient, len(self.positions)))

    def with_tokens(self, tokens: Sequence[int]) -> TokenSequence:
        """Return the sequence with these hard tokens at the positions."""
        rollout = list(self.sequence.rollout)
        for position, token in zip(self.positions, tokens, strict=True):
            rollout[position] = token
        return self.sequence._replace(rollout=rollout)


def hard_tokens(descents: Sequence[Descent]) -> list[list[int]]:
    """Return the hard tokens of each descent's rows."""
    noises = [descent.noise for descent in descents if descent.noise is not None]  # all descents have noise, or none
    hard = straight_through.hard_tokens(
        joined([descent.logits for descent in descents]),
        joined([descent.first_argmax for descent in descents]),
        joined([descent.sampled for descent in descents]),
        joined(noises) if noises else None,
    )
    tokens = iter(hard.tolist())  # a GPU is waited for once
    return [[next(tokens) for _ in descent.positions] for descent in descents]


def joined(parts: list[Tensor]) -> Tensor:
    """Concatenate rows. Parts of one tensor that follow each other in it, or a single part, are not copied."""
    first, end = parts[0], parts[0].storage_offset()
    together = len(parts) > 1
    for part in parts:
        together = together and part.is_contiguous() and part.storage_offset() == end
        together = together and part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        end += part.numel()
    if together:
        return first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())
    return first if len(parts) == 1 else torch.cat(parts)
