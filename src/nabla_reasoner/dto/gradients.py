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

TERMS = ("prefix", "postfix", "reward_prefix", "reward_postfix")  # parts of ∂L/∂y; a classifier has no reward_prefix


class Term(NamedTuple):
    """One model's term of ∂L/∂y.

    Attributes:
        embedding: the model's embedding matrix E.
        embedding_gradient: ∂L/∂(embedding at l), one row per rollout token.
        direct_weight: factor of log π(·|y_<l) in ∂L/∂y_l; None for a classifier, which has no direct part.
        model: language model of the direct part; None for a classifier.
        hidden: hidden states of that model that predict the rollout's tokens; None for a classifier.
        replaced: ids that the reward model reads as another id, and that id (see `engine.sequences.end_response`).
    """

    embedding: Float[Tensor, "rows hidden"]
    embedding_gradient: Float[Tensor, "length hidden"]
    direct_weight: float | None = None
    model: Policy | None = None
    hidden: Float[Tensor, "length hidden"] | None = None
    replaced: tuple[Sequence[int], int] | None = None

    def masked(self, prefix: bool, postfix: bool) -> "Term":
        """Return the term without its direct part (`prefix` False) or without its embedding part (`postfix` False)."""
        term = self
        if not prefix and term.direct_weight is not None:
            term = term._replace(direct_weight=0.0)
        if not postfix:
            term = term._replace(embedding_gradient=torch.zeros_like(term.embedding_gradient))
        return term


class Gradient(NamedTuple):
    """∂L/∂y at one hard sequence, for all rollout positions, in factors.

    Attributes:
        terms: term of the policy, then those of the reward model.
        loss: L at the hard sequence.
        reward: r(y|x).
        log_probabilities: log π of each rollout token, in nats.
        nll_weight: ν, the weight of -log π in L.
        cost: cost of this evaluation.
    """

    terms: list[Term]
    loss: float
    reward: float
    log_probabilities: Float[Tensor, " length"]
    nll_weight: float
    cost: cost.Cost

    @property
    def hidden(self) -> Float[Tensor, "length hidden"]:
        """Hidden states of the policy that predict the rollout (the `latents` of DTO)."""
        return self.terms[0].hidden

    def from_position(self, start: int) -> "Gradient":
        """Return the same gradient for a rollout that begins `start` tokens later."""
        terms = [
            term._replace(
                embedding_gradient=term.embedding_gradient[start:],
                hidden=None if term.hidden is None else term.hidden[start:],
            )
            for term in self.terms
        ]
        # L counts the log-likelihood of the rollout's own tokens only
        loss = self.loss + self.nll_weight * self.log_probabilities[:start].sum().item()
        return self._replace(terms=terms, loss=loss, log_probabilities=self.log_probabilities[start:])


def onehot_gradient(gradients: Sequence[Gradient], positions: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocab"]:
    """Return rows of ∂L/∂y: for each gradient its rollout positions, concatenated.

    All gradients must come from the same policy and reward model; only these rows are multiplied by the embedding
    matrix.
    """
    total = None
    vocab_size = gradients[0].terms[0].model.vocab_size
    for index, term in enumerate(gradients[0].terms):
        rows = [(gradient.terms[index], list(p)) for gradient, p in zip(gradients, positions, strict=True)]
        embedding_gradient = torch.cat([row.embedding_gradient[p] for row, p in rows])
        part = project_to_vocab(embedding_gradient, term.embedding[:vocab_size])
        if term.model is not None:
            hidden = torch.cat([row.hidden[p] for row, p in rows])
            log_probabilities = torch.log_softmax(at_least_float32(term.model.logits(hidden)), -1)[:, :vocab_size]
            part = part.add_(log_probabilities, alpha=term.direct_weight)
        if term.replaced is not None:  # a policy's end token enters the reward model as that model's own
            ids, target = term.replaced
            part[:, list(ids)] = part[:, [target]]
        total = part if total is None else total.add_(part)
    return total
