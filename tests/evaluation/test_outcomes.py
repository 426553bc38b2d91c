"""Outcomes: arrays, pairs, runs stopped early, and which policy was trained from which."""

import numpy as np
import pytest

from nabla_reasoner.config import compose, fingerprint
from nabla_reasoner.config.schema import choices
from nabla_reasoner.evaluation import lineage, outcomes
from nabla_reasoner.evaluation.outcomes import RunKey, Step
from nabla_reasoner.evaluation.records import CellKey
from nabla_reasoner.evaluation.statistics import cut_at_cost


def made(problem: str, seed: int = 0, *, correct: bool = True, ok: bool = True, steps=()) -> outcomes.Outcome:
    record = {"problem_id": problem, "seed": seed, "repeat": 0, "correct": correct, "status": "ok" if ok else "failed"}
    cost = {"model_calls": 50, "flops": 5.0, "seconds": 0.5}
    trajectory = [dict(zip(Step._fields, step, strict=True)) for step in steps]
    return outcomes.outcome_of(record | {"cost": cost, "search": {"trajectory": trajectory}})


def test_correct_array_is_sorted_with_gaps_as_nan():
    keys = [RunKey("b", 1, 0), RunKey("a", 0, 0), RunKey("b", 0, 0)]
    expected = [[1.0, np.nan], [0.0, 1.0]]
    np.testing.assert_array_equal(outcomes.correct_array(keys, [True, True, False]), expected)


def test_paired_keys_keep_problems_with_every_common_attempt():
    first = [RunKey("a", 0, 0), RunKey("a", 1, 0), RunKey("b", 0, 0), RunKey("b", 1, 0), RunKey("c", 2, 0)]
    second = [RunKey("b", 1, 0), RunKey("a", 0, 0), RunKey("b", 0, 0)]
    assert outcomes.paired_keys(first, second) == [RunKey("b", 0, 0), RunKey("b", 1, 0)]
    assert outcomes.paired_keys(first, []) == []


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, (2, 20, 2.0, 0.2, False)),
        (2, (2, 20, 2.0, 0.2, False)),
        (3, (3, 30, 3.0, 0.3, True)),
        (9, (3, 50, 5.0, 0.5)),
    ],
)
def test_stopped_run_is_charged_to_its_last_step(size, expected):
    steps = [(2, 20, 2.0, 0.2, False), (3, 30, 3.0, 0.3, True)]
    assert outcomes.stopped_at(made("a", steps=steps), size)[: len(expected)] == expected
    assert outcomes.stopped_at(made("a", ok=False), size) is None


def test_whole_runs_stand_behind_their_steps():
    short = made("a", steps=[(1, 10, 1.0, 0.1, False), (2, 20, 2.0, 0.2, True)])
    long = made("b", steps=[(2, 15, 1.5, 0.1, True), (5, 40, 4.0, 0.4, True)], correct=False)
    failed = made("c", ok=False)
    charged = outcomes.charged_steps([short, failed, long])
    assert charged[1] == []
    for outcome, steps in ((short, charged[0]), (long, charged[2])):
        assert [step.rollouts for step in steps] == sorted(step.rollouts for step in steps)
        for size in range(2, 5):
            at_most = [step for step in steps if step.rollouts <= size]
            assert at_most[-1][1:] == outcomes.stopped_at(outcome, size)[1:]
        assert steps[-1][1:] == outcomes.stopped_at(outcome, np.inf)[1:]
        assert steps[-1].rollouts <= 5
    correct, size, mean = cut_at_cost(charged, 4.9, Step._fields.index("flops"))
    assert (size, mean) == (5, 5.0), "what was spent after the last rollout counts"
    assert correct.tolist() == [True, False, False]


def test_lineage_is_read_from_the_policy_files():
    trained = {name: lineage.lineage(name) for name in choices("policy") if lineage.lineage(name)}
    assert trained == {
        "smollm2-grpo": ("smollm2", "grpo"),
        "smollm2-sft": ("smollm2", "sft"),
        "tiny-base-grpo": ("tiny-base", "grpo"),
        "tiny-base-sft": ("tiny-base", "sft"),
        "tiny-base-sft-grpo": ("tiny-base-sft", "grpo"),
        "tiny-instruct-grpo": ("tiny-instruct", "grpo"),
        "tiny-instruct-sft": ("tiny-instruct", "sft"),
    }
    names = ["tiny-base-sft", "tiny-base-sft-grpo", "tiny-base", "tiny-instruct-sft", "other-sft"]
    assert lineage.start_policies(names) == ["tiny-base", "tiny-instruct-sft", "other-sft"]


def test_lineage_is_not_part_of_the_fingerprint():
    (cell,) = compose.compose_cells(["policy=tiny-base-sft", "task=products"])
    assert cell.policy.base == "tiny-base"
    assert not {"base", "trained_by"} & set(fingerprint.fingerprint(cell)["policy"])


def test_of_two_trained_policies_the_one_of_the_usual_name_is_the_row(monkeypatch, capsys):
    """Which of the two was the row `sft` changed from one start of Python to the next."""
    origin = lineage.Lineage("tiny-base", "sft")
    monkeypatch.setattr(lineage, "_lineages", lambda: dict.fromkeys(("tiny-base-sft", "my-sft", "a-sft"), origin))
    assert lineage.improved_policy("tiny-base", "sft", ["my-sft", "tiny-base-sft"]) == "tiny-base-sft"
    assert lineage.improved_policy("tiny-base", "sft", ["my-sft"]) == "my-sft"
    assert lineage.improved_policy("tiny-base", "grpo", ["my-sft"]) is None
    lineage.warn_once.cache_clear()
    assert lineage.improved_policy("tiny-base", "sft", ["my-sft", "a-sft"]) is None
    assert "tiny-base has no row sft: a-sft, my-sft are all made of it" in capsys.readouterr().err
    loaded = {
        CellKey("my-sft", "products", "greedy"): [made("a", 0)],
        CellKey("tiny-base-sft", "chain_sum", "greedy"): [made("b", 0)],
    }
    row = {"policy": "tiny-base", "task": "products", "method": "sft", "seeds": [0]}
    assert outcomes.row_outcomes(loaded, row) == [made("a", 0)], "of the task's own policies"


def test_trained_rows_take_greedy_outcomes_of_their_seeds():
    greedy = [made("a", seed) for seed in (0, 1, 2)]
    loaded = {CellKey("tiny-base-sft-grpo", "products", "greedy"): greedy}
    row = {"policy": "tiny-base-sft", "task": "products", "method": "grpo", "seeds": [0, 2]}
    assert outcomes.row_outcomes(loaded, row) == [greedy[0], greedy[2]]
    assert outcomes.row_outcomes(loaded, row | {"policy": "tiny-base"}) == []
