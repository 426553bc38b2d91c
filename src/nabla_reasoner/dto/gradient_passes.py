"""L and ∂L/∂y at hard sequences, many at once: a forward and a backward pass of policy and reward model.

What the models have read before is not read again: keys and values of a prompt and of committed tokens come from a
cache (`Caches`), and gradients are formed behind them only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import cost
from ..engine import batching
from ..engine.cached_forward import read
from ..engine.kv_cache import TokenCache
from ..engine.numerics import at_least_float32, likelihood
from ..engine.sequences import MIN_PREFILL, ModelCaches, TokenSequence, likelihood_models, with_end_token
from ..models.language_models import Policy, RewardModel
from .gradients import TERMS, Gradient, Term


class _Pass(NamedTuple):
    """One model's part in an evaluation, by sequence: values, terms, and tokens read forward and backward."""

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
    """L and ∂L/∂y for every sequence: one forward and one backward pass of each model over padded batches.

    Args:
        terms: parts of ∂L/∂y that are kept; the others are zero, L itself is whole.
        caches: what was read before; prompt and prefix are taken from there, or read once and kept there.
        slots: a slot per sequence.
        keep: keep the rollouts' keys and values there too.
    """

    def evaluate_batch(chosen: list[int]) -> list[Gradient]:
        batch = [sequences[i] for i in chosen]
        own = [slots[i] for i in chosen] if caches is not None else []
        return _evaluate_batch(policy, reward, batch, reward_weight, nll_weight, terms, caches, own, keep)

    return batching.run(evaluate_batch, [_length(sequence) for sequence in sequences], policy.batch_limits)


def _length(sequence: TokenSequence) -> int:
    return max(len(sequence.policy_prompt), len(sequence.reward_prompt)) + len(sequence.prefix) + len(sequence.rollout)


def _evaluate_batch(
    policy: Policy,
    reward: RewardModel,
    batch: list[TokenSequence],
    reward_weight: float,
    nll_weight: float,
    terms: Sequence[str],
    caches: ModelCaches | None,
    slots: list[int],
    keep: bool,
) -> list[Gradient]:
    own = _likelihood(
        policy,
        [s.policy_prompt for s in batch],
        batch,
        -nll_weight,
        cache=caches and caches.policy,
        slots=slots,
        keep=keep,
        whole=False,
    )
    closed = [with_end_token(sequence, reward) for sequence in batch]
    scored = []
    if reward.kind == "classifier":
        lengths, cache = [len(s.rollout) for s in batch], caches and caches.scorer
        scored.append((1.0, _classifier(reward, closed, lengths, -reward_weight, cache, slots, keep)))
    else:
        prompts = [s.reward_prompt for s in batch]
        for model, sign, cache in likelihood_models(reward, caches):
            part = _likelihood(
                model, prompts, closed, -sign * reward_weight, cache=cache, slots=slots, keep=keep, whole=True
            )
            scored.append((sign, part))
    results = []
    for i, sequence in enumerate(batch):
        value = sum(sign * part.values[i] for sign, part in scored)
        length = len(sequence.rollout)  # a closing token that was added for the reward is not optimised
        parts = [own.terms[i].keep("prefix" in terms, "postfix" in terms)]
        parts += [part.terms[i].keep("reward_prefix" in terms, "reward_postfix" in terms) for _, part in scored]
        results.append(
            Gradient(
                terms=[_cut(term, length) for term in parts],
                loss=-reward_weight * value - nll_weight * own.values[i],
                reward=value,
                log_probabilities=own.log_probabilities[i],
                nll_weight=nll_weight,
                cost=cost.gradient_evaluation(
                    policy.parameters,
                    own.forward[i],
                    own.backward[i],
                    reward.parameters,
                    scored[0][1].forward[i],
                    scored[0][1].backward[i],
                ),
            )
        )
    return results


def _cut(term: Term, length: int) -> Term:
    hidden = None if term.hidden is None else term.hidden[:length]
    return term._replace(embedding_gradient=term.embedding_gradient[:length], hidden=hidden)


def _likelihood(
    model: Policy,
    prompts: list[list[int]],
    batch: list[TokenSequence],
    weight: float,
    *,
    cache: TokenCache | None,
    slots: list[int],
    keep: bool,
    whole: bool,
) -> _Pass:
    """log π of each response, and its gradient term times `weight`.

    Args:
        whole: the value counts the whole response (a reward); otherwise the rollout only (the policy's own term).
    """
    texts = [prompt + s.prefix + s.rollout for prompt, s in zip(prompts, batch, strict=True)]
    begins = [len(prompt) + len(s.prefix) for prompt, s in zip(prompts, batch, strict=True)]
    firsts = [len(prompt) for prompt in prompts] if whole else begins
    filled = _fill(model, texts, begins, cache, slots, firsts if whole else None)
    reading = read(model, texts, [begin - 1 for begin in begins], cache, slots, overlap=1, gradients=True)
    spans = reading.spans(firsts)
    hidden, targets = reading.predictors(spans)
    values, slopes = likelihood(model, hidden.detach(), targets, gradient=True)
    (gradient,) = torch.autograd.grad(hidden, reading.embeddings, grad_outputs=weight * slopes)
    sizes = [right - left for left, right in spans]
    parts, states = values.split(sizes), hidden.detach().split(sizes)
    totals = [part.sum().item() for part in parts]
    if cache is not None and whole:
        known = [
            cache.log_likelihood(slot, first, left) for slot, first, (left, _) in zip(slots, firsts, spans, strict=True)
        ]
        totals = [total + before for total, before in zip(totals, known, strict=True)]
    if cache is not None and keep:
        cache.put(slots, texts, reading.starts, reading.cache)
        if whole:
            cache.put_log_probs(slots, [left for left, _ in spans], parts)
    return _Pass(
        totals,
        [
            Term(model.embedding, gradient[i, begin - start : len(text) - start], weight, model, own[begin - left :])
            for i, (begin, start, text, own, (left, _)) in enumerate(
                zip(begins, reading.starts, texts, states, spans, strict=True)
            )
        ],
        list(parts),
        [more + length for more, length in zip(filled, reading.lengths, strict=True)],
        reading.lengths,
    )


def _classifier(
    reward: RewardModel,
    batch: list[TokenSequence],
    lengths: list[int],
    weight: float,
    cache: TokenCache | None,
    slots: list[int],
    keep: bool,
) -> _Pass:
    """A classifier's score, and its gradient term times `weight`; `lengths` rollout tokens are optimised."""
    texts = [s.reward_prompt + s.prefix + s.rollout + reward.suffix_ids for s in batch]
    begins = [len(s.reward_prompt) + len(s.prefix) for s in batch]
    filled = _fill(reward, texts, begins, cache, slots, None)
    reading = read(reward, texts, begins, cache, slots, gradients=True)
    with torch.enable_grad():
        scores = at_least_float32(reward.head_scores(reading.last()))
        (gradient,) = torch.autograd.grad(weight * scores.sum(), reading.embeddings)
    if cache is not None and keep:
        cache.put(slots, texts, reading.starts, reading.cache)
    terms = [
        Term(reward.embedding, gradient[i, begin - start : begin - start + length])
        for i, (begin, start, length) in enumerate(zip(begins, reading.starts, lengths, strict=True))
    ]
    forward = [more + length for more, length in zip(filled, reading.lengths, strict=True)]
    return _Pass(scores.detach().tolist(), terms, [], forward, reading.lengths)


def _fill(
    model: Policy | RewardModel,
    texts: Sequence[list[int]],
    counts: Sequence[int],
    cache: TokenCache | None,
    slots: Sequence[int],
    firsts: Sequence[int] | None,
) -> list[int]:
    """Read the first `counts` tokens of texts into their slots, without gradients; the number of tokens read, by text.

    Args:
        firsts: where given, the log-probabilities of the tokens from there on are kept too.
    """
    read_now = [0] * len(texts)
    if cache is None:
        return read_now
    lacking = [i for i, n in enumerate(counts) if n - cache.shared(slots[i], texts[i][:n]) > MIN_PREFILL]
    if not lacking:
        return read_now
    own, places = [texts[i][: counts[i]] for i in lacking], [slots[i] for i in lacking]
    reading = read(model, own, [len(text) - 1 for text in own], cache, places, overlap=1)
    cache.put(places, own, reading.starts, reading.cache)
    if firsts is not None:
        spans = reading.spans([firsts[i] for i in lacking])  # empty where there is nothing but the prompt
        if any(left < right for left, right in spans):
            values, _ = likelihood(model, *reading.predictors(spans))
            cache.put_log_probs(
                places, [left for left, _ in spans], values.split([right - left for left, right in spans])
            )
    for i, length in zip(lacking, reading.lengths, strict=True):
        read_now[i] = length
    return read_now
