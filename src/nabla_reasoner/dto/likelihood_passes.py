"""Passes of a language model that yield log π of responses, and its gradient in factors."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..cost import Reads
from ..engine.cached_forward import check_gradient, read
from ..engine.numerics import NonFiniteError, first_non_finite, likelihood
from ..engine.sequences import TokenSequence
from ..engine.stored_prefixes import Slots, fill, predict
from ..models.language_models import Policy
from .gradients import Term


class Scope(NamedTuple):
    """What is wanted of a pass.

    Attributes:
        whole: the value counts the whole response (a reward); otherwise the rollout only (the policy's own term).
        weight: factor of log π in L.
        direct: whether the direct part log π(·|y_<l) of the gradient is used.
        backward: whether the part that flows through later tokens is used.
        counts: process form: per text and rollout token, number of reads that count its log-probability.
        own_reads, later_reads: process form: whether the direct part counts the read at its own token, and the others.
    """

    whole: bool
    weight: float | int
    direct: bool
    backward: bool
    counts: Sequence[Sequence[int]] | None = None
    own_reads: bool = True
    later_reads: bool = True


class LikelihoodPass(NamedTuple):
    """Pass of one model over a batch: per sequence its value, term, and what was read forward and backward.

    Attributes:
        values: log π, in nats.
        terms: gradient of weight times log π, or of its sum over the reads of the process form.
        log_probabilities: log-probability of each rollout token.
        before: log-likelihood of what the value counts before the rollout.
    """

    values: list[float]
    terms: list[Term]
    log_probabilities: list[Float[Tensor, " _"]]
    before: list[float]
    forward: list[Reads]
    backward: list[Reads]

    def prefix_values(self, index: int, length: int) -> Float[Tensor, " length"]:
        """Return log π(y_≤l|x) of a sequence at each of its first `length` rollout tokens."""
        return self.before[index] + self.log_probabilities[index][:length].cumsum(0)


def log_likelihoods(
    model: Policy,
    prompts: Sequence[list[int]],
    batch: Sequence[TokenSequence],
    scope: Scope,
    store: Slots,
    known: Sequence[Float[Tensor, "_ hidden"] | None],
) -> LikelihoodPass:
    """Return log π of each response, and its gradient term.

    Args:
        known: hidden states that predict the rollout, by sequence, or None; used if no backward pass is needed.
    """
    texts = [prompt + s.prefix + s.rollout for prompt, s in zip(prompts, batch, strict=True)]
    starts = [len(prompt) + len(s.prefix) for prompt, s in zip(prompts, batch, strict=True)]
    firsts = [len(prompt) for prompt in prompts] if scope.whole else starts
    if not scope.backward:
        return _forward_only(model, texts, firsts, starts, scope, store, known)
    filled = fill(model, texts, starts, store, firsts if scope.whole else None)
    reading = read(model, texts, [start - 1 for start in starts], store.cache, store.slots, overlap=1, gradients=True)
    spans = reading.spans(firsts)
    hidden, targets = reading.predictors(spans)
    log_probabilities, slopes = likelihood(model, hidden.detach(), targets, gradient=True)
    if (row := first_non_finite(log_probabilities)) is not None:
        token = [position for left, right in spans for position in range(left, right)][row]
        raise NonFiniteError(f"the log-probability by {model.name} of token {token} of its text")
    if scope.counts is not None:  # tokens before the rollout have no effect on the gradient in it
        pairs = zip(scope.counts, starts, spans, strict=True)
        weights = [count for counts, start, (left, _) in pairs for count in [0] * (start - left) + list(counts)]
        slopes = slopes * torch.tensor(weights, dtype=slopes.dtype, device=slopes.device)[:, None]
    (gradient,) = torch.autograd.grad(hidden, reading.embeddings, grad_outputs=scope.weight * slopes)
    check_gradient(model, reading, gradient)
    sizes = [right - left for left, right in spans]
    parts, states = log_probabilities.split(sizes), hidden.detach().split(sizes)
    values, before, terms = [part.sum().item() for part in parts], [], []
    for i, (first, start, (left, _)) in enumerate(zip(firsts, starts, spans, strict=True)):
        stored = 0.0
        if scope.whole and store.cache is not None:  # tokens of the prefix that were not read again
            stored = store.cache.log_likelihood(store.slots[i], first, left)
        values[i] += stored
        before.append(stored + parts[i][: start - left].sum().item())
        skipped = reading.starts[i]
        rows = gradient[i, start - skipped : len(texts[i]) - skipped]
        terms.append(_term(model, states[i][start - left :], rows, scope, i))
    if store.keep and store.cache is not None:
        store.cache.put(store.slots, texts, reading.starts, reading.cache)
        if scope.whole:
            store.cache.put_log_probs(store.slots, [left for left, _ in spans], parts)
    rollout_parts = [part[start - left :] for part, start, (left, _) in zip(parts, starts, spans, strict=True)]
    reads = [part.with_outputs(size) for part, size in zip(reading.reads, sizes, strict=True)]
    forward = [before_rollout + part for before_rollout, part in zip(filled, reads, strict=True)]
    return LikelihoodPass(values, terms, rollout_parts, before, forward, reads)


def _forward_only(
    model: Policy,
    texts: Sequence[list[int]],
    firsts: Sequence[int],
    starts: Sequence[int],
    scope: Scope,
    store: Slots,
    known: Sequence[Float[Tensor, "_ hidden"] | None],
) -> LikelihoodPass:
    predicted = predict(model, texts, firsts, starts, store, known)
    terms = [_term(model, hidden, None, scope, i) for i, hidden in enumerate(predicted.hidden)]
    values = [
        before + part.sum().item() for before, part in zip(predicted.before, predicted.log_probabilities, strict=True)
    ]
    return LikelihoodPass(
        values, terms, predicted.log_probabilities, predicted.before, predicted.reads, [Reads()] * len(texts)
    )


def _term(
    model: Policy,
    hidden: Float[Tensor, "length hidden"],
    gradient: Float[Tensor, "length hidden"] | None,
    scope: Scope,
    index: int,
) -> Term:
    """Return the term of one sequence from the states that predict its rollout and the gradient at its embeddings."""
    counts = None
    if scope.counts is not None:
        reads = torch.tensor(scope.counts[index], dtype=torch.float32, device=hidden.device)
        counts = reads * scope.later_reads - (reads > 0).float() * (scope.later_reads - scope.own_reads)
    return Term(model.embedding, gradient, scope.weight if scope.direct else 0.0, model, hidden, counts)
