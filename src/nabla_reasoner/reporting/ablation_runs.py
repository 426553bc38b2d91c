"""Runs of the ablations' settings: read from records, and stopped at a number of rollouts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..config.fingerprint import without_places
from ..evaluation.json_files import warn_once
from ..evaluation.outcomes import Outcome, RunKey, completeness, outcome_of, stopped_at
from ..evaluation.records import read_records
from ..evaluation.stored_cells import SHARED, conditions, split_suffix, stored_cells


class Attempt(NamedTuple):
    """A record: its outcome, the response's text, and for each proposal whether it was accepted."""

    outcome: Outcome
    response: str
    accepted: list[bool]


class SettingRuns(NamedTuple):
    """Records of one setting, policy and task.

    Attributes:
        attempts: by problem (its name begins with the task's), seed and repeat.
        expected: number of records of a complete run; None if the settings do not say it.
        conditions: models, task, split and reward, which are those of the default's runs where the two are compared.
        absent: status if there are no attempts.
        method: the method's settings.
    """

    attempts: dict[RunKey, Attempt]
    expected: int | None
    conditions: dict[str, Any] | None = None
    absent: str = "not run"
    method: Mapping[str, Any] = {}

    @property
    def status(self) -> str:
        if not self.attempts:
            return self.absent
        return completeness([run.seed for run in self.attempts], self.expected)


Runs = dict[tuple[str, str], SettingRuns]


def load_runs(folder: Path) -> Runs:
    """Read a setting's records, by policy and task; the conditions say of which split, the task's name does not."""
    loaded = {}
    for key, cell in stored_cells(folder / "records")[0].items():
        task = key.task.removesuffix(split_suffix(cell.settings.get("split", "test")))
        attempts = {}
        for file in cell.files:
            for record in read_records(file.path):
                outcome = outcome_of(record)
                run = outcome.key._replace(problem=f"{task}/{outcome.key.problem}")
                accepted = [revision["accepted"] for revision in record["search"].get("revisions", [])]
                attempts[run] = Attempt(outcome, record["response"], accepted)
        shared = {name: value for name, value in (conditions(cell.settings) or {}).items() if name not in SHARED}
        shared["policy"] = without_places(cell.settings).get("policy")
        if (key.policy, task) in loaded:
            warn_once(f"{folder}: {key.policy}, {task} has records of several settings; only the last are used.")
        loaded[key.policy, task] = SettingRuns(
            attempts, cell.expected(cell.seeds), shared, method=cell.settings.get("method", {})
        )
    return loaded


def stopped(attempt: Attempt, size: int) -> Attempt:
    """Return an attempt as it would have been with at most `size` rollouts; its response stays the whole run's."""
    step = stopped_at(attempt.outcome, size)
    if step is None:
        return attempt
    outcome = attempt.outcome._replace(correct=bool(step.correct), cost=step._asdict())
    return Attempt(outcome, attempt.response, attempt.accepted[: size - 1])
