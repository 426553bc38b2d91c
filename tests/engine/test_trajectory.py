"""Records of a search: cumulative costs, shared seconds, and the choice of the best sample."""

import pytest
import toys

from nabla_reasoner import cost
from nabla_reasoner.cost import Cost, ModelSize, Reads
from nabla_reasoner.engine.trajectory import SampleLog, Trajectory, search_summary, shared_seconds
from nabla_reasoner.types import Problem

PROBLEM = Problem("toy/0", "6", "1", "free")


def response(policy, text: str, *, finished: bool = True) -> list[int]:
    return policy.tokenizer.encode(text) + ([policy.eos_ids[0]] if finished else [])


def test_entry_holds_cost_charged_before_it():
    policy, trajectory = toys.policy(), Trajectory()
    size = ModelSize(10, 0, 0)
    trajectory.charge(cost.prefill(size, Reads(3)), cost.decoding(size, Reads(2, outputs=2)))
    trajectory.record(policy, 1, response(policy, "12"))
    trajectory.charge(cost.decoding(size, Reads(4, outputs=4)))
    trajectory.record(policy, 2, response(policy, "3", finished=False))
    first, second = trajectory.entries
    assert first == {
        "rollouts": 1,
        "model_calls": 3,
        "flops": 100.0,
        "seconds": 0.0,
        "response": "12",
        "finished": True,
    }
    assert (second["model_calls"], second["flops"], second["finished"]) == (7, 180.0, False)


def test_shared_seconds_are_equal_and_added():
    trajectories = [Trajectory(), Trajectory(spent=Cost(seconds=5.0))]
    with shared_seconds(trajectories):
        pass
    first, second = (trajectory.spent.seconds for trajectory in trajectories)
    assert first > 0
    assert second == pytest.approx(5.0 + first)


def test_summary_counts_proposals_not_accepted_as_rejected():
    summary = search_summary(rollouts=5, proposed=4, accepted=1, steps=9)
    assert list(summary.items()) == [("rollouts", 5), ("proposed", 4), ("accepted", 1), ("rejected", 3), ("steps", 9)]


def test_sample_log_tie_keeps_earlier_sample():
    policy, log = toys.policy(), SampleLog()
    for text, reward in (("1", 0.0), ("2", 1.0), ("3", 1.0), ("4", 0.5)):
        log.add(response(policy, text), reward)
        log.record(policy)
    solution = log.solution(PROBLEM, policy)
    assert (solution.response, solution.reward) == ("2", 1.0)
    assert [entry["response"] for entry in solution.search["trajectory"]] == ["1", "2", "2", "2"]
    assert [solution.search[key] for key in ("rollouts", "proposed", "accepted", "rejected")] == [4, 3, 1, 2]
    assert [sample["reward"] for sample in solution.search["samples"]] == [0.0, 1.0, 1.0, 0.5]


def test_sample_log_counts_every_change_of_best():
    policy, log = toys.policy(), SampleLog()
    for index in (0, 1, 0, 0):
        log.add(response(policy, "7"))
        log.choose(index)
    assert log.replacements == 2
    assert log.solution(PROBLEM, policy).reward is None
