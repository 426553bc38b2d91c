"""∂L/∂y at a hard sequence, kept in factors.

A relaxed token enters a model as yᵀE, so a model's share of the gradient is kept as the gradient with respect to the
*embedding* at each position, [hidden] numbers, and E turns it into [vocab] numbers for the rows that are asked for. A
log-likelihood also has the direct part log π(·|y_<l), kept as the hidden state that yields it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import cost
from .models import Policy

TERMS = ("prefix", "postfix", "reward_prefix", "reward_postfix")  # of ∂L/∂y; a classifier has no reward_prefix
CHUNK = 2**24  # entries of a [rows, vocab] buffer that is formed and dropped again


class Term(NamedTuple):
    """One model's share of ∂L/∂y.

    Attributes:
        embedding: the model's embedding matrix E.
        embedding_gradient: ∂L/∂(embedding at l), one row per rollout token.
        direct_weight: factor of log π(·|y_<l) in ∂L/∂y_l; None for a classifier, which has no direct part.
        model: the language model whose log-probabilities are meant; None for a classifier.
        hidden: its hidden states that predict the rollout's tokens; None for a classifier.
    """

    embedding: Float[Tensor, "rows hidden"]
    embedding_gradient: Float[Tensor, "length hidden"]
    direct_weight: float | None = None
    model: Policy | None = None
    hidden: Float[Tensor, "length hidden"] | None = None

    def keep(self, prefix: bool, postfix: bool) -> "Term":
        """Without the direct part (what the past says) or the part by the embedding (what follows), where False."""
        term = self
        if not prefix and term.direct_weight is not None:
            term = term._replace(direct_weight=0.0)
        if not postfix:
            term = term._replace(embedding_gradient=torch.zeros_like(term.embedding_gradient))
        return term


class Gradient(NamedTuple):
    """∂L/∂y at one hard sequence, for all rollout positions, in factors.

    Attributes:
        terms: the policy's term first, then those of the reward model.
        loss: L at the hard sequence.
        reward: r(y|x).
        log_probabilities: log π of each rollout token, in nats.
        nll_weight: ν, the weight of -log π in L.
        cost: of this evaluation.
    """

    terms: list[Term]
    loss: float
    reward: float
    log_probabilities: Float[Tensor, " length"]
    nll_weight: float
    cost: cost.Cost

    @property
    def hidden(self) -> Float[Tensor, "length hidden"]:
        """The policy's hidden states that predict the rollout (the `latents` of DTO)."""
        return self.terms[0].hidden

    def behind(self, count: int) -> "Gradient":
        """The same gradient for a rollout that begins `count` tokens later."""
        terms = [
            term._replace(
                embedding_gradient=term.embedding_gradient[count:],
                hidden=None if term.hidden is None else term.hidden[count:],
            )
            for term in self.terms
        ]
        # L counts the log-likelihood of the rollout's own tokens only
        loss = self.loss + self.nll_weight * self.log_probabilities[:count].sum().item()
        return self._replace(terms=terms, loss=loss, log_probabilities=self.log_probabilities[count:])


def precise(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """At least float32: probabilities and norms are never formed in half precision."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def chunks(rows: int, width: int) -> list[slice]:
    """Slices of `rows` rows whose [rows, width] buffers stay within CHUNK entries."""
    size = max(1, CHUNK // width)
    return [slice(begin, min(begin + size, rows)) for begin in range(0, rows, size)]


def by_vocabulary(
    rows: Float[Tensor, "rows hidden"], matrix: Float[Tensor, "vocab hidden"]
) -> Float[Tensor, "rows vocab"]:
    """rows @ matrixᵀ in at least float32; a matrix in half precision is widened a slice at a time."""
    if matrix.dtype == precise(matrix).dtype:
        return rows @ matrix.T
    slices = chunks(len(matrix), matrix.shape[1])
    return torch.cat([precise(rows) @ precise(matrix[part]).T for part in slices], -1)


def by_hidden(
    rows: Float[Tensor, "rows vocab"], matrix: Float[Tensor, "vocab hidden"]
) -> Float[Tensor, "rows hidden"]:
    """rows @ matrix in at least float32; a matrix in half precision is widened a slice at a time."""
    if matrix.dtype == precise(matrix).dtype:
        return rows @ matrix
    slices = chunks(len(matrix), matrix.shape[1])
    return sum(precise(rows[:, part]) @ precise(matrix[part]) for part in slices)


@torch.no_grad()
def likelihood(
    model: Policy, hidden: Float[Tensor, "rows hidden"], targets: Int[Tensor, " rows"], *, gradient: bool = False
) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows hidden"] | None]:
    """log π of each target given the hidden state that predicts it, and its derivative by that hidden state.

    The output matrix is applied in chunks of rows; no [rows, vocab] buffer outlives its chunk.
    """
    values, derivatives = [], []
    for part in chunks(len(hidden), model.vocab_size):
        logits = precise(model.logits(hidden[part]))
        normaliser = logits.logsumexp(-1, keepdim=True)
        picked = targets[part, None]
        values.append((logits.gather(1, picked) - normaliser)[:, 0])
        if gradient:
            residual = logits.sub_(normaliser).exp_().neg_()  # onehot - softmax, in the logits' own memory
            residual.scatter_add_(1, picked, torch.ones_like(picked, dtype=residual.dtype))
            derivatives.append(residual.to(hidden.dtype) @ model.head.weight[: model.vocab_size])
    return torch.cat(values), torch.cat(derivatives) if gradient else None


def onehot_gradient(gradients: Sequence[Gradient], positions: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocab"]:
    """Rows of ∂L/∂y: for each gradient the rollout positions asked for, one after the other.

    All gradients must come from the same policy and reward model; only the asked rows meet the embedding matrix.
    """
    total = None
    vocab_size = gradients[0].terms[0].model.vocab_size
    for number, kind in enumerate(gradients[0].terms):
        pick = [g.terms[number].embedding_gradient[list(p)] for g, p in zip(gradients, positions, strict=True)]
        part = by_vocabulary(torch.cat(pick), kind.embedding[:vocab_size])
        if kind.model is not None:
            hidden = torch.cat([g.terms[number].hidden[list(p)] for g, p in zip(gradients, positions, strict=True)])
            log_probabilities = torch.log_softmax(precise(kind.model.logits(hidden)), -1)[:, :vocab_size]
            part = part.add_(log_probabilities, alpha=kind.direct_weight)
        total = part if total is None else total.add_(part)
    return total
