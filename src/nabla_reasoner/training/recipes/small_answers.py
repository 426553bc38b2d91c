"""Graded answers of the policy of scale=small, on which its rewards are trained and measured.

Sampled answers are kept in files, so that a stopped run goes on where it was. From them two kinds of further right
answers are made, for the likelihood reward: wrong ones with the result replaced by the right one, and right ones moved
to other training questions.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig, OmegaConf

from ...config.fingerprint import model_version
from ...engine.sampling import Sampling, keyed_uniforms
from ...engine.sequences import end_response
from ...evaluation.accuracy import sample_responses
from ...models.language_models import Policy, RewardModel
from ...models.response_texts import ResponseTexts
from ...models.tokenizers import load_tokenizer
from ...tasks import grading
from ...types import Problem
from ..data import Example
from . import tiny
from .policy_improvement import Splits

CHUNK = 256  # answers sampled at once, and written together
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
MOVE_ATTEMPTS = 20  # right answers tried for each training question


class Answer(NamedTuple):
    """A response to a problem.

    Attributes:
        problem: the problem answered.
        response: text of the response.
        finished: whether it ended with an end-of-response token.
        correct: the grader's verdict.
        token_ids: tokens as sampled, a sampled end token included; None if the text was changed.
    """

    problem: Problem
    response: str
    finished: bool
    correct: bool
    token_ids: list[int] | None = None


def make_splits(config: DictConfig) -> Splits:
    """Generate problems by task and split, with the suffix used in runs; the splits share no held-out question."""
    return {
        task: {
            split: [with_suffix(problem, config.tasks[task].suffix) for problem in problems]
            for split, problems in parts.items()
        }
        for task, parts in tiny.splits(config).items()
    }


def with_suffix(problem: Problem, suffix: str) -> Problem:
    """Return the problem with a text added to its question."""
    return problem._replace(question=problem.question + suffix)


def sample_answers(
    config: DictConfig, problems: Sequence[Problem], count: int, stage: str, sampling: DictConfig
) -> list[Answer]:
    """Sample `count` answers of the policy to each problem and grade them; a file keeps them for a resumed run.

    Args:
        stage: names the file, and is part of the keys of the random numbers.
        sampling: temperature, top_p and top_k.

    Raises:
        ValueError: the file holds answers to other questions, of other settings, or of a policy with other weights.
    """
    path = Path(config.work_folder, f"{stage}.jsonl")
    repeated = [problem for problem in problems for _ in range(count)]
    settings = {
        "per_question": count,
        "seed": config.seed,
        "max_new_tokens": config.max_new_tokens,
        "policy": config.policy.path,
        "policy_version": model_version(config.policy.path),
        **OmegaConf.to_container(sampling),
    }
    rows = _stored(path, settings, repeated)
    policy = None
    for start in range(len(rows), len(repeated), CHUNK):
        policy = policy or Policy.from_pretrained(config.policy.path, device=config.device)
        chunk = repeated[start : start + CHUNK]
        noise = [
            keyed_uniforms(config.seed, problem.id, 0, f"{stage} {(start + i) % count}", config.max_new_tokens)
            for i, problem in enumerate(chunk)
        ]
        rollouts = sample_responses(policy, chunk, noise, Sampling(**sampling), config.max_new_tokens)
        new_rows = [
            [problem.question, rollout.token_ids, rollout.finished]
            for problem, rollout in zip(chunk, rollouts, strict=True)
        ]
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in new_rows))
        rows += new_rows
        print(f"{stage}: {len(rows)} of {len(repeated)} answers", flush=True)
    return graded(config, repeated, rows)


def graded(config: DictConfig, problems: Sequence[Problem], rows: Sequence[Sequence[Any]]) -> list[Answer]:
    """Return stored rows of (question, token ids, finished) as graded answers; rows after the last problem are left."""
    texts = ResponseTexts.of(load_tokenizer(config.policy.path))
    answers = []
    for problem, (_, token_ids, finished) in zip(problems, rows, strict=False):
        text = texts.response(token_ids)
        correct = grading.grade(problem, text, finished).correct
        answers.append(Answer(problem, text, finished, correct, token_ids))
    return answers


def same_settings(stored: dict[str, Any], present: dict[str, Any]) -> bool:
    """Return whether two settings are equal; a policy's version counts where both know it.

    A hub name has none before its first download, and older files do not have it.
    """
    names = stored.keys() | present.keys()
    if stored.get("policy_version") is None or present.get("policy_version") is None:
        names -= {"policy_version"}
    return all(stored.get(name) == present.get(name) for name in names)


def _stored(path: Path, settings: dict[str, Any], problems: Sequence[Problem]) -> list[list[Any]]:
    """Return the rows of a file, whose first line holds its settings; begin the file if there is none.

    A line that a kill cut off is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    complete = text[: text.rfind("\n") + 1] or json.dumps(settings) + "\n"
    if complete != text:
        path.write_text(complete, encoding="utf-8")
    first, *rows = [json.loads(line) for line in complete.splitlines()]
    if not same_settings(first, settings):
        raise ValueError(f"{path} must hold answers sampled with {settings}; it says {first}. Delete it.")
    if any(row[0] != problem.question for row, problem in zip(rows, problems, strict=False)):
        raise ValueError(f"{path} must hold answers to the same questions; it holds others. Delete it.")
    return rows


def training_answers(config: DictConfig, data: Splits) -> list[Answer]:
    """Sample the answers to training questions of all tasks in `data`."""
    answers = []
    for task, parts in data.items():
        questions = parts["train"][: config.tasks[task].sampled]
        sampling = config.samples.sampling
        answers += sample_answers(config, questions, config.samples.per_question, f"train-{task}", sampling)
    return answers


def validation_answers(config: DictConfig, data: Splits) -> dict[str, list[Answer]]:
    """Sample answers to validation questions as runs do, by task."""
    return {
        task: sample_answers(
            config,
            parts["validation"][: config.validation.questions],
            config.validation.per_question,
            f"validation-{task}",
            config.sampling,
        )
        for task, parts in data.items()
    }


def by_origin(config: DictConfig, data: Splits, answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """Return right answers by origin: as sampled, corrected wrong ones, and moved to other training questions."""
    right = [answer for answer in answers if answer.correct]
    corrections = [changed for answer in answers if (changed := corrected(answer))]
    pools: dict[str, list[Answer]] = {"right": right, "corrected": corrections, "moved": []}
    alike: dict[str, list[Answer]] = {}
    for answer in right:
        alike.setdefault(wording(answer.problem), []).append(answer)
    generator = np.random.default_rng(config.seed)
    for parts in data.values():
        for other in parts["train"]:
            candidates = alike.get(wording(other), [])
            order = generator.permutation(len(candidates))[:MOVE_ATTEMPTS]
            attempts = (moved(candidates[i], other) for i in order)
            pools["moved"] += [changed for changed in attempts if changed][:1]
    return pools


def wording(problem: Problem) -> str:
    """Return the text of a question without its numbers."""
    return re.sub(r"\d+", "#", problem.question)


def corrected(answer: Answer) -> Answer | None:
    """Return a wrong answer with its result replaced by the right one, written as in the question if it stands there.

    None if it states no number, or one of the question's that it has elsewhere too: 33 + 71 = 71 would become 33 + 104
    = 104.
    """
    stated = grading.extract_answer(answer.response, answer.problem.task, answer.finished)
    if answer.correct or not answer.finished or stated is None or not NUMBER.fullmatch(stated):
        return None
    question_numbers = NUMBER.findall(answer.problem.question)
    places = [_value(text) for text in NUMBER.findall(answer.response)].count(_value(stated))
    if places > 1 and _value(stated) in map(_value, question_numbers):
        return None
    result = next(
        (text for text in question_numbers if _value(text) == _value(answer.problem.answer)), answer.problem.answer
    )
    text = re.sub(rf"(?<![\d.]){re.escape(stated)}(?![\d.]*\d)", result, answer.response)
    changed = Answer(answer.problem, text, True, grading.grade(answer.problem, text).correct)
    return changed if changed.correct else None


def _value(number: str) -> float:
    """Return the value of a text that `NUMBER` matches."""
    return float(number.replace(",", ""))


def moved(answer: Answer, other: Problem) -> Answer | None:
    """Return a right answer moved to another question of the same wording; None if it has numbers of unknown origin."""
    if not answer.correct or wording(answer.problem) != wording(other):
        return None
    old, new = (re.findall(r"\d+", question) for question in (answer.problem.question, other.question))
    while old and old[-1] == new[-1]:  # numbers of the suffix, which all questions share
        old, new = old[:-1], new[:-1]
    replacements = dict(zip([*old, answer.problem.answer], [*new, other.answer], strict=True))
    number = r"-?\d+" if answer.problem.answer.startswith("-") else r"\d+"
    is_ambiguous = len(replacements) <= len(old)
    if is_ambiguous or not set(re.findall(number, answer.response)) <= set(replacements):
        return None
    text = re.sub(number, lambda match: replacements[match[0]], answer.response)
    changed = Answer(other, text, True, grading.grade(other, text).correct)
    return changed if changed.correct else None


def reward_example(reward: RewardModel, answer: Answer, group: str) -> Example:
    """Return an answer as a training sequence in the reward model's format; the verdict is the label of every token."""
    tokens = answer.token_ids
    if tokens is None:
        tokens = reward.tokenizer.encode(answer.response, add_special_tokens=False)
    response = [*end_response(tokens, reward), *reward.suffix_ids]
    prompt = reward.prompt_ids(answer.problem.messages)
    return Example(group, prompt, response, [float(answer.correct)] * len(response))
