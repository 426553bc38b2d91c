"""Training examples: chat prompts with responses, padded blocks, and batches mixed from several tasks."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..models.tokenizers import chat_ids
from ..tasks.worked_solutions import worked_solution
from ..types import Problem


class Example(NamedTuple):
    """One training sequence.

    Attributes:
        group: task or origin; only sequences of one group are padded to a common length.
        prompt_ids: chat prompt, excluded from the loss.
        response_ids: response tokens.
        labels: reward training only: 1.0 where the response up to and including that token is right, else 0.0. For a
            verifier also values between, and NaN at a token without a label.
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
        labels: label of each response token in reward training, 0 elsewhere.
        last: position of each sequence's last token.
    """

    ids: Int[Tensor, "batch seq"]
    is_response: Bool[Tensor, "batch seq"]
    labels: Float[Tensor, "batch seq"]
    last: Int[Tensor, " batch"]

    def to(self, device: torch.device) -> "Padded":
        """Return the same sequences on a device."""
        return Padded(*(part.to(device) for part in self))


def solution_ids(tokenizer: PreTrainedTokenizerBase, problem: Problem, eos_id: int) -> list[int]:
    """Return the token ids of the problem's worked solution, with the end-of-turn token `eos_id` appended."""
    return [*tokenizer.encode(worked_solution(problem), add_special_tokens=False), eos_id]


def chat_example(
    tokenizer: PreTrainedTokenizerBase,
    problem: Problem,
    response_ids: list[int],
    labels: list[float] | None = None,
) -> Example:
    """Return a response to a problem as an example in the tokenizer's chat format; its group is the task."""
    return Example(problem.task, chat_ids(tokenizer, problem.messages), response_ids, labels)


def solution_examples(tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], eos_id: int) -> list[Example]:
    """Return the worked solutions of the problems as examples, with the end-of-turn token `eos_id` appended."""
    return [chat_example(tokenizer, problem, solution_ids(tokenizer, problem, eos_id)) for problem in problems]


def pad(examples: Sequence[Example]) -> list[Padded]:
    """Collate examples into one right-padded block per group, in the alphabetical order of the groups."""
    blocks = []
    for group in sorted({example.group for example in examples}):
        members = [example for example in examples if example.group == group]
        width = max(len(example.prompt_ids) + len(example.response_ids) for example in members)
        ids = torch.zeros(len(members), width, dtype=torch.long)
        is_response = torch.zeros(len(members), width, dtype=torch.bool)
        labels = torch.zeros(len(members), width)
        last = torch.zeros(len(members), dtype=torch.long)
        for row, (_, prompt_ids, response_ids, response_labels) in enumerate(members):
            end = len(prompt_ids) + len(response_ids)
            ids[row, :end] = torch.tensor([*prompt_ids, *response_ids])
            is_response[row, len(prompt_ids) : end] = True
            if response_labels is not None:
                labels[row, len(prompt_ids) : end] = torch.tensor(response_labels)
            last[row] = end - 1
        blocks.append(Padded(ids, is_response, labels, last))
    return blocks


class Mixture(torch.utils.data.IterableDataset):
    """An endless stream of batches in which every group has a fixed share.

    Args:
        pools: items by group.
        counts: items of each group in a batch.
        seed: seed of the order.
        collate: turns a list of items into a batch.
        repeats: how many times in a row each batch is yielded, >= 1.

    Attributes:
        first_batch: number of the first batch yielded; a resumed training sets it to the steps it has done.

    Raises:
        ValueError: a group of the batch has no items.
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
        self.pools = pools
        self.counts = counts
        self.seed = seed
        self.collate = collate
        self.repeats = repeats
        self.first_batch = 0

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
