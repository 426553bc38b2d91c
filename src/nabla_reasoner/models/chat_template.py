"""Chats as a tokenizer's chat template writes them."""

import transformers

from ..types import Messages


def chat_text(
    tokenizer: transformers.PreTrainedTokenizerBase, messages: Messages, *, add_generation_prompt: bool = False
) -> str:
    """Return a chat as its template writes it; every chat that a model reads is written here.

    Args:
        add_generation_prompt: open the assistant's turn at the end.
    """
    return tokenizer.apply_chat_template(list(messages), add_generation_prompt=add_generation_prompt, tokenize=False)
