"""Parts of a response: think blocks, the tokens that end it, and the last tag."""

import re

from ..types import THINK_MARKS

SPECIAL_TOKEN = re.compile(r"</s>|<eos>|<end_of_turn>|<[|｜][\w▁]{1,40}[|｜]>")  # one that may end a response
LONGEST_TOKEN = 44  # characters of a special token
THINK, END_OF_THINK = (re.compile("|".join(map(re.escape, marks))) for marks in zip(*THINK_MARKS, strict=True))
TAG, END_OF_TAG = "<answer>", "</answer>"


def outside_thinking(response: str) -> tuple[str, bool]:
    """Return what a response says outside its think blocks, and whether its thinking ended.

    What follows the last `</think>` is said; the prompt may have opened that block. Of a response without one, or
    whose thinking begins again, what stands before `<think>` is said, and the thinking never ended.
    """
    start = max((mark.end() for mark in END_OF_THINK.finditer(response)), default=0)
    opened = THINK.search(response, start)
    return response[start : opened.start() if opened else None], opened is None


def without_end_tokens(response: str) -> str:
    """Return a response without the special tokens that end it."""
    end = len(response)
    while True:
        last = end_of_text(response, end)
        begin = response.rfind("<", max(last - LONGEST_TOKEN, 0), last)
        if begin < 0 or not SPECIAL_TOKEN.fullmatch(response, begin, last):
            return response[:end]
        end = begin


def end_of_text(text: str, end: int) -> int:
    """Return where the white space before `end` begins."""
    while end and text[end - 1].isspace():
        end -= 1
    return end


def tagged(response: str) -> str | None:
    """Return what the last `<answer>…</answer>` that is not blank encloses, "" if all are blank, or None."""
    content, position = None, 0
    while (begin := response.find(TAG, position)) >= 0:
        end = response.find(END_OF_TAG, begin + len(TAG))
        if end < 0:
            break
        enclosed, position = response[begin + len(TAG) : end].strip(), end + len(END_OF_TAG)
        content = enclosed or content or ""
    return content
