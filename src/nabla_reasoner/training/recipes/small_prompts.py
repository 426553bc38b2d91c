"""Choice of tasks, difficulty and prompt of scale=small, on training questions.

Methods can be told apart only where the policy is right sometimes, and more often in eight attempts than in one, and
where no answer is right for most questions. A candidate is a task with a difficulty and a suffix, the text added to a
question. Every candidate is decoded greedily; those of a fitting accuracy are then sampled. A candidate that meets all
three conditions may be chosen, one of each task.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from ...config.fingerprint import model_version
from ...engine.sampling import Sampling, keyed_uniforms
from ...evaluation.accuracy import grades, sample_responses
from ...models.language_models import Policy
from ...types import Problem
from . import tiny
from .small_answers import same_settings, with_suffix

COLUMNS = (
    "task",
    "difficulty",
    "suffix",
    "questions",
    "samples",
    "greedy",
    "one_sample",
    "any_of_n",
    "response_tokens",
    "same_answer",
    "fits",
    "chosen",
)


class Candidate(NamedTuple):
    """A task with a difficulty and a prompt.

    Attributes:
        difficulty: settings of the reasoning-gym task.
        suffix: text added to a question.
    """

    task: str
    difficulty: dict[str, Any]
    suffix: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies its row."""
        return self.task, json.dumps(self.difficulty), self.suffix


def candidates(config: DictConfig) -> Iterator[Candidate]:
    """Yield every difficulty with every suffix of each task of `config.prompts.tasks`."""
    for task, choices in OmegaConf.to_container(config.prompts.tasks, resolve=True).items():
        for difficulty in choices["difficulties"]:
            for suffix in choices["suffixes"]:
                yield Candidate(task, difficulty, suffix)


def measure(config: DictConfig, policy: Policy, candidate: Candidate) -> dict[str, Any]:
    """Return the row of a candidate: percentages on training questions; samples only if greedy decoding fits.

    `same_answer` is the share of questions that have the most frequent right answer. `fits` says whether all conditions
    are met. No question of a held-out split is read.
    """
    settings, limit = config.prompts, config.max_new_tokens
    size = settings.questions
    task = {"train": size, "settings": candidate.difficulty}
    data = tiny.splits(OmegaConf.create({"tasks": {candidate.task: task}, "held_out": config.held_out}))
    questions = [with_suffix(problem, candidate.suffix) for problem in data[candidate.task]["train"]]
    greedy, lengths = _verdicts(policy, questions, [np.zeros(limit)] * size, Sampling(0.0), limit)
    row: dict[str, Any] = dict(zip(COLUMNS, candidate.key, strict=False))
    row |= {"questions": size, "samples": 0, "greedy": 100 * greedy.mean(), "one_sample": None, "any_of_n": None}
    low, high = settings.greedy
    if low <= row["greedy"] <= high:
        count = settings.samples
        repeated = [problem for problem in questions for _ in range(count)]
        noise = [keyed_uniforms(config.seed, p.id, 0, f"prompts {k}", limit) for p in questions for k in range(count)]
        right, lengths = _verdicts(policy, repeated, noise, Sampling(**config.sampling), limit)
        right = right.reshape(size, count)
        row |= {"samples": count, "one_sample": 100 * right.mean(), "any_of_n": 100 * right.any(1).mean()}
    row["response_tokens"] = lengths.mean()
    row["same_answer"] = 100 * Counter(question.answer for question in questions).most_common(1)[0][1] / size
    varied = row["same_answer"] <= settings.same_answer
    row["fits"] = bool(varied and row["samples"] > 0 and row["any_of_n"] - row["one_sample"] >= settings.gain)
    return {name: round(float(value), 1) if isinstance(value, float) else value for name, value in row.items()}


def _verdicts(
    policy: Policy, questions: Sequence[Problem], noise: Sequence[np.ndarray], sampling: Sampling, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each response is right, and its length in tokens."""
    rollouts = sample_responses(policy, questions, noise, sampling, limit)
    right = np.array([grade.correct for grade in grades(policy, questions, rollouts)])
    return right, np.array([len(rollout.token_ids) for rollout in rollouts])


def mark_chosen(rows: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """Mark the chosen rows: of each task the one that gains most from several samples, and of these the `count` best.

    Only rows that fit can be chosen; of equal ones the first is.

    Args:
        count: number of tasks that are chosen, if so many fit.
    """
    gains = {i: row["any_of_n"] - row["one_sample"] for i, row in enumerate(rows) if row["fits"]}
    best: dict[str, int] = {}
    for i in sorted(gains, key=lambda i: -gains[i]):
        best.setdefault(rows[i]["task"], i)
    chosen = set(list(best.values())[:count])
    return [{**row, "chosen": i in chosen} for i, row in enumerate(rows)]


def compare(config: DictConfig) -> None:
    """Measure all candidates and write assets/sweeps/small_prompts.csv; a stopped run goes on with the next candidate.

    What is chosen is printed; `tasks` of the recipe and the scale's own settings are to be set to it.
    """
    work = Path(config.work_folder, "prompts.jsonl")
    work.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"settings": _settings(config)})
    lines = work.read_text(encoding="utf-8").split("\n")[:-1] if work.exists() else []
    if not lines or not same_settings(json.loads(lines[0])["settings"], _settings(config)):  # all is measured again
        lines = []
        work.write_text(header + "\n", encoding="utf-8")
    stored = [json.loads(line) for line in lines[1:]]
    measured = {(row["task"], row["difficulty"], row["suffix"]): row for row in stored}
    policy = None
    for candidate in candidates(config):
        if candidate.key not in measured:
            policy = policy or Policy.from_pretrained(config.policy.path, device=config.device)
            row = measured[candidate.key] = measure(config, policy, candidate)
            print(json.dumps(row, ensure_ascii=False), flush=True)
            with work.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    rows = mark_chosen([measured[candidate.key] for candidate in candidates(config)], config.prompts.count)
    path = Path(config.folder, "sweeps", "small_prompts.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(path, index=False)
    for row in rows:
        if row["chosen"]:
            print(f"chosen: {row['task']} {row['difficulty']} {row['suffix']!r}")


def _settings(config: DictConfig) -> dict[str, Any]:
    """Return the settings on which every row depends."""
    plain = OmegaConf.to_container(config, resolve=True)
    shared = {name: plain[name] for name in ("seed", "sampling", "max_new_tokens", "held_out")}
    chosen = {name: plain["prompts"][name] for name in ("questions", "samples", "greedy", "gain", "same_answer")}
    path = plain["policy"]["path"]
    return {**shared, **chosen, "policy": path, "policy_version": model_version(path)}
