"""Grading: takes the answer out of a response and compares it with the reference.

Generated tasks are scored by `reasoning-gym` itself. Everything else is compared by `math-verify` in a process of its
own, which is killed when an answer takes too long. Nothing is ever guessed: a response that does not state its answer
has none.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from ..types import Problem
from .math_verify_worker import worker


class Grade(NamedTuple):
    """The grader's verdict.

    Attributes:
        extracted: the answer that was taken out of the response; None when it states none.
        correct: whether it equals the reference.
        note: why the comparison could not be finished, if so (then `correct` is False).
    """

    extracted: str | None
    correct: bool
    note: str | None = None


def grade(problem: Problem, response: str, finished: bool = True) -> Grade:
    """Grade a response.

    Args:
        problem: its `answer` must be known.
        response: text of the response.
        finished: False when the response was cut off; then only a complete, explicit answer counts.

    Raises:
        ValueError: the problem has no reference answer.
    """
    if problem.answer is None:
        raise ValueError(f"a problem needs a reference answer to be graded; {problem.id!r} has none. Give one.")
    extracted = extract_answer(response, problem.task, finished)
    if extracted is None:
        return Grade(None, False)
    if problem.metadata is None:
        return Grade(extracted, *_verified(problem.answer, extracted))
    entry = {"question": problem.question, "answer": problem.answer, "metadata": problem.metadata}
    try:
        return Grade(extracted, bool(score_function(problem.task)(extracted, entry) == 1.0))
    except Exception as error:  # some of the library's scorers trip over malformed answers
        return Grade(extracted, False, f"{type(error).__name__}: {str(error)[:200]}")


def is_generated(task: str) -> bool:
    """Whether `reasoning-gym` makes and scores this task."""
    from reasoning_gym.factory import DATASETS

    return task in DATASETS


@functools.lru_cache
def score_function(task: str) -> Callable[[str, dict[str, Any]], float]:
    """The library's own verifier; 1.0 means correct, partial credit is none here."""
    from reasoning_gym.factory import get_score_answer_fn

    return get_score_answer_fn(task)


def extract_answer(response: str, task: str, finished: bool = True) -> str | None:
    r"""The answer that a response states, or None.

    Generated tasks: the last `<answer>…</answer>`, else the last `\boxed{…}`, else what follows the last "=" on its
    line. Benchmarks: the last `\boxed{…}`, else what follows the last "####" on its line. Both: else what follows the
    last "answer is" or "answer:" on its line. There is no last-number rule.

    Args:
        response: text of the response.
        task: decides which rules hold.
        finished: False when the response was cut off; then only the rules with a closing mark are used.
    """
    generated = is_generated(task)
    tagged = re.findall(r"<answer>(.*?)</answer>", response, re.DOTALL) if generated else []
    if tagged:
        return tagged[-1].strip() or None
    boxed = last_boxed(response)
    if boxed is not None:
        return boxed or None
    if not finished:
        return None
    if generated and "=" in response:
        return _trimmed(response.rpartition("=")[2])
    marked = [] if generated else re.findall(r"####\s*([^\n]+)", response)
    stated = marked or re.findall(r"\banswer(?:\s+is\b|\s*:)[\s*:]*([^\n]+)", response, re.IGNORECASE)
    return _trimmed(stated[-1]) if stated else None


def _trimmed(text: str) -> str | None:
    """The first line of `text` without the marks of prose, Markdown or mathematics mode around it."""
    line = text.strip().partition("\n")[0]
    line = re.sub(r"^(?:\\\(|\\\[|[\s*`$])+|(?:\\\)|\\\]|[\s*`$.,;:])+$", "", line)
    return line or None


def last_boxed(text: str) -> str | None:
    r"""What the last complete `\boxed{…}` (or `\fbox{…}`) holds, braces balanced; None when there is none."""
    for match in reversed(list(re.finditer(r"\\f?box(?:ed)?\s*\{", text))):
        depth, start = 1, match.end()
        for mark in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
            depth += {"{": 1, "}": -1}.get(mark.group(), 0)
            if depth == 0:
                return text[start : start + mark.start()].strip()
    return None


def answers_match(a: str | None, b: str | None, task: str) -> bool:
    """Whether two extracted answers are the same for a vote: equal text, or equal mathematics for benchmarks."""
    if a is None or b is None:
        return False
    if is_generated(task):
        return _plain(a) == _plain(b)
    return _verified(a, b)[0]


def _plain(text: str) -> str:
    return " ".join(text.split())


@functools.lru_cache(maxsize=100_000)
def _verified(gold: str, answer: str) -> tuple[bool, str | None]:
    """Whether an answer equals the reference, and why that could not be found out."""
    if _plain(gold) == _plain(answer):
        return True, None
    word = re.fullmatch(r"\\text(?:bf|it|rm)?\{([^{}]*)\}", gold.strip())
    if word:  # math-verify reads letters as a product of symbols: "seat" would equal "east"
        return _word(word[1]) == _word(re.sub(r"\\text(?:bf|it|rm)?|[{}$]", "", answer)), None
    return worker().verify(gold, answer)


def _word(text: str) -> str:
    return _plain(text).strip("().,").casefold()
