"""Training examples: padding, and batches mixed from several tasks."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Example(NamedTuple):
    """One training sequence.

    Attributes:
        group: sequences of one group (a task) are padded together, so that short ones are not padded to long ones.
        prompt_ids: chat prompt, not trained on.
        response_ids: what follows it.
        labels: reward training only: 1.0 where the response up to and including that token is right.
    """

    group: str
    prompt_ids: list[int]
    response_ids: list[int]
    labels: list[float] | None = None


class Padded(NamedTuple):
    """Sequences of one group, padded on the right.

    Attributes:
        ids: prompt and response.
        is_response: True at the response's tokens.
        labels: per response token for reward training, 0 elsewhere.
        last: position of each sequence's last token.
    """

    ids: Int[Tensor, "batch seq"]
    is_response: Bool[Tensor, "batch seq"]
    labels: Float[Tensor, "batch seq"]
    last: Int[Tensor, " batch"]


def pad(examples: Sequence[Example]) -> list[Padded]:
    """Collate examples into one right-padded block per group."""
    blocks = []
    for group in sorted({example.group for example in examples}):
        members = [example for example in examples if example.group == group]
        width = max(len(example.prompt_ids) + len(example.response_ids) for example in members)
        ids = torch.zeros(len(members), width, dtype=torch.long)
        is_response = torch.zeros(len(members), width, dtype=torch.bool)
        labels = torch.zeros(len(members), width)
        last = torch.zeros(len(members), dtype=torch.long)
        for row, (_, prompt, response, targets) in enumerate(members):
            end = len(prompt) + len(response)
            ids[row, :end] = torch.tensor([*prompt, *response])
            is_response[row, len(prompt) : end] = True
            if targets is not None:
                labels[row, len(prompt) : end] = torch.tensor(targets)
            last[row] = end - 1
        blocks.append(Padded(ids, is_response, labels, last))
    return blocks


class Mixture(torch.utils.data.IterableDataset):
    """An endless stream of batches in which every group has its fixed share.

    Args:
        pools: examples by group.
        counts: examples of each group in a batch.
        seed: of the order. `first_batch` batches are drawn and passed over, so a resumed training sees what it would
            have seen.
        collate: what a batch is made into.
        repeats: how many times in a row each batch is given, >= 1.
    """

    def __init__(
        self,
        pools: dict[str, list],
        counts: dict[str, int],
        seed: int,
        *,
        collate: Callable[[list], Any] = pad,
        repeats: int = 1,
    ):
        super().__init__()
        for group in counts:
            if not pools.get(group):
                raise ValueError(f"every group of a batch must have examples; {group!r} has none. Drop it.")
        self.pools, self.counts, self.seed, self.first_batch = pools, counts, seed, 0
        self.collate, self.repeats = collate, repeats

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(self.seed)
        for number in itertools.count(step=self.repeats):
            batch = []
            for group, count in self.counts.items():
                pool = self.pools[group]
                batch += [pool[i] for i in torch.randint(len(pool), (count,), generator=generator).tolist()]
            if number >= self.first_batch:
                for _ in range(self.repeats):
                    yield self.collate(batch)
