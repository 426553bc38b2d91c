"""Curves of a cell: each point equals the table's own numbers of the records up to there."""

import numpy as np
import pytest

from nabla_reasoner.evaluation.outcomes import correct_array, outcome_of
from nabla_reasoner.evaluation.statistics import accuracy_interval
from nabla_reasoner.reporting import running_metrics


def records(count: int, repeats: int = 1) -> list[dict]:
    """Return records of a cell in the order in which they are written, some of them failed."""
    draw = np.random.default_rng(0)
    return [
        {
            "problem_id": f"p{index}",
            "seed": 0,
            "repeat": repeat,
            "correct": bool(draw.random() < 0.4) and index % 7 != 3,
            "status": "failed" if index % 7 == 3 else "ok",
            "cost": {name: float(draw.integers(1000)) for name in running_metrics.COSTS},
            "search": {},
        }
        for repeat in range(repeats)
        for index in range(count)
    ]


@pytest.mark.parametrize(("count", "repeats"), [(1, 1), (23, 1), (200, 1), (40, 4)])
def test_points_equal_the_numbers_of_the_records_so_far(count: int, repeats: int):
    made = records(count, repeats)
    curve = running_metrics.curve(made)
    assert len(curve) < running_metrics.POINTS
    assert len(curve) >= min(count * repeats, running_metrics.POINTS // 2) - 1
    for number, metrics in curve.items():
        assert number < len(made)
        outcomes = [outcome_of(record) for record in made[:number]]
        correct = correct_array([outcome.key for outcome in outcomes], [outcome.correct for outcome in outcomes])
        assert metrics["accuracy"] == pytest.approx(accuracy_interval(correct).mean)
        assert metrics["num_problems"] == len({outcome.key.problem for outcome in outcomes})
        solved = [outcome for outcome in outcomes if outcome.ok]
        assert metrics["num_failed"] == number - len(solved)
        for name in running_metrics.COSTS:
            assert metrics[name] == pytest.approx(np.mean([outcome.cost[name] for outcome in solved]))


def test_older_records_without_some_costs_are_counted():
    running, (record,) = running_metrics.RunningMetrics(), records(1)
    del record["cost"]["gradient_flops"]
    running.add(record)
    assert running.metrics()["gradient_flops"] == 0
    assert running.metrics()["flops"] == record["cost"]["flops"]


def test_failed_records_alone_have_no_costs():
    running = running_metrics.RunningMetrics()
    running.add(records(4)[3])
    assert running.metrics() == {"accuracy": 0.0, "num_problems": 1, "num_failed": 1}
