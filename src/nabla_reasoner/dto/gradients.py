"""∂L/∂y at a hard sequence, kept in factors.

A relaxed token enters a model as yᵀE. A model's term of the gradient is therefore kept as the gradient with respect to
the *embedding* at each position, [hidden] numbers; E turns it into [vocab] numbers for the rows that are needed. A
log-likelihood also has the direct part log π(·|y_<l), kept as the hidden state that yields it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .. import cost
from ..engine.numerics import at_least_float32, project_to_vocab
from ..models.language_models import Policy


class Term(NamedTuple):
    """One model's term of ∂L/∂y.

    Attributes:
        embedding: the model's embedding matrix E.
        embedding_gradient: ∂L/∂(embedding at l), one row per rollout token; None if no such part is used.
        direct_weight: factor of log π(·|y_<l) in ∂L/∂y_l; None for a score head, which has no direct part.
        model: language model of the direct part; None for a score head.
        hidden: hidden states of that model that predict the rollout's tokens; None for a score head.
        direct_counts: further factor of the direct part, per rollout token; None stands for 1.
        replaced: ids that the reward model reads as another id, and that id (see `engine.sequences.end_response`).
    """

    embedding: Float[Tensor, "rows hidden"]
    embedding_gradient: Float[Tensor, "length hidden"] | None
    direct_weight: float | int | None = None
    model: Policy | None = None
    hidden: Float[Tensor, "length hidden"] | None = None
    direct_counts: Float[Tensor, " length"] | None = None
    replaced: tuple[Sequence[int], int] | None = None

    def part(self, rows: slice) -> "Term":
        """Return the term of some of the rollout's tokens."""
        names = ("embedding_gradient", "hidden", "direct_counts")
        parts = {name: getattr(self, name) for name in names}
        return self._replace(**{name: None if part is None else part[rows] for name, part in parts.items()})


class Gradient(NamedTuple):
    """∂L/∂y at one hard sequence, for all rollout positions, in factors.

    Attributes:
        terms: term of the policy, then those of the reward model.
        loss: L at the hard sequence.
        reward: r(y|x) of the whole response; None if the form did not need it.
        log_probabilities: log π of each rollout token, in nats, on the CPU.
        nll_weight: ν, the weight of -log π in L.
        cost: cost of this evaluation.
        reward_weight: λ, the weight of -r in L.
        prefix_rewards: r(y_≤l|x) at each rollout token, on the CPU; None with reward form "outcome".
    """

    terms: list[Term]
    loss: float
    reward: float | None
    log_probabilities: Float[Tensor, " length"]
    nll_weight: float | int
    cost: cost.Cost
    reward_weight: float | int = 0.0
    prefix_rewards: Float[Tensor, " length"] | None = None

    @property
    def hidden(self) -> Float[Tensor, "length hidden"]:
        """Hidden states of the policy that predict the rollout (the `latents` of DTO)."""
        return self.terms[0].hidden

    @property
    def predictors(self) -> list[Float[Tensor, "length _"]]:
        """Hidden states that predict the rollout, of the policy and of the models of a likelihood reward."""
        return [term.hidden for term in self.terms if term.hidden is not None]

    def from_position(self, start: int) -> "Gradient":
        """Return the same gradient for a rollout that begins `start` tokens later."""
        # L counts the rollout's own tokens only
        loss = self.loss + self.nll_weight * self.log_probabilities[:start].sum().item()
        prefix_rewards = self.prefix_rewards
        if prefix_rewards is not None:
            loss += self.reward_weight * prefix_rewards[:start].sum().item()
            prefix_rewards = prefix_rewards[start:]
        return self._replace(
            terms=[term.part(slice(start, None)) for term in self.terms],
            loss=loss,
            log_probabilities=self.log_probabilities[start:],
            prefix_rewards=prefix_rewards,
        )


def row_cost(gradient: Gradient, rows: int) -> cost.Cost:
    """Return the cost of `rows` rows of ∂L/∂y: a product with an embedding or output matrix for each part."""
    flops = 0.0
    for term in gradient.terms:
        parts = (term.embedding_gradient is not None) + bool(term.direct_weight)
        flops += 2.0 * parts * gradient.terms[0].model.vocab_size * term.embedding.shape[1]
    return cost.gradient_arithmetic(rows * flops)


def _index(positions: Sequence[int]) -> list[int] | slice:
    """Return positions as an index: a slice if they follow each other, which sends no numbers to a GPU."""
    first = positions[0] if positions else 0
    follow = list(positions) == list(range(first, first + len(positions)))
    return slice(first, first + len(positions)) if follow else list(positions)


def onehot_gradient(gradients: Sequence[Gradient], positions: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocab"]:
    """Return rows of ∂L/∂y: for each gradient its rollout positions, concatenated.

    All gradients must come from the same policy and reward model; only these rows are multiplied by the embedding
    matrix. The rows are on the policy's device, whichever devices the other models have.
    """
    total, device = None, gradients[0].hidden.device
    vocab_size = gradients[0].terms[0].model.vocab_size
    for index, term in enumerate(gradients[0].terms):
        rows = [(gradient.terms[index], _index(p)) for gradient, p in zip(gradients, positions, strict=True)]
        part = None
        if term.embedding_gradient is not None:
            embedding_gradient = torch.cat([row.embedding_gradient[p] for row, p in rows])
            part = project_to_vocab(embedding_gradient, term.embedding[:vocab_size])
        if term.direct_weight:
            hidden = torch.cat([row.hidden[p] for row, p in rows])
            log_probabilities = torch.log_softmax(at_least_float32(term.model.logits(hidden)), -1)[:, :vocab_size]
            if term.direct_counts is not None:
                log_probabilities = log_probabilities * torch.cat([row.direct_counts[p] for row, p in rows])[:, None]
            part = torch.zeros_like(log_probabilities) if part is None else part
            part = part.add_(log_probabilities, alpha=term.direct_weight)
        if part is not None and term.replaced is not None:
            ids, target = term.replaced  # a policy's end token enters the reward model as that model's own
            part[:, list(ids)] = part[:, [target]]
        if part is not None:
            part = part.to(device)
            total = part if total is None else total.add_(part)
    if total is None:  # nothing acts on the tokens
        like = gradients[0].hidden
        total = at_least_float32(like.new_zeros(sum(map(len, positions)), vocab_size))
    return total
