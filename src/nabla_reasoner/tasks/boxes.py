r"""Boxed answers: the last `\boxed{…}`, boxes that are joined to it, and signs and factors that stand outside."""

import re
from fractions import Fraction
from typing import NamedTuple

from .equality import equal
from .exact_numbers import rational
from .notation import standard
from .response_parts import end_of_text

BOX_OR_BRACE = re.compile(r"\\{1,2}f?box(?:ed)?\s*\{|\\.|[{}]", re.DOTALL)
BLANK = re.compile(r"(?:[\s$~]|\\[ ,;:!]|\\q?quad(?![A-Za-z])|\\text\{\s*\})*+")
LONGEST_JOINT = 60  # characters between two boxes of one answer
JOINT = re.compile(
    r"(?=.*?(?:,|and|or))(?:[\s$,]|\\[()\[\], ;]|\\q?quad(?![A-Za-z])|(?:and|or)(?![A-Za-z])|"
    r"\\text\{[\s,]*+(?:and|or)?[\s,]*+\})*+",
    re.DOTALL,
)
NAME_BEFORE = re.compile(  # "x =", but neither "2x =" nor "a + x ="
    r"(?:\A|[$,;:.(\[\n]|[A-Za-z]{2}\s|\\text\{[^{}]*\})\s*"
    r"((?:\\[A-Za-z]+|[A-Za-z])(?:_(?:\w|\{\w+\}))?)\s*=\s*\Z"
)
LONGEST_NUMBER = 100  # characters
BEFORE_SIGN = 40  # characters that tell a sign from a difference
# After "answer" a dash is no sign, but after "answer is" it is one.
SIGNED = re.compile(
    r"(?:\A|(?:[=:$(\[{,]|\\(?:text\{[^{}]*\}|[({[]))\s*|(?<=[A-Za-z]{2})(?<!nswer)(?<!esult)[ \t]+)[-−]\Z"
)
COMMAND_BEFORE = re.compile(r"\\[A-Za-z]+\s+[-−]\Z")  # \pi -
NO_TERM = re.compile(r"[=<>,;:&]|\\(?:text\w*|mathrm|le|ge|leq|geq|pm|cup|in|approx|begin)(?![A-Za-z])")
SUM = re.compile(r"[-+−]")
POWER = r"\^(?:\d|\{\s*\d{1,9}\s*\})"
ROOT = r"(?:\\cdot\s*|\\times\s*)?(?:\\sqrt\s*(?:\[\d\]\s*)?(?:\{[^{}]{1,40}\}|\d))"
END_OF_FORMULA = r"(?=\s{0,9}(?:\$|\\\)|\\\]))"
# Letters and \pi are none: in \boxed{3}x^2 and \boxed{36}\pi the box has the coefficient that is asked for.
FACTOR = re.compile(
    rf"[ ]{{0,3}}(?:(?:{ROOT}|{POWER})+(?:{END_OF_FORMULA}|(?=[.,;]?(?:\s++(?![-+=*/<>\\])|\Z)))|"
    rf"(?:{ROOT}|{POWER}|!)+{END_OF_FORMULA})"
)


CHOICE = re.compile(r"[\s$]*(?:\\[a-z]+\s*\{\s*)?\(?[A-F]\)?[\s}$.]*")
MOST_COMPARED = 4  # boxes of one answer that are compared with each other


class Box(NamedTuple):
    """Places of a box: of its content in the text, of its command and of the brace that closes it."""

    start: int
    command: int
    end: int


def last_boxed(text: str, with_empty: bool = True) -> str | None:
    r"""Return the content of the last `\boxed{…}` or `\fbox{…}` with balanced braces, or None.

    Args:
        text: may have several boxes.
        with_empty: False to leave out boxes of blanks only, as in "put it in $\boxed{}$".
    """
    last = max(_boxes(text, with_empty), default=None)
    return None if last is None else _content(text, last)


def stated_box(text: str) -> str | None:
    r"""Return the content of the last box that is not empty, "" if all are empty, or None; see `last_boxed`."""
    full = last_boxed(text, with_empty=False)
    return last_boxed(text) and "" if full is None else full


def boxed_answer(text: str, joined: bool) -> str | None:
    r"""Return what the last box that is not empty states, "" if all boxes are empty, or None.

    A sign that touches the box belongs to it, and a factor after it: -\boxed{5}, \boxed{2}\sqrt{3}.

    Args:
        text: may have several boxes.
        joined: whether boxes with only a comma or "and" between them, or numbers with "or", are one answer, a list.
    """
    boxes = sorted(_boxes(text, with_empty=False))
    if not boxes:
        return last_boxed(text) and ""
    first = len(boxes) - 1
    while joined and first and _are_joined(text, *boxes[first - 1 : first + 1]):
        first -= 1
    answers = [_with_surroundings(text, box) for box in boxes[first:]]
    return answers[0] if len(answers) == 1 else ", ".join(_different(answers))


def _different(answers: list[str]) -> list[str]:
    r"""Return answers without those that a later one repeats, as in \boxed{x=3}, \boxed{3}."""
    different = list({_key(answer): answer for answer in answers}.values())
    if len(different) > MOST_COMPARED:
        return different
    return [
        answer
        for index, answer in enumerate(different)
        if not any(equal(*sorted((answer, later)))[0] for later in different[index + 1 :])
    ]


def _boxes(text: str, with_empty: bool) -> list[Box]:
    opened: list[tuple[int, int] | None] = []  # of each open brace: its box, None for other braces
    boxes = []
    for mark in BOX_OR_BRACE.finditer(text):
        if mark[0] == "}":
            begin = opened.pop() if opened else None
            if begin is not None and (with_empty or not BLANK.fullmatch(text, begin[0], mark.start())):
                boxes.append(Box(*begin, mark.start()))
        elif mark[0][-1] == "{" and mark[0] != r"\{":
            opened.append(None if mark[0] == "{" else (mark.end(), mark.start()))
    return boxes


def _content(text: str, box: Box) -> str:
    content = text[box.start : box.end].lstrip()
    last = end_of_text(content, len(content))
    return content[: last + content.endswith("\\", 0, last)]  # keeps the escaped space of `5\ `


def _are_joined(text: str, left: Box, right: Box) -> bool:
    """Return whether two boxes are one answer. With "or" only numbers are: "x + 11 or 11 + x" says the same twice.

    Both may have the same name before them: x = 5 or x = -5. The letter of a choice and a value are none.
    """
    names = [NAME_BEFORE.search(text, max(box.command - BEFORE_SIGN, 0), box.command) for box in (left, right)]
    same_name = all(names) and names[0][1] == names[1][1]
    end = names[1].start(1) if same_name else right.command
    if not 0 < right.command - left.end < LONGEST_JOINT or not JOINT.fullmatch(text, left.end + 1, end):
        return False
    if len({bool(CHOICE.fullmatch(text, box.start, box.end)) for box in (left, right)}) > 1:
        return False
    is_choice = "or" in text[left.end : right.command]
    values = [_content(text, box).rpartition("=")[2] for box in (left, right)]
    return not is_choice or all(isinstance(_key(value), Fraction) for value in values)


def _key(answer: str) -> Fraction | str:
    r"""Return what one answer in two boxes has in common, as in \boxed{\frac12} or \boxed{0.5}."""
    number = rational(standard(answer)) if len(answer) <= LONGEST_NUMBER else None
    return answer if number is None else number


def _with_surroundings(text: str, box: Box) -> str:
    content = _content(text, box)
    factor = FACTOR.match(text, box.end + 1)
    begin = max(box.command - BEFORE_SIGN, 0)
    before = text[begin : box.command]
    is_negative = SIGNED.search(before) and not COMMAND_BEFORE.search(before)
    if not (factor or is_negative) or NO_TERM.search(content):
        return content
    is_sum, is_power = SUM.search(content), factor and re.match(r"\s*[!^]", factor[0])
    term = f"({content})" if is_sum or (is_power and not content.isalnum()) else content
    return f"{'-' if is_negative else ''}{term}{factor[0] if factor else ''}"
