"""Texts of tokens that a policy wrote, with the marks of its think blocks."""

from collections.abc import Sequence
from typing import NamedTuple

import transformers

from .chat_format import open_block, think_tokens


class ResponseTexts(NamedTuple):
    """How the tokens of one policy are written as text.

    Attributes:
        tokenizer: of the policy.
        open_block: beginning of a think block with which its prompts end; "" if they end with none.
        think_tokens: special tokens that are marks of think blocks, or parts of such marks.
    """

    tokenizer: transformers.PreTrainedTokenizerBase
    open_block: str
    think_tokens: frozenset[int]

    @classmethod
    def of(cls, tokenizer: transformers.PreTrainedTokenizerBase) -> "ResponseTexts":
        """Return the texts of a tokenizer with a chat template."""
        return cls(tokenizer, open_block(tokenizer), frozenset(think_tokens(tokenizer)))

    def plain(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens without special tokens."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def marked(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens without special tokens, except marks of think blocks."""
        texts, part = [], []
        for token in token_ids:
            if token in self.think_tokens:
                texts += [self.plain(part), self.tokenizer.decode([token])]
                part = []
            else:
                part.append(token)
        return "".join([*texts, self.plain(part)])

    def response(self, token_ids: Sequence[int]) -> str:
        """Return the text of a response; one whose think block the prompt opened begins with that beginning."""
        return self.open_block + self.marked(token_ids)
