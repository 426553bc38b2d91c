"""Scores of candidate next tokens by a classifier that reads prefixes of responses, batched and cached.

A prefix is not closed: the classifier's score is read at its last token, as in `scoring.rewards(close=False)`.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .. import cost
from ..cost import Cost
from ..engine import batching, scoring
from ..engine.cached_forward import read
from ..engine.numerics import NonFiniteError, at_least_float32, first_non_finite
from ..engine.sequences import ModelCaches, token_as_read
from ..models.language_models import RewardModel

SCORERS = ("exact", "gradient")


class PrefixScorer:
    """A classifier that follows the responses of a batch, one row per problem.

    It reads a response's new tokens only when candidates are scored; what comes after the last candidates is never
    read.

    Args:
        scorer: "exact" reads every candidate; "gradient" reads one, and predicts the others' scores to first order.

    Attributes:
        costs: spent so far, by row.
    """

    def __init__(self, reward: RewardModel, prompts: Sequence[list[int]], scorer: str):
        self.reward = reward
        self.prompts = prompts
        self.scorer = scorer
        self.caches = ModelCaches.branching()
        self.cache = self.caches.scorer
        self.slots = list(range(len(prompts)))
        self.unused_slots = itertools.count(len(prompts))
        self.costs = [Cost() for _ in prompts]
        self.forks: dict[int, list[int]] = defaultdict(list)  # by row, slots of the candidates that were read

    def scores(
        self, rows: Sequence[int], responses: Sequence[list[int]], candidates: Sequence[list[int]]
    ) -> Float[Tensor, "rows candidates"]:
        """Return r of each row's response followed by each of its candidate tokens.

        Args:
            rows: numbers of the rows.
            responses: tokens so far, of each of these rows.
            candidates: of each of these rows, equally many tokens; the first is the one read by "gradient".
        """
        texts = [self.prompts[row] + response for row, response in zip(rows, responses, strict=True)]
        self._catch_up(rows, texts)
        if self.scorer == "gradient":
            return self._predicted(rows, texts, candidates)
        return self._exact(rows, responses, candidates)

    def commit(self, row: int, place: int) -> None:
        """Keep what was read for the candidate at `place`, and forget the row's other candidates."""
        slot, forks = self.slots[row], self.forks.pop(row)
        survivor = forks[place] if place < len(forks) else slot
        known = len(self.cache.ids[slot])
        for number in {slot, *forks} - {survivor}:
            self.cache.drop(number, known)
        self.slots[row] = survivor

    def _charge(self, row: int, spent: Cost) -> None:
        self.costs[row] = cost.total([self.costs[row], spent])

    def _catch_up(self, rows: Sequence[int], texts: Sequence[list[int]]) -> None:
        """Read what the rows' slots do not hold yet."""
        behind = [i for i, row in enumerate(rows) if len(self.cache.ids[self.slots[row]]) < len(texts[i])]

        def fill(indices: list[int]) -> list[cost.Reads]:
            batch = [texts[behind[i]] for i in indices]
            slots = [self.slots[rows[behind[i]]] for i in indices]
            reading = read(self.reward, batch, [len(text) - 1 for text in batch], self.cache, slots)
            self.cache.put(slots, batch, reading.starts, reading.cache)
            return reading.reads

        reads = batching.run(fill, [len(texts[i]) for i in behind], self.reward.batch_limits)
        for i, part in zip(behind, reads, strict=True):
            self._charge(rows[i], cost.scoring(self.reward.size, part))

    def _exact(
        self, rows: Sequence[int], responses: Sequence[list[int]], candidates: Sequence[list[int]]
    ) -> Float[Tensor, "rows candidates"]:
        """Read every candidate, each in a fork of its row's slot."""
        count = len(candidates[0])
        forks = [self._fork(row) for row in rows for _ in range(count)]
        values, costs = scoring.rewards(
            self.reward,
            [self.prompts[row] for row in rows for _ in range(count)],
            [[*response, token] for response, tokens in zip(responses, candidates, strict=True) for token in tokens],
            caches=self.caches,
            slots=forks,
            close=False,
        )
        for number, spent in enumerate(costs):
            self._charge(rows[number // count], spent)
        return torch.tensor(values, dtype=torch.float64).view(len(rows), count)

    def _predicted(
        self, rows: Sequence[int], texts: Sequence[list[int]], candidates: Sequence[list[int]]
    ) -> Float[Tensor, "rows candidates"]:
        """Read the first candidate with its gradient; predict r(b) = r(a) + (E_b - E_a)·∂r/∂e_a for all of them.

        After an end token the first candidate's text goes on with the chat template's suffix. A policy's end token is
        read, and predicted, as the reward model's own.
        """
        reward = self.reward
        candidates = [[token_as_read(token, reward) for token in tokens] for tokens in candidates]
        slots = [self._fork(row) for row in rows]
        closed = [
            [*text, tokens[0], *(reward.suffix_ids if tokens[0] in reward.eos_ids else [])]
            for text, tokens in zip(texts, candidates, strict=True)
        ]

        def predict(indices: list[int]) -> list[tuple[Tensor, cost.Reads]]:
            batch, batch_slots = [closed[i] for i in indices], [slots[i] for i in indices]
            limits = [len(texts[i]) for i in indices]
            reading = read(reward, batch, limits, self.cache, batch_slots, gradients=True)
            with torch.enable_grad():
                values = at_least_float32(reward.head_scores(reading.last()))
                (slopes,) = torch.autograd.grad(values.sum(), reading.embeddings)
            self.cache.put(batch_slots, batch, reading.starts, reading.cache)
            tokens = torch.tensor([candidates[i] for i in indices], device=slopes.device)
            embeddings = at_least_float32(reward.embedding[tokens])  # [rows, candidates, hidden]
            moves = embeddings - embeddings[:, :1]
            predicted = values.detach()[:, None] + torch.einsum("rch,rh->rc", moves, at_least_float32(slopes[:, 0]))
            if (row := first_non_finite(predicted)) is not None:
                raise NonFiniteError(f"the score of {reward.name} at a candidate after {limits[row]} tokens")
            reads = [part.with_outputs(1) for part in reading.reads]
            return list(zip(predicted.double().cpu(), reads, strict=True))

        results = batching.run(predict, [len(text) for text in closed], reward.batch_limits)
        products = 2.0 * len(candidates[0]) * reward.embedding.shape[1]  # of each move with the slope
        for row, (_, reads) in zip(rows, results, strict=True):
            self._charge(row, cost.reward_gradient(reward.size, reads))
            self._charge(row, cost.gradient_arithmetic(products))
        return torch.stack([predicted for predicted, _ in results])

    def _fork(self, row: int) -> int:
        """Return a new slot that holds what the row's slot holds."""
        slot = next(self.unused_slots)
        self.cache.fork(self.slots[row], slot)
        self.forks[row].append(slot)
        return slot
