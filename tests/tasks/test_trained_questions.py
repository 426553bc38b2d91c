"""Questions in the wording of the shipped models' tasks: recognised with the answer that the generator gives."""

import pytest

from nabla_reasoner.tasks import problems
from nabla_reasoner.tasks.trained_questions import EXAMPLES, trained_question
from nabla_reasoner.tasks.worked_solutions import worked_solution

SETTINGS = {
    "chain_sum": {"min_terms": 1, "max_terms": 6, "min_digits": 1, "max_digits": 4, "allow_negation": True},
    "leg_counting": {"min_animals": 1, "max_animals": 10},
    "products": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 4},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_generated_questions_have_the_generators_answer(name):
    for problem in problems.generate(name, split="test", size=150, settings=SETTINGS[name]):
        recognized = trained_question(problem.question, "a")
        assert recognized is not None
        assert recognized._replace(metadata=None) == problem._replace(id="a", metadata=None)
        assert worked_solution(recognized) == worked_solution(problem)
        assert trained_question(f"  {' '.join(problem.question.split())}\n", "a") == recognized
        assert trained_question(problem.question + "?", "a") is None


@pytest.mark.parametrize(
    "question",
    [
        "12+34-5=?",
        "",
        "What is 12 * 34?",
        "Solve the following multiplication: 12 * x. Give only the result as your final answer.",
        "Solve the following multiplication: 12 * 34.",
        "State the final answer to the following arithmetic problem: 1 * 2 =",
        EXAMPLES["leg_counting"].replace("lions", "unicorns"),
        EXAMPLES["leg_counting"].replace("3 wasps", "3 lions"),
        EXAMPLES["leg_counting"].replace("5 lions, 3 wasps, 13 ants", ""),
        EXAMPLES["products"].replace("97", "9" * 5000),
    ],
)
def test_other_questions_have_no_answer(question):
    assert trained_question(question, "a") is None


def test_examples_are_questions_of_their_tasks():
    assert {name: trained_question(text, "a").task for name, text in EXAMPLES.items()} == {n: n for n in SETTINGS}
