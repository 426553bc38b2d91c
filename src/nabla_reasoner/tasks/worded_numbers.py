"""Numbers with words around them, where every answer of a task is one number: "18 dollars for the eggs"."""

import re

from .exact_numbers import NUMBER_WORDS
from .quantities import PART

TASKS = frozenset({"gsm8k"})
ONE_NUMBER = TASKS | {"aime24", "aime25", "amc"}  # tasks whose references are one number, never a list
LONGEST = 300  # characters of an answer that is looked at
NUMBER = r"[-−]?\s?(?:\\?\$)?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d,.]*\d)"
WORD = r"[A-Za-z]+(?:['’][a-z]{0,2})?(?:-[A-Za-z]+)*"
ASIDE = re.compile(r"\s+\([^()]*[A-Za-z]{2}[^()]*\)$")
WORDED = re.compile(
    rf"(?:only |just |exactly |an? (?:total|sum|amount) of |in total,? )?({NUMBER})\$?"
    rf"(?:\s?\\?%)?((?:[\s,/]+{WORD})*)\s*[.!?]*",
    re.IGNORECASE,
)
# Words behind a number that change it, or make a condition of it: "18 or more", "18 below zero", "18 and a half".
CHANGED = frozenset(
    "or not no nor below under above beyond zero negative minus plus times by through until if when "
    "unless except without half hundred squared cubed dozen score remainder base power root mod past between but "
    "debt mil mill grand tens scores versus vs is was are were isn't x cannot instead".split()
)


def plain_number(answer: str, task: str) -> str:
    """Return the number of an answer that has other words behind it, if the task has numbers only; else the answer."""
    if task not in TASKS or len(answer) > LONGEST:
        return answer
    match = WORDED.fullmatch(ASIDE.sub("", answer.strip().removesuffix("</answer>").strip(" *`")))
    if match is None:
        return answer
    words = [word.casefold() for word in re.findall(WORD, match[2])]
    if any(word in CHANGED or word in NUMBER_WORDS or word.removesuffix("s") in NUMBER_WORDS for word in words):
        return answer
    if any(PART.fullmatch(word) and word not in {"percent", "percentage"} for word in words):
        return answer
    if any(len(word) == 1 and word != "a" for word in words):  # a variable
        return answer
    if re.search(r"\bless than\b|(?<!\bleft )\bover\b", " ".join(words)):
        return answer
    return match[1]
