"""Questions in the wording of the three generated tasks on which the shipped models were trained."""

import math
import re

from ..types import Problem

EXAMPLES = {
    "chain_sum": "State the final answer to the following arithmetic problem: 61 - 53 + 42 - 32 - 68 =",
    "leg_counting": "Your task is to count how many legs there are in total when given a list of animals.\n\n"
    "Now, how many legs are there in total if you have 5 lions, 3 wasps, 13 ants?",
    "products": "Solve the following multiplication: 97 * 85. Give only the result as your final answer.",
}
NUMBER = r"\d{1,12}"
CHAIN_SUM = re.compile(
    rf"State the final answer to the following arithmetic problem: (-?{NUMBER}(?: [+-] -?{NUMBER})*) ="
)
PRODUCT = re.compile(
    rf"Solve the following multiplication: ({NUMBER}(?: \* {NUMBER})*)\. Give only the result as your final answer\."
)
ANIMALS = re.compile(rf"({NUMBER}) ([a-z ]+)")


def trained_question(question: str, id: str) -> Problem | None:
    """Return the problem that a question in a task's own wording asks, with its answer; None for any other question.

    Args:
        question: text; its spaces and line breaks may differ from those of the task, which the problem has.
        id: given to the problem.
    """
    question = " ".join(question.split())
    if match := CHAIN_SUM.fullmatch(question):
        signs = re.findall(r" ([+-]) ", match[1])
        first, *others = (int(term) for term in re.split(r" [+-] ", match[1]))
        total = first + sum(term if sign == "+" else -term for sign, term in zip(signs, others, strict=True))
        return _problem(id, question, total, "chain_sum", {"expression": match[1]})
    if match := PRODUCT.fullmatch(question):
        total = math.prod(int(factor) for factor in match[1].split(" * "))
        return _problem(id, question, total, "products", {"expression": match[1]})
    return _leg_counting(question, id)


def _leg_counting(question: str, id: str) -> Problem | None:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS as LEGS
    from reasoning_gym.arithmetic.leg_counting import QUESTION_TEMPLATE

    before, after = (" ".join(part.split()) for part in QUESTION_TEMPLATE.split("{animals}"))
    if not (question.startswith(before) and question.endswith(after)):
        return None
    listed = question[len(before) : -len(after)].strip()
    animals: dict[str, int] = {}
    for entry in listed.split(", "):
        match = ANIMALS.fullmatch(entry)
        animal = match and next((name for name in (match[2], match[2].removesuffix("s")) if name in LEGS), None)
        if not match or animal is None or animal in animals:
            return None
        animals[animal] = int(match[1])
    total = sum(count * LEGS[animal] for animal, count in animals.items())
    question = QUESTION_TEMPLATE.format(animals=listed).strip()
    return _problem(id, question, total, "leg_counting", {"animals": animals})


def _problem(id: str, question: str, answer: int, task: str, metadata: dict[str, object]) -> Problem:
    return Problem(id, question, str(answer), task, {"source_dataset": task, **metadata})
