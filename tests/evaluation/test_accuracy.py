"""Greedy accuracy and grades, on a random model."""

import pytest
import toys

from nabla_reasoner.engine.generation import Rollout
from nabla_reasoner.evaluation import accuracy
from nabla_reasoner.tasks.grading import Grade
from nabla_reasoner.types import Problem

PROBLEMS = [Problem(f"p{number}", f"What is {number} + 34?", str(number + 34), "chain_sum", {}) for number in range(6)]


def rollout(policy, text: str, finished: bool = True) -> Rollout:
    return Rollout(policy.tokenizer.encode(text, add_special_tokens=False), finished)


def test_grades_follow_problems_and_refuse_unfinished_responses():
    policy = toys.policy()
    rollouts = [rollout(policy, "0+34=34"), rollout(policy, "1+34=36"), rollout(policy, "2+34=36", finished=False)]
    grades = accuracy.grades(policy, PROBLEMS[:3], rollouts)
    assert [(grade.extracted, grade.correct) for grade in grades[:2]] == [("34", True), ("36", False)]
    assert not grades[2].correct
    with pytest.raises(ValueError, match="shorter"):
        accuracy.grades(policy, PROBLEMS[:3], rollouts[:2])


def test_greedy_accuracy_is_percentage_of_correct_responses(monkeypatch: pytest.MonkeyPatch):
    policy = toys.policy()
    expected = {}
    for problem in PROBLEMS:
        ids = policy.prompt_ids(problem.messages)
        generated = policy.model.generate(
            policy.model.dummy_inputs["input_ids"].new_tensor([ids]), max_new_tokens=8, do_sample=False
        )
        expected[problem.id] = policy.decode(generated[0, len(ids) :].tolist())
    wanted = expected["p2"]

    def grade(problem: Problem, response: str, finished: bool) -> Grade:
        assert response == expected[problem.id]
        return Grade(None, response == wanted)

    monkeypatch.setattr(accuracy.grading, "grade", grade)
    share = sum(response == wanted for response in expected.values()) / len(PROBLEMS)
    assert accuracy.greedy_accuracy(policy, PROBLEMS, 8) == pytest.approx(100 * share)
