"""Grading: extraction of a response's answer, and its comparison with the reference.

Generated tasks are scored by `reasoning-gym`; other answers are compared by `math-verify` in a separate process. If a
response does not state its answer, no answer is extracted.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from ..types import Problem
from .math_verify_process import worker


class Grade(NamedTuple):
    """The grader's verdict.

    Attributes:
        extracted: the answer stated in the response, or None.
        correct: whether it equals the reference.
        note: why the comparison failed, if it did (then `correct` is False).
    """

    extracted: str | None
    correct: bool
    note: str | None = None


def grade(problem: Problem, response: str, finished: bool = True) -> Grade:
    """Grade a response.

    Args:
        problem: its `answer` must be known.
        response: text of the response.
        finished: False if the response was cut off; then only a complete, explicit answer counts.

    Raises:
        ValueError: the problem has no reference answer.
    """
    if problem.answer is None:
        raise ValueError(f"a problem needs a reference answer to be graded; {problem.id!r} has none. Set its answer.")
    extracted = extract_answer(response, problem.task, finished)
    if extracted is None:
        return Grade(None, False)
    if problem.metadata is None:
        return Grade(extracted, *_verified(problem.answer, extracted))
    entry = {"question": problem.question, "answer": problem.answer, "metadata": problem.metadata}
    try:
        return Grade(extracted, bool(score_function(problem.task)(extracted, entry) == 1.0))
    except Exception as error:  # some of the library's scorers fail on malformed answers
        return Grade(extracted, False, f"{type(error).__name__}: {str(error)[:200]}")


def is_generated(task: str) -> bool:
    """Return whether `reasoning-gym` generates and scores this task."""
    from reasoning_gym.factory import DATASETS

    return task in DATASETS


@functools.lru_cache
def score_function(task: str) -> Callable[[str, dict[str, Any]], float]:
    """Return the library's scoring function; `grade` accepts 1.0 only, no partial credit."""
    from reasoning_gym.factory import get_score_answer_fn

    return get_score_answer_fn(task)


def extract_answer(response: str, task: str, finished: bool = True) -> str | None:
    r"""Return the answer that a response states, or None.

    Generated tasks: the last `<answer>…</answer>`, else the last `\boxed{…}`, else what follows the last "=" on its
    line. Benchmarks: the last `\boxed{…}`, else what follows the last "####" on its line. Both: else what follows the
    last "answer is" or "answer:" on its line. There is no last-number rule.

    Args:
        response: text of the response.
        task: selects the rules.
        finished: False if the response was cut off; then only the rules with a closing mark apply.
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
    """Return the first line of `text` without punctuation, Markdown or mathematics delimiters around it."""
    line = text.strip().partition("\n")[0]
    line = re.sub(r"^(?:\\\(|\\\[|[\s*`$])+|(?:\\\)|\\\]|[\s*`$.,;:])+$", "", line)
    return line or None


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{…}` or `\fbox{…}` with balanced braces, or None."""
    for match in reversed(list(re.finditer(r"\\f?box(?:ed)?\s*\{", text))):
        depth, start = 1, match.end()
        for mark in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
            depth += {"{": 1, "}": -1}.get(mark.group(), 0)
            if depth == 0:
                return text[start : start + mark.start()].strip()
    return None


def answers_match(a: str | None, b: str | None, task: str) -> bool:
    """Return whether two answers count as equal in a vote: equal text, or equal mathematics for benchmarks."""
    if a is None or b is None:
        return False
    if is_generated(task):
        return _plain(a) == _plain(b)
    return _verified(a, b)[0]


def _plain(text: str) -> str:
    return " ".join(text.split())


@functools.lru_cache(maxsize=100_000)
def _verified(gold: str, answer: str) -> tuple[bool, str | None]:
    """Return whether an answer equals the reference, and why the comparison failed, if it did."""
    if _plain(gold) == _plain(answer):
        return True, None
    text = re.fullmatch(r"\\text(?:bf|it|rm)?\{([^{}]*)\}", gold.strip())
    if text:  # math-verify reads letters as a product of symbols: "seat" would equal "east"
        return _casefolded(text[1]) == _casefolded(re.sub(r"\\text(?:bf|it|rm)?|[{}$]", "", answer)), None
    return worker().verify(gold, answer)


def _casefolded(text: str) -> str:
    return _plain(text).strip("().,").casefold()
