"""Numbers of a cell after each of its records: the curve that its W&B run has. Imports little, for a small process."""

from collections.abc import Mapping, Sequence
from typing import Any

COSTS = ("model_calls", "decode_tokens", "gradient_evaluations", "flops", "gradient_flops", "seconds")
POINTS = 25  # of a curve, at most

Metrics = dict[str, float | int]


class RunningMetrics:
    """Counts, accuracy and mean costs of the records so far, under the names in docs/outputs.md."""

    def __init__(self):
        self.count = 0  # records
        self._failed = 0
        self._attempts: dict[str, list[int]] = {}  # by problem: right attempts, all attempts
        self._costs = dict.fromkeys(COSTS, 0.0)

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one more record."""
        self.count += 1
        attempts = self._attempts.setdefault(record["problem_id"], [0, 0])
        attempts[0] += bool(record["correct"])
        attempts[1] += 1
        if record["status"] != "ok":
            self._failed += 1
            return
        for name in COSTS:
            self._costs[name] += record["cost"].get(name, 0)  # older records have not all of them

    def metrics(self) -> Metrics:
        """Return the numbers: accuracy in percent of all problems, costs as means over those that did not fail.

        Problems weigh alike, however many of their repeats are done. There must be a record.
        """
        shares = [right / attempts for right, attempts in self._attempts.values()]
        solved = self.count - self._failed
        costs = {name: total / solved for name, total in self._costs.items()} if solved else {}
        accuracy = 100 * sum(shares) / len(shares)
        return {"accuracy": accuracy, "num_problems": len(shares), "num_failed": self._failed, **costs}


def is_point(count: int, expected: int) -> bool:
    """Return whether a curve has a point after `count` records, of a cell that will have `expected`."""
    return count % max(1, -(-expected // POINTS)) == 0


def curve(records: Sequence[Mapping[str, Any]]) -> dict[int, Metrics]:
    """Return a complete cell's curve by number of records, without the last of them: that is the run's summary."""
    running, points = RunningMetrics(), {}
    for record in records[:-1]:
        running.add(record)
        if is_point(running.count, len(records)):
            points[running.count] = running.metrics()
    return points
