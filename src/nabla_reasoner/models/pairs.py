"""Checks that a policy and a reward model read the same tokens."""

from collections.abc import Sequence

import transformers

from .backbone import LanguageModel
from .chat_format import closes_thinking, may_think, written_opening


def check_pair(policy: LanguageModel, reward: LanguageModel, opening: Sequence[int], keeps_thinking: bool) -> None:
    """Raise ValueError unless a reward model reads a policy's responses as they were written.

    Args:
        policy: its end tokens need not be those of the reward.
        reward: has a matrix row for each of the policy's tokens.
        opening: tokens that the reward's chat template writes before an answer.
        keeps_thinking: whether that template keeps the think block of an answer.
    """
    rows = len(reward.model.get_input_embeddings().weight)
    if not same_ids(policy.tokenizer, reward) or rows < policy.vocab_size:
        raise ValueError(
            f"policy and reward must share one vocabulary; got {len(policy.tokenizer.get_vocab()):,} "
            f"({policy.name}) and {len(reward.tokenizer.get_vocab()):,} tokens ({reward.name}) that do not agree"
            f"{_first_difference(policy.tokenizer, reward)}. Choose a reward model of the same family."
        )
    thinks, before = may_think(policy.tokenizer), reward.tokenizer.decode(opening).strip()
    if thinks and closes_thinking(before):
        raise ValueError(
            "a policy that may think needs a reward whose chat template writes no think block of its own; "
            f"{reward.name} would read an empty block and then that of {policy.name}. Give the policy a chat "
            "template whose prompt ends with an empty think block, or choose another reward."
        )
    if before and (written := policy.tokenizer.decode(written_opening(policy.tokenizer)).strip()):
        raise ValueError(
            "a policy whose chat template writes more before an answer than its prompt has, writes that itself, so "
            f"that the reward's template must not write it too; {policy.name} writes {written!r}, and {reward.name} "
            f"would read {before!r} before it. Give the policy a chat template whose prompt ends with it."
        )
    if thinks and not keeps_thinking:
        raise ValueError(
            "a policy that may think needs a reward whose chat template keeps the think block of an answer; that "
            f"of {reward.name} drops or changes it, so that the reward would read what its template never writes. "
            f"Let that template write an answer as it is, give {policy.name} one whose prompt ends with an empty "
            "think block, or choose another reward."
        )


def read_opening(policy: LanguageModel, opening: list[int]) -> list[int]:
    """Return what a reward reads before a policy's responses: not the white space that they begin with themselves.

    Args:
        opening: tokens that the reward's chat template writes before an answer.
    """
    is_blank = not policy.tokenizer.decode(opening).strip()
    return [] if is_blank and written_opening(policy.tokenizer) == opening else opening


def same_ids(tokenizer: transformers.PreTrainedTokenizerBase, other: LanguageModel) -> bool:
    """Return whether every token of a tokenizer has the same id in another model's tokenizer."""
    ids = other.tokenizer.get_vocab()
    return all(ids.get(token) == index for token, index in tokenizer.get_vocab().items())


def _first_difference(tokenizer: transformers.PreTrainedTokenizerBase, other: LanguageModel) -> str:
    """Return the first token that has another id in another model's tokenizer, to be read in brackets; "" if none."""
    ids = other.tokenizer.get_vocab()
    wrong = sorted((index, token) for token, index in tokenizer.get_vocab().items() if ids.get(token) != index)
    return f" (the first is {wrong[0][1]!r}, {wrong[0][0]} and {ids.get(wrong[0][1], 'none')})" if wrong else ""
