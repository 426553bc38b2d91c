"""Answers of tasks where every answer is one number: "18 dollars for the eggs", and m + n = 204, whose value is 204."""

import re

from .answer_parts import entries
from .equations import RELATION, named
from .exact_numbers import NUMBER_WORDS, rational
from .notation import standard
from .quantities import PART, quantity

TASKS = frozenset({"gsm8k"})
ONE_NUMBER = TASKS | {"aime24", "aime25", "amc"}  # tasks whose references are one number, never a list
LONGEST = 300  # characters of an answer that is looked at
NUMBER = r"[-−]?\s?(?:\\?\$)?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d,.]*\d)"
WORD = r"[A-Za-z]+(?:['’][a-z]{0,2})?(?:-[A-Za-z]+)*"
ASIDE = re.compile(r"\s+\([^()]*[A-Za-z]{2}[^()]*\)$")
WORDED = re.compile(rf"((?:{WORD}(?:\s*[:=]\s*|,?\s+))*)({NUMBER})\$?\s?(\\?%)?((?:[\s,/]+{WORD})*)\s*[.!?]*")
PERCENT = re.compile(r"\s*(?:per\s?cent|percentage)\b", re.IGNORECASE)
IN_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal|tt|sf|sc)?|math(?:rm|bf|it|sf)|[mh]box)\s*\{([^{}]*)\}")
SPACE = re.compile(r"\\[,;: ]|\\q?quad(?![A-Za-z])|~")
# Words beside a number that change it, or make a condition of it: "18 or more", "18 below zero", "18 and a half".
CHANGED = frozenset(
    "or not no nor below under above beyond zero negative minus plus times by through until if when where "
    "unless except without half hundred squared cubed dozen score remainder base power root mod past between but "
    "debt mil mill grand tens scores versus vs isn't x cannot instead never neither wrong incorrect".split()
)
CHANGED_BEFORE = CHANGED | frozenset("at least most up than twice thrice double triple exceeds".split())


def plain_number(answer: str, task: str) -> str:
    """Return the number of an answer that has words around it, or ends an equation; else the answer.

    Args:
        answer: as it was extracted.
        task: answers of tasks that have other answers than numbers stay as they are.
    """
    if task not in ONE_NUMBER or len(answer) > LONGEST:
        return answer
    side = _last_side(answer)
    if side is not None and rational(quantity(standard(side)).value) is not None:
        return side if named(standard(answer))[0] == "" else answer  # x = 18 is left to `equality`
    if task not in TASKS:
        return answer
    return _without_words(answer) or (side and _without_words(side)) or answer


def _without_words(answer: str) -> str | None:
    """Return the number of an answer with other words around it, and its percent sign; None if it is no such."""
    text = SPACE.sub(" ", answer.replace("{,}", ","))
    for _ in range(2):  # one within another: \mathbf{18 \text{ eggs}}
        text = IN_TEXT.sub(r" \1 ", text)
    text = " ".join(text.split())
    match = WORDED.fullmatch(ASIDE.sub("", text.removesuffix("</answer>").strip(" *`$")))
    if match is None or _changes(match[1], CHANGED_BEFORE) or _changes(match[4], CHANGED):
        return None
    introduction = re.sub(r"\b(?:total|sum|amount) of\b", "", match[1].rpartition(":")[2], flags=re.IGNORECASE)
    if re.search(r"\bof\b", introduction, re.IGNORECASE):  # a part of it
        return None
    return match[2] + ("%" if match[3] or PERCENT.match(match[4]) else "")


def _changes(text: str, changing: frozenset[str]) -> bool:
    """Return whether the words beside a number change it; `changing` are some that do."""
    words = [word.casefold() for word in re.findall(WORD, PERCENT.sub("", text, count=1))]
    if any({word, word.removesuffix("s")} & NUMBER_WORDS or word in changing for word in words):
        return True
    if any(PART.fullmatch(word) for word in words):
        return True
    if any(len(word) == 1 and word not in {"a", "i"} for word in words):  # a variable
        return True
    return bool(re.search(r"\bless than\b|(?<!\bleft )\bover\b", " ".join(words)))


def _last_side(answer: str) -> str | None:
    """Return what follows the last "=" of an answer that is one equation; else None."""
    before, equals, last = answer.rpartition("=")
    if not equals or before.endswith("!"):
        return None
    text = standard(answer)
    return None if RELATION.search(text) or len(entries(text).parts) != 1 else last.strip(" $")
