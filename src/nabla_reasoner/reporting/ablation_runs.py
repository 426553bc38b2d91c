"""Runs of the ablations' settings: read from records, and stopped at a number of rollouts."""

import json
from pathlib import Path
from typing import NamedTuple

from ..evaluation.outcomes import Outcome, RunKey, outcome_of, stopped_at
from ..evaluation.records import read_records, stored_cells


class Attempt(NamedTuple):
    """A record: its outcome, the response's text, and for each proposal whether it was accepted."""

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


def stopped(attempt: Attempt, size: int) -> Attempt:
    """Return an attempt as it would have been with at most `size` rollouts; its response stays the whole run's."""
    step = stopped_at(attempt.outcome, size)
    if step is None:
        return attempt
    outcome = attempt.outcome._replace(correct=bool(step.correct), cost=step._asdict())
    return Attempt(outcome, attempt.response, attempt.accepted[: size - 1])
