"""Movement of rows under DTO: groups, counts and shares by hand; logits against DTO on one sequence."""

import pytest
import torch
import toys

from nabla_reasoner import NablaReasoner
from nabla_reasoner.config import build, compose
from nabla_reasoner.dto import optimize
from nabla_reasoner.experiments import row_movement

NAMES = {"policy": "p", "task": "t", "reward": "r"}


@pytest.mark.parametrize("place", ["reward_device=same", "reward_server=null"])
def test_where_the_reward_lies_leaves_both_rewards(place):
    cells = row_movement.cells_by_reward(["task=products", place], "likelihood,classifier")
    assert [cell.reward.name for cell in cells] == ["likelihood", "classifier"]
    (named,) = row_movement.cells_by_reward(["task=products", place, "reward=classifier"], "likelihood,classifier")
    assert named.reward.name == "classifier"


def test_rows_are_grouped_by_confidence_before_the_update():
    first = torch.tensor([[9.0, 0.0], [9.0, 0.0], [1.0, 0.0]])
    moved = torch.tensor([[8.0, 0.0], [0.0, 9.0], [0.0, 3.0]])
    confident, uncertain = row_movement.movement_rows(NAMES, [0, 1, 1], first, moved, 0.97)
    assert (confident["confident"], uncertain["confident"]) == (True, False)
    assert [(row["num_rows"], row["num_problems"]) for row in (confident, uncertain)] == [(2, 2), (1, 1)]
    assert (confident["largest_change"], uncertain["largest_change"]) == (9.0, 3.0)
    assert (confident["flipped"], uncertain["flipped"]) == (50.0, 100.0)
    probability = torch.softmax(moved[1].double(), 0)
    kl = (probability * (probability.log() - torch.log_softmax(first[1].double(), 0))).sum()
    assert confident["largest_kl"] == pytest.approx(kl.item())


@pytest.mark.slow
def test_every_position_is_optimised_with_the_rest_of_the_response():
    policy, reward = toys.policy(), toys.reward()
    problems = build.build_problems(compose.compose_cells(["task=products", "num_problems=2"])[0])
    settings = NablaReasoner(step_size=0.5, num_iterations=3, grad_threshold=0.0, max_new_tokens=6).settings
    numbers, first, moved = row_movement.move_rows(policy, reward, problems, settings, 0)
    assert set(numbers) == {0, 1}
    assert len(first) == len(moved) == len(numbers)
    assert (moved - first).abs().amax(-1).min() > 0
    start = numbers.index(1)
    again = row_movement.move_rows(policy, reward, problems[1:], settings, 0)
    torch.testing.assert_close(again[2], moved[start:])
    keep = settings.dto.replace(update="first", flip="argmax", step_size=1e-9)
    (still,) = optimize(policy, reward, [problems[1].messages], [[]], [[5, 6, 7]], settings=keep)
    torch.testing.assert_close(still.logits[0], first[start])
