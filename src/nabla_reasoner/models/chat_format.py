"""Layout of a finished chat: what a chat template writes around an assistant's answer.

A policy's prompt ends with the opening of the assistant's turn. A reward model must read the text that its own template
writes for the finished chat, which may differ from prompt and answer in three places: Qwen3 writes an empty think block
before the answer, most templates write an end-of-turn token after it, and some write more after that token.
"""

from typing import NamedTuple

import transformers

from ..types import THINK_MARKS, Messages
from .chat_template import chat_text

ANSWER = "7319"  # occurs in no template; no character that templates strip
# They share neither beginning nor end, and differ in length and in the white space around them.
QUESTIONS = ("2+3", "What is 17 * 25?", " how many?\n", "Let n be even. " * 20 + "Find n!")


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

    Several questions are tried. A template that writes a question in another way once it is answered would have a
    layout that holds the question itself, which no other question must be read with. Chats of several messages are
    looked at when they are asked (`check_layout`): Mistral's templates write a system message in another place then.

    Raises:
        ValueError: the template refuses an answer, does not show it, merges it with its own text, or writes what comes
            before it in a way that depends on the chat.
    """
    first = _layout(tokenizer, [{"role": "user", "content": QUESTIONS[0]}])
    for question in QUESTIONS[1:]:
        check_layout(tokenizer, [{"role": "user", "content": question}], first)
    return first


def check_layout(tokenizer: transformers.PreTrainedTokenizerBase, chat: Messages, expected: ChatFormat) -> None:
    """Raise ValueError unless a finished chat has this layout, or the template refuses it."""
    try:
        layout = _layout(tokenizer, chat)
    except ValueError:
        layout = None
    if layout != expected:
        prompt, whole = _rendered(tokenizer, chat)
        raise ValueError(
            "its chat template must write a question in the same way before and after its answer, whatever the "
            f"chat; it writes {prompt!r}, and with the answer {ANSWER} {whole!r}. Correct chat_template: before "
            "the answer, let nothing depend on loop.last or on the number of messages."
        )


def written_opening(tokenizer: transformers.PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that the template writes before an answer and that are not in its prompt.

    A policy that was trained on such chats writes them itself.
    """
    try:
        return _layout(tokenizer, [{"role": "user", "content": QUESTIONS[0]}]).opening
    except ValueError:  # a policy never reads a finished chat
        return []


def end_of_turn(tokenizer: transformers.PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that the template writes after the answer to one question; see `ChatFormat.closing`.

    Raises:
        ValueError: see `read_format`; what comes before the answer may depend on the chat.
    """
    return _layout(tokenizer, [{"role": "user", "content": QUESTIONS[0]}]).closing


def _layout(tokenizer: transformers.PreTrainedTokenizerBase, question: Messages) -> ChatFormat:
    """Return the layout of one finished chat."""
    try:
        prompt, whole = _rendered(tokenizer, question)
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


def _rendered(tokenizer: transformers.PreTrainedTokenizerBase, question: Messages) -> tuple[str, str]:
    """Return a chat before its answer and the finished chat, as text."""
    chat = [*question, {"role": "assistant", "content": ANSWER}]
    return chat_text(tokenizer, question, add_generation_prompt=True), chat_text(tokenizer, chat)


def may_think(tokenizer: transformers.PreTrainedTokenizerBase) -> bool:
    """Return whether a model with this template may write a think block: it knows one, and its prompt closes none."""
    prompt = chat_text(tokenizer, [{"role": "user", "content": QUESTIONS[0]}], add_generation_prompt=True)
    return any(end not in prompt for _, end in _known_marks(tokenizer))


def keeps_thinking(tokenizer: transformers.PreTrainedTokenizerBase) -> bool:
    """Return whether the template writes an answer with a think block as it is, as it writes other answers.

    DeepSeek-R1's drops the block from a finished chat; Qwen3's also writes it in another place.
    """
    question = {"role": "user", "content": QUESTIONS[0]}
    _, whole = _rendered(tokenizer, [question])
    for begin, end in _known_marks(tokenizer):
        for opening in (begin, ""):  # the prompt may have opened the block
            answer = f"{opening}\n2 and 3\n{end}\n\n{ANSWER}".lstrip()
            try:
                written = chat_text(tokenizer, [question, {"role": "assistant", "content": answer}])
            except ValueError:
                return False
            if written != whole.replace(ANSWER, answer):
                return False
    return True


def open_block(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    """Return the beginning of a think block with which prompts end, e.g. DeepSeek-R1's; "" if they open none."""
    prompt = chat_text(tokenizer, [{"role": "user", "content": QUESTIONS[0]}], add_generation_prompt=True)
    begin = next((begin for begin, _ in THINK_MARKS if prompt.rstrip().endswith(begin)), None)
    return "" if begin is None else prompt[prompt.rindex(begin) :]


def closes_thinking(text: str) -> bool:
    """Return whether a text holds the end of a think block."""
    return any(end in text for _, end in THINK_MARKS)


def _known_marks(tokenizer: transformers.PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    """Return the marks of think blocks that a template treats in some way; one that names none keeps all."""
    template = tokenizer.get_chat_template()
    return [marks for marks in THINK_MARKS if any(mark in template for mark in marks)]


def think_tokens(tokenizer: transformers.PreTrainedTokenizerBase) -> set[int]:
    """Return the ids of special tokens that are marks of think blocks, or parts of such marks."""
    added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    marks = [mark for pair in THINK_MARKS for mark in pair]
    return {index for index, text in added.items() if text.strip() and any(text.strip() in mark for mark in marks)}


def special_ids(tokenizer: transformers.PreTrainedTokenizerBase) -> set[int]:
    """Return the ids of the tokenizer's special tokens."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _encode(tokenizer: transformers.PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)
