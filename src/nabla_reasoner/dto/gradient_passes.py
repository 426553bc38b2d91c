"""L and ∂L/∂y at hard sequences, batched: one forward and one backward pass of policy and reward model.

Keys and values of prompts and committed tokens come from a cache (`ModelCaches`); only the tokens after them are read
with gradients.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import cost
from ..engine import batching
from ..engine.cached_forward import Reading, read
from ..engine.kv_cache import TokenCache
from ..engine.numerics import NonFiniteError, at_least_float32, first_non_finite, likelihood
from ..engine.sequences import (
    MIN_PREFILL,
    ModelCaches,
    TokenSequence,
    likelihood_models,
    replaced_columns,
    with_end_token,
)
from ..models.language_models import Policy, RewardModel
from .gradients import TERMS, Gradient, Term


class _Objective(NamedTuple):
    """Weights λ and ν of L, and the parts of ∂L/∂y that are not set to zero."""

    reward_weight: float
    nll_weight: float
    terms: Sequence[str]


class _Slots(NamedTuple):
    """Cache of one model with the slots of a batch.

    Attributes:
        cache: None reads every token.
        slots: slot of each sequence.
        keep: whether the rollouts' keys and values are stored too.
    """

    cache: TokenCache | None
    slots: list[int]
    keep: bool


class _Pass(NamedTuple):
    """Pass of one model over a batch: per sequence its value, term, and tokens read forward and backward."""

    values: list[float]
    terms: list[Term]
    log_probabilities: list[Tensor]
    forward: list[int]
    backward: list[int]


def evaluate(
    policy: Policy,
    reward: RewardModel,
    sequences: Sequence[TokenSequence],
    *,
    reward_weight: float,
    nll_weight: float,
    terms: Sequence[str] = TERMS,
    caches: ModelCaches | None = None,
    slots: Sequence[int] = (),
    keep: bool = False,
) -> list[Gradient]:
    """Return L and ∂L/∂y for every sequence: one forward and one backward pass of each model over padded batches.

    Args:
        terms: parts of ∂L/∂y that are kept; the others are zero. L itself is not changed.
        caches: keys and values read before; those of prompt and prefix are used, and stored if missing.
        slots: cache slot of each sequence; unused without caches.
        keep: store the rollouts' keys and values too.
    """
    objective = _Objective(reward_weight, nll_weight, terms)

    def evaluate_batch(indices: list[int]) -> list[Gradient]:
        batch_slots = [slots[i] for i in indices] if caches is not None else []
        return _evaluate_batch(policy, reward, [sequences[i] for i in indices], objective, caches, batch_slots, keep)

    return batching.run(evaluate_batch, [_length(sequence) for sequence in sequences], policy.batch_limits)


def _length(sequence: TokenSequence) -> int:
    return max(len(sequence.policy_prompt), len(sequence.reward_prompt)) + len(sequence.prefix) + len(sequence.rollout)


def _evaluate_batch(
    policy: Policy,
    reward: RewardModel,
    batch: list[TokenSequence],
    objective: _Objective,
    caches: ModelCaches | None,
    slots: list[int],
    keep: bool,
) -> list[Gradient]:
    store = _Slots(caches and caches.policy, slots, keep)
    prompts = [sequence.policy_prompt for sequence in batch]
    policy_pass = _likelihood(policy, prompts, batch, -objective.nll_weight, store, whole=False)
    reward_passes = _reward_passes(reward, batch, -objective.reward_weight, caches, slots, keep)
    terms, results = objective.terms, []
    replaced = replaced_columns(reward, policy.vocab_size)
    for i, sequence in enumerate(batch):
        value = sum(sign * scored.values[i] for sign, scored in reward_passes)
        length = len(sequence.rollout)  # an end token that was added for the reward is not optimised
        parts = [policy_pass.terms[i].masked("prefix" in terms, "postfix" in terms)]
        parts += [
            s.terms[i].masked("reward_prefix" in terms, "reward_postfix" in terms)._replace(replaced=replaced)
            for _, s in reward_passes
        ]
        results.append(
            Gradient(
                terms=[_cut(term, length) for term in parts],
                loss=-objective.reward_weight * value - objective.nll_weight * policy_pass.values[i],
                reward=value,
                log_probabilities=policy_pass.log_probabilities[i],
                nll_weight=objective.nll_weight,
                cost=cost.gradient_evaluation(
                    policy.parameters,
                    policy_pass.forward[i],
                    policy_pass.backward[i],
                    reward.parameters,
                    reward_passes[0][1].forward[i],
                    reward_passes[0][1].backward[i],
                ),
            )
        )
    return results


def _cut(term: Term, length: int) -> Term:
    hidden = None if term.hidden is None else term.hidden[:length]
    return term._replace(embedding_gradient=term.embedding_gradient[:length], hidden=hidden)


def _reward_passes(
    reward: RewardModel,
    batch: list[TokenSequence],
    weight: float,
    caches: ModelCaches | None,
    slots: list[int],
    keep: bool,
) -> list[tuple[float, _Pass]]:
    """Return the pass of each model of the reward with its sign in r; gradient terms are multiplied by `weight`."""
    ended = [with_end_token(sequence, reward) for sequence in batch]
    if reward.kind == "classifier":
        lengths = [len(sequence.rollout) for sequence in batch]
        store = _Slots(caches and caches.scorer, slots, keep)
        return [(1.0, _classifier(reward, ended, lengths, weight, store))]
    prompts = [sequence.reward_prompt for sequence in batch]
    return [
        (sign, _likelihood(model, prompts, ended, sign * weight, _Slots(cache, slots, keep), whole=True))
        for model, sign, cache in likelihood_models(reward, caches)
    ]


def _likelihood(
    model: Policy,
    prompts: list[list[int]],
    batch: list[TokenSequence],
    weight: float,
    store: _Slots,
    *,
    whole: bool,
) -> _Pass:
    """Return log π of each response, and its gradient term times `weight`.

    Args:
        whole: the value counts the whole response (a reward); otherwise the rollout only (the policy's own term).
    """
    texts = [prompt + s.prefix + s.rollout for prompt, s in zip(prompts, batch, strict=True)]
    starts = [len(prompt) + len(s.prefix) for prompt, s in zip(prompts, batch, strict=True)]
    firsts = [len(prompt) for prompt in prompts] if whole else starts
    filled = _fill(model, texts, starts, store, firsts if whole else None)
    reading = read(model, texts, [start - 1 for start in starts], store.cache, store.slots, overlap=1, gradients=True)
    spans = reading.spans(firsts)
    hidden, targets = reading.predictors(spans)
    log_probabilities, slopes = likelihood(model, hidden.detach(), targets, gradient=True)
    (gradient,) = torch.autograd.grad(hidden, reading.embeddings, grad_outputs=weight * slopes)
    if (row := first_non_finite(log_probabilities)) is not None:
        token = [position for left, right in spans for position in range(left, right)][row]
        raise NonFiniteError(f"the log-probability by {model.name} of token {token} of its text")
    _check_gradient(model, reading, gradient)
    sizes = [right - left for left, right in spans]
    parts, states = log_probabilities.split(sizes), hidden.detach().split(sizes)
    values = [part.sum().item() for part in parts]
    if whole and store.cache is not None:  # tokens of the prefix that were not read again
        for i, (slot, first, (left, _)) in enumerate(zip(store.slots, firsts, spans, strict=True)):
            values[i] += store.cache.log_likelihood(slot, first, left)
    if store.keep and store.cache is not None:
        store.cache.put(store.slots, texts, reading.starts, reading.cache)
        if whole:
            store.cache.put_log_probs(store.slots, [left for left, _ in spans], parts)
    terms = [
        Term(
            embedding=model.embedding,
            embedding_gradient=gradient[i, start - reading.starts[i] : len(text) - reading.starts[i]],
            direct_weight=weight,
            model=model,
            hidden=states[i][start - left :],
        )
        for i, (start, text, (left, _)) in enumerate(zip(starts, texts, spans, strict=True))
    ]
    return _Pass(values, terms, list(parts), _forward(filled, reading), reading.lengths)


def _classifier(
    reward: RewardModel, batch: list[TokenSequence], lengths: list[int], weight: float, store: _Slots
) -> _Pass:
    """Return a classifier's scores, and their gradient terms times `weight`, cut to `lengths` rollout tokens."""
    texts = [s.reward_prompt + s.prefix + s.rollout + reward.suffix_ids for s in batch]
    starts = [len(s.reward_prompt) + len(s.prefix) for s in batch]
    filled = _fill(reward, texts, starts, store, None)
    reading = read(reward, texts, starts, store.cache, store.slots, gradients=True)
    with torch.enable_grad():
        scores = at_least_float32(reward.head_scores(reading.last()))
        (gradient,) = torch.autograd.grad(weight * scores.sum(), reading.embeddings)
    if (row := first_non_finite(scores.detach())) is not None:
        raise NonFiniteError(f"the score of {reward.name} at the last of {len(texts[row])} tokens")
    _check_gradient(reward, reading, gradient)
    if store.keep and store.cache is not None:
        store.cache.put(store.slots, texts, reading.starts, reading.cache)
    terms = [
        Term(reward.embedding, gradient[i, start - skipped : start - skipped + length])
        for i, (start, skipped, length) in enumerate(zip(starts, reading.starts, lengths, strict=True))
    ]
    return _Pass(scores.detach().tolist(), terms, [], _forward(filled, reading), reading.lengths)


def _check_gradient(model: Policy | RewardModel, reading: Reading, gradient: Tensor) -> None:
    """Raise NonFiniteError if a gradient with respect to the embeddings of a pass is NaN or infinite."""
    if (row := first_non_finite(gradient)) is not None:
        token = reading.starts[row] + first_non_finite(gradient[row])
        raise NonFiniteError(f"the gradient by the embedding of {model.name} at token {token} of its text")


def _forward(filled: list[int], reading: Reading) -> list[int]:
    """Return the tokens read forward, by text: those of `_fill` and those of the pass with gradients."""
    return [before + length for before, length in zip(filled, reading.lengths, strict=True)]


def _fill(
    model: Policy | RewardModel,
    texts: Sequence[list[int]],
    counts: Sequence[int],
    store: _Slots,
    firsts: Sequence[int] | None,
) -> list[int]:
    """Read the first `counts` tokens of texts into their slots without gradients; return the tokens read, by text.

    Args:
        firsts: indices from which the tokens' log-probabilities are stored too; None stores none.
    """
    read_counts = [0] * len(texts)
    if store.cache is None:
        return read_counts
    missing = [i for i, n in enumerate(counts) if n - store.cache.shared(store.slots[i], texts[i][:n]) > MIN_PREFILL]
    if not missing:
        return read_counts
    prefixes, slots = [texts[i][: counts[i]] for i in missing], [store.slots[i] for i in missing]
    reading = read(model, prefixes, [len(prefix) - 1 for prefix in prefixes], store.cache, slots, overlap=1)
    store.cache.put(slots, prefixes, reading.starts, reading.cache)
    if firsts is not None:
        spans = reading.spans([firsts[i] for i in missing])  # empty if the prefix is the prompt alone
        if any(left < right for left, right in spans):
            values, _ = likelihood(model, *reading.predictors(spans))
            parts = values.split([right - left for left, right in spans])
            store.cache.put_log_probs(slots, [left for left, _ in spans], parts)
    for i, length in zip(missing, reading.lengths, strict=True):
        read_counts[i] = length
    return read_counts
