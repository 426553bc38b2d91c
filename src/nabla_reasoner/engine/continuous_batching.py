"""Continuous batching: sequences are decoded side by side, and the row of an ended one is reused."""

import dataclasses
from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..models.language_models import Policy
from . import numerics
from .decoding_cache import DecodingCache, read_tokens
from .kv_cache import TokenCache
from .numerics import NonFiniteError, at_least_float32
from .sampling import Sampling, draw


class TokenPredictions(NamedTuple):
    """The policy's predictions of a response's tokens, before temperature, top-k and top-p.

    Attributes:
        hidden: hidden states that yield the logits z.
        confidence: largest next-token probability.
        entropy: entropy of the next-token distribution, in nats.
    """

    hidden: Float[Tensor, "length hidden"]
    confidence: Float[Tensor, " length"]
    entropy: Float[Tensor, " length"]

    def numbers_on_cpu(self) -> "TokenPredictions":
        """Return the same with confidence and entropy on the CPU, where a GPU is not waited for to look at them."""
        return self._replace(confidence=self.confidence.cpu(), entropy=self.entropy.cpu())


class WaitingSequence(NamedTuple):
    """A sequence to be decoded.

    Attributes:
        index: its number in the call of `sample`.
        slot: cache slot of its prefix.
        output_slot: cache slot in which to store its tokens, or None.
        hidden: last hidden state of the prefix.
        noise: a uniform number for each token.
        limit: largest number of tokens.
        stops: tokens that end it, besides the policy's end-of-response tokens.
    """

    index: int
    slot: int
    output_slot: int | None
    prefix: list[int]
    hidden: Float[Tensor, " hidden"]
    noise: np.ndarray
    limit: int
    stops: Collection[int]


Stop = Callable[[TokenPredictions], Bool[Tensor, " rows"]]  # given a step's predictions: rows that end with its tokens


class EndedSequence(NamedTuple):
    """A sequence that was decoded; fields as in `generation.Rollout`."""

    token_ids: list[int]
    finished: bool
    predictions: TokenPredictions | None


@dataclasses.dataclass
class ContinuousBatch:
    """Sequences decoded side by side.

    Attributes:
        source: cache of the prefixes, which also stores the continuations.
        waiting: sequences to be decoded; the last one is the next.
        stop: ends sequences by the predictions of their last tokens; None ends none so.
        rows: the sequence in each row of the batch, or None.
        tokens: sampled tokens by sequence index.
        ended: indices of the sequences that have ended.
        predictions: predictions of all rows, a step each.
        prediction_rows: by sequence index, where its predictions are if those of all steps are concatenated.
    """

    policy: Policy
    sampling: Sampling
    source: TokenCache
    waiting: list[WaitingSequence]
    with_predictions: bool
    stop: Stop | None = None
    rows: list[WaitingSequence | None] = dataclasses.field(default_factory=list)
    tokens: dict[int, list[int]] = dataclasses.field(default_factory=dict)
    ended: set[int] = dataclasses.field(default_factory=set)
    predictions: list[TokenPredictions] = dataclasses.field(default_factory=list)
    prediction_rows: dict[int, list[int]] = dataclasses.field(default_factory=dict)

    def run(self, size: int) -> bool:
        """Decode all waiting sequences with at most `size` rows; return True."""
        self.rows = [None] * size
        self.cache = DecodingCache(self.source, size)
        first = self.waiting[-1].hidden
        hidden, count = first.new_zeros(size, len(first)), 0
        while True:
            free = [row for row, sequence in enumerate(self.rows) if self.is_free(sequence)]
            if 4 * len(free) >= len(self.rows):
                hidden = self.admit(free, hidden) if self.waiting else self.shrink(free, hidden)
            if not self.rows:
                return True
            logits = self.policy.logits(hidden)
            if self.with_predictions:
                wide = at_least_float32(logits)
                self.predictions.append(TokenPredictions(hidden, numerics.confidence(wide), numerics.entropy(wide)))
            tokens = self.draw(logits)
            stopped = self.stop(self.predictions[-1]).tolist() if self.stop else [False] * len(self.rows)
            self.append(tokens.where(numerics.finite_rows(logits), -1).tolist(), stopped, count)
            count += len(self.rows)
            if not all(self.is_free(sequence) for sequence in self.rows):
                hidden = self.step(tokens)

    def is_free(self, sequence: WaitingSequence | None) -> bool:
        """Return whether a row has no sequence, or one that has ended."""
        return sequence is None or sequence.index in self.ended

    def admit(self, free: list[int], hidden: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows hidden"]:
        """Fill free rows with waiting sequences."""
        self.store_ended(free)
        admitted = [self.waiting.pop() for _ in free[: len(self.waiting)]]
        rows = free[: len(admitted)]
        self.cache.admit(rows, self.source, [sequence.slot for sequence in admitted])
        for row, sequence in zip(rows, admitted, strict=True):
            self.rows[row] = sequence
            self.tokens[sequence.index] = []
            self.prediction_rows[sequence.index] = []
        index = torch.tensor(rows, device=hidden.device)
        return hidden.index_copy(0, index, torch.stack([sequence.hidden for sequence in admitted]))

    def shrink(self, free: list[int], hidden: Float[Tensor, "rows hidden"]) -> Float[Tensor, "left hidden"]:
        """Remove free rows; a smaller batch decodes faster."""
        self.store_ended(free)
        active = [row for row in range(len(self.rows)) if row not in set(free)]
        self.rows = [self.rows[row] for row in active]
        self.cache.select(active)
        return hidden[active]

    def store_ended(self, free: list[int]) -> None:
        """Copy the cached tokens of ended sequences to their slots."""
        rows = [row for row in free if self.rows[row] is not None and self.rows[row].output_slot is not None]
        if rows:
            ended = [self.rows[row] for row in rows]
            ids = [[*sequence.prefix, *self.tokens[sequence.index][:-1]] for sequence in ended]
            self.cache.copy_to(self.source, [sequence.output_slot for sequence in ended], rows, ids)

    def draw(self, logits: Float[Tensor, "rows vocab"]) -> Int[Tensor, " rows"]:
        uniform = [0.0 if self.is_free(s) else s.noise[len(self.tokens[s.index])] for s in self.rows]
        return draw(logits, torch.tensor(uniform, dtype=torch.float64, device=logits.device), self.sampling)

    def append(self, new_tokens: list[int], stopped: list[bool], count: int) -> None:
        """Append the new tokens to their sequences.

        Args:
            stopped: rows that end with these tokens whatever they are.
            count: rows computed in all earlier steps.

        Raises:
            NonFiniteError: a token is -1, which stands for logits that are not finite.
        """
        for row, (sequence, token) in enumerate(zip(self.rows, new_tokens, strict=True)):
            if self.is_free(sequence):
                continue
            tokens = self.tokens[sequence.index]
            if token < 0:
                place = f"token {len(tokens)} after {len(sequence.prefix)} tokens"
                raise NonFiniteError(f"logits of {self.policy.name} for {place}")
            tokens.append(token)
            self.prediction_rows[sequence.index].append(count + row)
            ends = token in self.policy.eos_ids or token in sequence.stops or stopped[row]
            if ends or len(tokens) == sequence.limit:
                self.ended.add(sequence.index)
                self.cache.end(row)

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows hidden"]:
        """Read the new tokens; return their hidden states."""
        return read_tokens(self.policy, self.cache, tokens)

    def finished(self) -> dict[int, EndedSequence]:
        """Return the ended sequences by index."""
        steps = None
        if self.predictions:
            steps = TokenPredictions(*map(torch.cat, zip(*self.predictions, strict=True))).numbers_on_cpu()
        ended = sorted(self.ended)
        predictions: list[TokenPredictions | None] = [None] * len(ended)
        if steps is not None:
            rows = [self.prediction_rows[i] for i in ended]
            order = torch.tensor([row for part in rows for row in part], dtype=torch.long)
            parts = (numbers[order.to(numbers.device)].split(list(map(len, rows))) for numbers in steps)
            predictions = [TokenPredictions(*part) for part in zip(*parts, strict=True)]
        return {
            i: EndedSequence(self.tokens[i], self.tokens[i][-1] in self.policy.eos_ids, predicted)
            for i, predicted in zip(ended, predictions, strict=True)
        }
