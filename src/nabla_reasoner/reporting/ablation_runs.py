"""Runs of the ablations' settings: read from records, and stopped at a number of rollouts."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..evaluation.outcomes import Outcome, RunKey, outcome_of, stopped_at
from ..evaluation.records import read_records, stored_cells


class Attempt(NamedTuple):
    """What the table needs of one record.

    Attributes:
        response: text.
        accepted: whether each proposal was, in their order.
    """

    outcome: Outcome
    response: str
    accepted: list[bool]


class SettingRuns(NamedTuple):
    """Records of one setting, policy and task.

    Attributes:
        attempts: by problem (its name begins with the task's), seed and repeat.
        expected: number of records of a complete run.
    """

    attempts: dict[RunKey, Attempt]
    expected: int

    @property
    def status(self) -> str:
        if not self.attempts:
            return "not run"
        count = len(self.attempts)
        return "ok" if count >= self.expected else f"partial: {count} of {self.expected}"


Runs = dict[tuple[str, str], SettingRuns]


def load_runs(folder: Path) -> Runs:
    """Read a setting's records, by policy and task."""
    loaded = {}
    for (policy, task, _), paths in stored_cells(folder / "records").items():
        attempts, expected = {}, 0
        for path in paths:
            for record in read_records(path):
                outcome = outcome_of(record)
                key = outcome.key._replace(problem=f"{task}/{outcome.key.problem}")
                accepted = [revision["accepted"] for revision in record["search"].get("revisions", [])]
                attempts[key] = Attempt(outcome, record["response"], accepted)
            settings = json.loads(path.with_suffix(".settings.json").read_text(encoding="utf-8"))
            expected += (settings["num_problems"] or 0) * settings["task"]["repeats"]
        loaded[policy, task] = SettingRuns(attempts, expected)
    return loaded


class StoppedRun(NamedTuple):
    """An attempt up to a number of rollouts.

    Attributes:
        response: text at the end of the whole run.
        proposed, rejected: numbers of proposals.
        costs: model calls, FLOPs, seconds; None for a failure.
    """

    correct: bool
    response: str
    proposed: int
    rejected: int
    costs: tuple[float, float, float] | None


def stopped_run(attempt: Attempt, size: int | None) -> StoppedRun:
    """Return an attempt as it would have been with at most `size` rollouts; None leaves it whole."""
    step = stopped_at(attempt.outcome, size or np.inf)
    accepted = attempt.accepted[: size - 1] if size else attempt.accepted
    return StoppedRun(
        correct=step is not None and bool(step.correct),
        response=attempt.response,
        proposed=len(accepted),
        rejected=accepted.count(False),
        costs=None if step is None else (step.model_calls, step.flops, step.seconds),
    )
