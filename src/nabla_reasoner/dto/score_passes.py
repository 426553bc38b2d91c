"""Passes of a reward model with a score head: at the end of responses, at every token, or at single tokens."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..cost import Reads
from ..engine import batching
from ..engine.cached_forward import check_gradient, read
from ..engine.kv_cache import PrefixCache
from ..engine.numerics import NonFiniteError, at_least_float32, first_non_finite
from ..engine.sequences import TokenSequence, as_read, with_end_token
from ..engine.stored_prefixes import Slots, fill, put_new
from ..models.language_models import RewardModel


class ScorePass(NamedTuple):
    """Scores of a batch; entries are by sequence.

    Attributes:
        values: score of the closed response; None where it was not read.
        prefix_rewards: scores at the rollout's tokens; None if only whole responses were scored.
        embedding_gradients: gradient with respect to the embeddings of the rollout's tokens; None without a backward
            pass.
        forward, backward: what was read.
    """

    values: list[float | None]
    prefix_rewards: list[Float[Tensor, " _"]] | None
    embedding_gradients: list[Float[Tensor, "_ hidden"] | None]
    forward: list[Reads]
    backward: list[Reads]


def whole_responses(
    reward: RewardModel,
    batch: Sequence[TokenSequence],
    weight: float | int,
    store: Slots,
    *,
    backward: bool,
    every_token: bool,
) -> ScorePass:
    """Read closed responses; the gradient is that of `weight` times the score at the end.

    Args:
        every_token: the gradient is instead that of `weight` times the sum of the scores at the rollout's own tokens.
    """
    lengths = [len(s.rollout) for s in batch]
    texts = [s.reward_prompt + s.prefix + with_end_token(s, reward).rollout + reward.suffix_ids for s in batch]
    starts = [len(s.reward_prompt) + len(s.prefix) for s in batch]
    filled = fill(reward, texts, starts, store)
    limits = starts if backward or every_token else [len(text) - 1 for text in texts]
    reading = read(reward, texts, limits, store.cache, store.slots, gradients=backward)
    at_tokens, gradients = None, [None] * len(batch)
    with torch.set_grad_enabled(backward):
        scores = at_least_float32(reward.head_scores(reading.last()))
        minimised = scores.sum()
        if every_token:
            columns = [start - skipped for start, skipped in zip(starts, reading.starts, strict=True)]
            pairs = list(zip(columns, lengths, strict=True))
            states = [reading.hidden[i, begin : begin + length] for i, (begin, length) in enumerate(pairs)]
            at_tokens = at_least_float32(reward.head_scores(torch.cat(states)))
            minimised = at_tokens.sum()
        _check_scores(reward, scores, texts)
        if backward:
            (gradient,) = torch.autograd.grad(weight * minimised, reading.embeddings)
            check_gradient(reward, reading, gradient)
            gradients = [
                gradient[i, start - skipped : start - skipped + length]
                for i, (start, skipped, length) in enumerate(zip(starts, reading.starts, lengths, strict=True))
            ]
    if store.keep and store.cache is not None:
        store.cache.put(store.slots, texts, reading.starts, reading.cache)
    outputs = [1 + length * every_token for length in lengths]
    reads = [part.with_outputs(count) for part, count in zip(reading.reads, outputs, strict=True)]
    return ScorePass(
        values=scores.detach().tolist(),
        prefix_rewards=None if at_tokens is None else list(at_tokens.detach().cpu().split(lengths)),
        embedding_gradients=gradients,
        forward=[before_rollout + part for before_rollout, part in zip(filled, reads, strict=True)],
        backward=reads if backward else [Reads()] * len(batch),
    )


def own_tokens(
    reward: RewardModel, batch: Sequence[TokenSequence], weight: float | int, store: Slots, *, backward: bool
) -> ScorePass:
    """Read the score at every rollout token; the gradient at a token is that of `weight` times its own score.

    A token's own term holds the keys and values of earlier tokens fixed. They are read once, without gradients, into
    the cache; then every token is a row of its own, one token forward and backward after its cached prefix.
    """
    if store.cache is None:
        store = Slots(PrefixCache(len(batch)), range(len(batch)))
    starts = [len(s.reward_prompt) + len(s.prefix) for s in batch]
    texts = [s.reward_prompt + s.prefix + as_read(s, reward).rollout for s in batch]
    forward = fill(reward, texts, [len(text) - 1 for text in texts], store, allowed=0)
    rows = [(i, end) for i, start in enumerate(starts) for end in range(start + 1, len(texts[i]) + 1)]

    def read_rows(indices: list[int]) -> list[tuple[Tensor, Tensor | None, Reads]]:
        ends = [rows[k] for k in indices]
        parts, slots = [texts[i][:end] for i, end in ends], [store.slots[i] for i, _ in ends]
        reading = read(reward, parts, [end - 1 for _, end in ends], store.cache, slots, gradients=backward)
        gradients = [None] * len(ends)
        with torch.set_grad_enabled(backward):
            scores = at_least_float32(reward.head_scores(reading.last()))
            _check_scores(reward, scores, parts)
            if backward:
                (gradient,) = torch.autograd.grad(weight * scores.sum(), reading.embeddings)
                check_gradient(reward, reading, gradient)
                gradients = list(gradient[torch.arange(len(ends)), torch.tensor(reading.lengths) - 1])
        if store.keep:  # the slots hold all but the last token of each sequence
            put_new(Slots(store.cache, slots), reading)
        reads = [part.with_outputs(1) for part in reading.reads]
        return list(zip(scores.detach().cpu().unbind(), gradients, reads, strict=True))

    results = iter(batching.run(read_rows, [end for _, end in rows], reward.batch_limits))
    by_sequence = [[next(results) for _ in s.rollout] for s in batch]
    reads = [sum((part for _, _, part in tokens), Reads()) for tokens in by_sequence]
    return ScorePass(
        values=[None] * len(batch),
        prefix_rewards=[torch.stack([score for score, _, _ in tokens]) for tokens in by_sequence],
        embedding_gradients=[
            torch.stack([gradient for _, gradient, _ in tokens]) if backward else None for tokens in by_sequence
        ],
        forward=[before + part for before, part in zip(forward, reads, strict=True)],
        backward=reads if backward else [Reads()] * len(batch),
    )


def _check_scores(reward: RewardModel, scores: Float[Tensor, " batch"], texts: Sequence[list[int]]) -> None:
    if (row := first_non_finite(scores.detach())) is not None:
        raise NonFiniteError(f"the score of {reward.name} at the last of {len(texts[row])} tokens")
