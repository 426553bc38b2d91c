"""Grading of responses, and equality of answers in votes.

Generated tasks are scored by `reasoning-gym`; other answers are compared by `equality`. A response that does not state
its answer (see `extraction`) is wrong. Only `grade` knows which answer is the reference: 4 is not the perimeter 4s, but
4s may be 4 seconds. Where every answer of a task is one number, words around it are left out, and of m + n = 204 the
number counts (see `worded_numbers`).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from ..types import Problem
from .equality import equal
from .extraction import extract_answer
from .generated_tasks import is_generated
from .quantities import lacks_letter
from .worded_numbers import plain_number


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
        problem: its `answer` must be known, unless it has `metadata`, by which its own verifier grades.
        response: text of the response.
        finished: False if the response was cut off; then only a complete, explicit answer counts.

    Raises:
        ValueError: the problem has neither a reference answer nor metadata.
        TypeError: the answer or the response is not text.
    """
    if problem.answer is None and problem.metadata is None:
        raise ValueError(f"a problem needs a reference answer to be graded; {problem.id!r} has none. Set its answer.")
    if problem.answer is not None:  # the library's own verifier may need none
        _check_text(f"the answer of problem {problem.id!r}", problem.answer)
    _check_text("a response", response)
    extracted = extract_answer(response, problem.task, finished)
    if extracted is None:
        return Grade(None, False)
    if problem.metadata is None:
        if lacks_letter(extracted, problem.answer):
            return Grade(extracted, False)
        given = plain_number(extracted, problem.task)
        return Grade(extracted, *_compared(*sorted((problem.answer, given))))
    entry = {"question": problem.question, "answer": problem.answer, "metadata": problem.metadata}
    try:
        return Grade(extracted, bool(score_function(problem.task)(extracted, entry) == 1.0))
    except Exception as error:  # some of the library's scorers fail on malformed answers
        return Grade(extracted, False, f"{type(error).__name__}: {str(error)[:200]}")


@functools.lru_cache
def score_function(task: str) -> Callable[[str, dict[str, Any]], float]:
    """Return the library's scoring function; `grade` accepts 1.0 only, no partial credit."""
    from reasoning_gym.factory import get_score_answer_fn

    return get_score_answer_fn(task)


def answers_match(a: str | None, b: str | None, task: str) -> bool:
    """Return whether two answers count as equal in a vote, in either order.

    Generated tasks: equal text. Benchmarks: equal by the rules of `equality`, as in `grade`. No answer equals none.

    Raises:
        TypeError: an answer is neither text nor None.
    """
    for answer in (a, b):
        if answer is not None:
            _check_text("an answer", answer)
    if a is None or b is None:
        return False
    if is_generated(task):
        return " ".join(a.split()) == " ".join(b.split())
    return _compared(*sorted(plain_number(answer, task) for answer in (a, b)))[0]


def _check_text(name: str, value: object) -> None:
    """Raise TypeError on anything but text, such as the number 18, which `reasoning-gym` or JSON may give."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text; got {value!r}. Write {str(value)!r}.")


@functools.lru_cache(maxsize=100_000)
def _compared(first: str, second: str) -> tuple[bool, str | None]:
    """Compare two answers in sorted order: a comparison that runs into a limit has one outcome for both orders."""
    return equal(first, second)
