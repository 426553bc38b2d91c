"""Layout of a finished chat: what a chat template writes around an assistant's answer.

A policy's prompt ends with the opening of the assistant's turn. A reward model must read the text that its own template
writes for the finished chat, which may differ from prompt and answer in three places: Qwen3 writes an empty think block
before the answer, most templates write an end-of-turn token after it, and some write more after that token.
"""

from typing import NamedTuple

import transformers

ANSWER = "7319"  # occurs in no template; no character that templates strip


class ChatFormat(NamedTuple):
    """Tokens around an assistant's answer, as a chat template writes them.

    Attributes:
        dropped: number of tokens at the end of the opened prompt that the finished chat does not have.
        opening: tokens of the finished chat between the rest of the prompt and the answer.
        closing: tokens after the answer; the first one is the end-of-turn token if there is one.
    """

    dropped: int
    opening: list[int]
    closing: list[int]


def read_format(tokenizer: transformers.PreTrainedTokenizerBase) -> ChatFormat:
    """Return the layout of a finished chat, found by comparing it with the same chat before its answer.

    Raises:
        ValueError: the template refuses an answer, does not show it, or merges it with its own text.
    """
    question = [{"role": "user", "content": "2+3"}]
    chat = [*question, {"role": "assistant", "content": ANSWER}]
    try:
        prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception as error:  # Jinja's errors, and what templates raise themselves
        raise ValueError(f"its chat template cannot write a finished chat ({error}). Correct chat_template.") from error
    shared = next(
        (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(map(len, (prompt, whole)))
    )
    before, answer, after = whole[shared:].partition(ANSWER)
    if not answer:
        raise ValueError(f"its chat template must write the assistant's answer; got {whole!r}. Correct chat_template.")
    dropped, opening, closing = (_encode(tokenizer, text) for text in (prompt[shared:], before, after))
    prompt_ids, ids = _encode(tokenizer, prompt), _encode(tokenizer, whole)
    beginning = prompt_ids[: len(prompt_ids) - len(dropped)]
    if ids[: len(beginning) + len(opening)] != beginning + opening and not before.strip():
        opening = []  # white space that the tokenizer joins to the answer's first token
    if [*beginning, *dropped] != prompt_ids or [*beginning, *opening] != ids[: len(beginning) + len(opening)]:
        raise ValueError(
            f"its chat template must begin a finished chat like its prompt; got {prompt!r} and {whole!r}. "
            "Correct chat_template."
        )
    if closing != ids[len(ids) - len(closing) :]:
        raise ValueError(
            f"its chat template must close an answer with tokens of its own; got {after!r}, which the tokenizer joins "
            "to the answer. Close it with a special token."
        )
    return ChatFormat(len(dropped), opening, closing)


def special_ids(tokenizer: transformers.PreTrainedTokenizerBase) -> set[int]:
    """Return the ids of the tokenizer's special tokens."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _encode(tokenizer: transformers.PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)
