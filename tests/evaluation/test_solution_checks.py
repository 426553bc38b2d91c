"""What a user's own method may return, and what becomes a failed record."""

import numpy as np
import pytest
import torch
import toys

from nabla_reasoner.cost import Cost
from nabla_reasoner.evaluation.prediction import Chunk, Inference
from nabla_reasoner.evaluation.solution_checks import checked_solution
from nabla_reasoner.types import Problem, Solution

SOLUTION = Solution("p0", "6 * 7 = 42", [1, 2], 1.5, Cost(model_calls=3), {"finished": True})


@pytest.mark.parametrize(
    "reward", [np.float32(1.5), torch.tensor(1.5), np.array(1.5), torch.tensor(1.5, dtype=torch.bfloat16)]
)
def test_scalars_of_libraries_become_pythons_own(reward):
    search = {"finished": np.bool_(True), "rollouts": np.int64(3), "marks": (torch.tensor(2), "x")}
    cost = Cost(model_calls=np.int64(3), flops=np.float64(2.0))
    checked = checked_solution(SOLUTION._replace(reward=reward, search=search, cost=cost))
    assert (checked.reward, type(checked.reward)) == (1.5, float)
    assert checked.search == {"finished": True, "rollouts": 3, "marks": [2, "x"]}
    assert [type(checked.search[key]) for key in ("finished", "rollouts")] == [bool, int]
    assert (type(checked.cost.model_calls), type(checked.cost.flops)) == (int, float)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reward": "1"}, "reward of a solution must be a number or None; got '1'"),
        ({"reward": True}, "reward of a solution must be a number or None; got True"),
        ({"reward": torch.ones(2)}, "reward of a solution must hold numbers"),
        ({"error": ValueError("x")}, "error of a solution must hold numbers, texts"),
        ({"error": 3}, "error of a solution must be a text or None; got 3"),
        ({"response": 42}, "response of a solution must be a text; got 42"),
        ({"response": "half \ud83d"}, "response of a solution must be valid Unicode; got '\\\\ud83d' at character 5"),
        ({"search": {"finished": "no"}}, r"search\['finished'\] of a solution must be True or False; got 'no'"),
        ({"search": {"seen": {1, 2}}}, "'seen' in search of a solution must hold numbers"),
        ({"search": {"scores": torch.ones(2)}}, "'scores' in search of a solution must hold numbers"),
        ({"search": {1: 2}}, "search of a solution must hold numbers"),
        ({"search": {"trajectory": None}}, r"search\['trajectory'\] of a solution must be a list of dicts"),
        ({"search": {"samples": [{"reward": 1.0}]}}, r"each with the text 'response'; got \[\{'reward': 1.0\}\]"),
        ({"cost": None}, "cost of a solution must be a Cost; got None"),
    ],
)
def test_value_that_no_record_can_hold_is_named(changes, said):
    with pytest.raises((TypeError, ValueError), match=said):
        checked_solution(SOLUTION._replace(**changes))


def test_other_objects_are_no_solutions():
    with pytest.raises(TypeError, match="must return a list of Solution; it holds 'text'"):
        checked_solution("text")


def test_method_with_a_wrong_value_fails_its_problem_alone():
    """A generator in place of a list will do."""

    class Counting:
        def solve(self, problems, policy, reward, *, seed=0, repeat=0):
            for problem in problems:
                value = {1, 2} if problem.id == "p1" else np.float32(0.5)
                yield SOLUTION._replace(problem_id=problem.id, search={"seen": value})

    module = Inference(Counting(), toys.policy(), toys.reward("likelihood"), seed=0)
    problems = [Problem(f"p{index}", "2 + 2?", "4", "toy") for index in range(3)]
    first, second, third = module.predict_step(Chunk(0, problems))
    assert (first.search, third.search, first.error) == ({"seen": 0.5}, {"seen": 0.5}, None)
    assert second.error.startswith("TypeError: 'seen' in search of a solution must hold numbers")
