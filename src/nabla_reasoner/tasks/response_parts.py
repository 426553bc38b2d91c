"""Parts of a response: think blocks, the tokens that end it, the last tag and the last box."""

import re

BOX_OR_BRACE = re.compile(r"\\{1,2}f?box(?:ed)?\s*\{|\\.|[{}]", re.DOTALL)
BLANK = re.compile(r"(?:[\s$~]|\\[ ,;:!]|\\q?quad(?![A-Za-z])|\\text\{\s*\})*+")
SPECIAL_TOKEN = re.compile(r"</s>|<eos>|<end_of_turn>|<[|｜][\w▁]{1,40}[|｜]>")  # one that may end a response
LONGEST_TOKEN = 44  # characters of a special token
THINK, END_OF_THINK = "<think>", "</think>"
TAG, END_OF_TAG = "<answer>", "</answer>"


def outside_thinking(response: str) -> tuple[str, bool]:
    """Return what a response says outside its think blocks, and whether its thinking ended.

    What follows the last `</think>` is said; the prompt may have opened that block. Of a response without one, or
    whose thinking begins again, what stands before `<think>` is said, and the thinking never ended.
    """
    said, opened, _ = response.rpartition(END_OF_THINK)[2].partition(THINK)
    return said, not opened


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


def stated_box(text: str) -> str | None:
    r"""Return the content of the last box that is not empty, "" if all are empty, or None; see `last_boxed`."""
    full = last_boxed(text, with_empty=False)
    return last_boxed(text) and "" if full is None else full


def last_boxed(text: str, with_empty: bool = True) -> str | None:
    r"""Return the content of the last `\boxed{…}` or `\fbox{…}` with balanced braces, or None.

    Args:
        text: may have several boxes.
        with_empty: False to leave out boxes of blanks only, as in "put it in $\boxed{}$".
    """
    opened: list[int | None] = []  # of each open brace: where its box's content begins, None for other braces
    start = end = -1
    for mark in BOX_OR_BRACE.finditer(text):
        if mark[0] == "}":
            begin = opened.pop() if opened else None
            if begin is not None and begin > start and (with_empty or not BLANK.fullmatch(text, begin, mark.start())):
                start, end = begin, mark.start()
        elif mark[0][-1] == "{" and mark[0] != r"\{":
            opened.append(None if mark[0] == "{" else mark.end())
    if start < 0:
        return None
    content = text[start:end].lstrip()
    last = end_of_text(content, len(content))
    return content[: last + content.endswith("\\", 0, last)]  # keeps the escaped space of `5\ `
