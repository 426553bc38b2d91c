"""The highest reward that any search could reach (Figure 4), approximated by beam search.

For a likelihood reward the highest r is that of the reward model's own most likely response. Beam search (`generate` of
transformers) looks for that response. Its reward bounds the highest one from below; its accuracy is drawn.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..config import build, compose, fingerprint
from ..config.cell import Cell
from ..config.schema import choices
from ..engine import scoring
from ..evaluation.json_files import warn_once
from ..evaluation.records import CellKey
from ..evaluation.stored_cells import StoredCell, stored_cells
from ..models.language_models import RewardModel
from ..tasks import grading
from ..types import Problem

SCALES = ("tiny",)  # scales whose reward model is small enough for beam search
BEAMS = 8
SEARCH = ("num_beams", "max_new_tokens")  # what decides a search besides problems and weights
UNSUITABLE = "these records were not made with a likelihood reward, or its model is too large to be searched"
Row = dict[str, Any]  # problem_id, question, answer, response, reward, correct, weights, and those of SEARCH


class BestResponse(NamedTuple):
    """The response of highest reward among the beams of a problem.

    Attributes:
        tokens: token ids, up to the first end token.
        reward: r in nats.
    """

    tokens: list[int]
    reward: float


@torch.no_grad()
def beam_search(
    reward: RewardModel, problems: Sequence[Problem], *, num_beams: int, max_new_tokens: int, batch_size: int = 50
) -> list[BestResponse]:
    """Return the response of highest reward that beam search finds for each problem.

    Args:
        reward: a likelihood reward, which scores all `num_beams` responses of a search.
        max_new_tokens: length limit, end token included.

    Raises:
        ValueError: a reward that is no language model.
    """
    if reward.kind != "likelihood":
        raise ValueError(f"beam search needs a reward of kind likelihood; got {reward.kind}. Choose reward=likelihood.")
    pad, device = reward.eos_ids[0], reward.strong.device
    best = []
    for begin in range(0, len(problems), batch_size):
        prompts = [reward.prompt_ids(problem.messages) for problem in problems[begin : begin + batch_size]]
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        beams = reward.strong.model.generate(
            input_ids=ids,
            attention_mask=mask,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            do_sample=False,
            length_penalty=0.0,
            early_stopping="never",
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
            eos_token_id=reward.eos_ids,
        )
        responses = [_cut(beam[width:].tolist(), reward.eos_ids) for beam in beams]
        values, _ = scoring.rewards(reward, [p for p in prompts for _ in range(num_beams)], responses)
        candidates = [BestResponse(*pair) for pair in zip(responses, values, strict=True)]
        for first in range(0, len(candidates), num_beams):
            best.append(max(candidates[first : first + num_beams], key=lambda candidate: candidate.reward))
    return best


def _cut(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """Return a response up to its first end token."""
    stop = next((position for position, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tokens[: stop + 1]


class Ceilings(NamedTuple):
    """Results of the search.

    Attributes:
        rows: response, reward and correctness by task and problem.
        reasons: why there was no search, by names of tasks (see `stored_cells`) that have no rows.
    """

    rows: dict[str, dict[str, Row]]
    reasons: dict[str, str]


def search(folder: Path, scale: str) -> Ceilings:
    """Return the responses of highest reward; computed unless already stored.

    Stored as `table1/ceiling/<reward>__<task>.jsonl`, one line per problem. A task is left out if its records were made
    without a likelihood reward or with other weights than the present ones, or if the scale is not in `SCALES`.

    Args:
        folder: results of the scale, with `table1/records`.
    """
    rows: dict[str, dict[str, Row]] = {}
    reasons: dict[str, str] = {}
    for key, stored in stored_cells(folder / "table1" / "records", folder / "table1" / "budget")[0].items():
        if key.task in rows:
            continue
        reason = _unfit(key, stored, scale)
        if reason is None:
            try:
                cell, weights = _composed(stored, scale)
            except ValueError as error:
                reason = " ".join(str(error).split()).rstrip(".")
        if reason is not None:
            reasons.setdefault(key.task, reason)
            continue
        path = folder / "table1" / "ceiling" / f"{cell.reward.name}__{key.task}.jsonl"
        rows[key.task] = _stored(path, weights, cell)
    return Ceilings(rows, {task: reason for task, reason in reasons.items() if task not in rows})


def _unfit(key: CellKey, stored: StoredCell, scale: str) -> str | None:
    """Return why the records of a cell are not of a reward and problems to be searched; None if they are."""
    settings = stored.settings
    reward = settings.get("reward", {})
    if settings and (scale not in SCALES or reward.get("kind") != "likelihood"):
        return UNSUITABLE
    if "name" not in reward or "num_problems" not in settings or "max_new_tokens" not in settings.get("method", {}):
        return "the settings of these records are unknown"
    if reward.get("reference"):
        return "the reward has a reference model, which the search does not read"
    if settings.get("split", "test") != "test":
        return "these records are not of test problems"
    if key[:2] != stored.names[:2]:
        return "records of one name were made with different settings"
    named = (("policy", stored.names.policy), ("task", stored.names.task), ("reward", reward["name"]))
    undescribed = [f"{group} {name}" for group, name in named if name not in choices(group)]
    return f"no file in configs/ describes {' and '.join(undescribed)}" if undescribed else None


def _composed(stored: StoredCell, scale: str) -> tuple[Cell, str]:
    """Return the present settings of the search, and the digest of the reward's weights.

    Raises:
        ValueError: they cannot be composed, or belong to another reward model or other problems than the records.
    """
    settings, names = stored.settings, stored.names
    words = [f"scale={scale}", f"policy={names.policy}", f"task={names.task}", f"reward={settings['reward']['name']}"]
    words += [f"{name}={settings.get(name) or 'null'}" for name in ("num_problems", "threads")]
    words += [f"max_new_tokens={settings['method']['max_new_tokens']}", "method=greedy"]
    (cell,) = compose.compose_cells(words)
    current = fingerprint.fingerprint(cell)
    for group in ("reward", "task"):
        if current[group] != settings.get(group):
            raise ValueError(f"these records were made with other settings of the {group} than its present ones")
    return cell, current["reward"]["weights"]


def _read(path: Path) -> dict[str, Row]:
    """Return the rows of a file by problem; none, with a line, if it is damaged."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return {row["problem_id"]: row for row in map(json.loads, lines) if {"weights", "reward", *SEARCH} <= {*row}}
    except (ValueError, TypeError, KeyError):
        warn_once(f"{path} is damaged: the search runs again.")
        return {}


def _stored(path: Path, weights: str, cell: Cell) -> dict[str, Row]:
    """Return the rows of one file by problem; computed if missing, or if questions, weights or search differ."""
    problems = build.build_problems(cell)
    stored = _read(path)
    made = {"weights": weights, "num_beams": BEAMS, "max_new_tokens": cell.max_new_tokens}
    contents = {problem.id: made | {"question": problem.question, "answer": problem.answer} for problem in problems}
    if all(name in stored and wanted.items() <= stored[name].items() for name, wanted in contents.items()):
        return {problem.id: stored[problem.id] for problem in problems}
    _, reward = build.load_models(cell)
    best = beam_search(reward, problems, num_beams=BEAMS, max_new_tokens=cell.max_new_tokens)
    computed = {}
    for problem, (tokens, value) in zip(problems, best, strict=True):
        response = reward.strong.response_text(tokens)  # of the prompt that the reward read
        computed[problem.id] = {
            "problem_id": problem.id,
            "response": response,
            "reward": value,
            "correct": grading.grade(problem, response, tokens[-1] in reward.eos_ids).correct,
            **contents[problem.id],
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in computed.values()), encoding="utf-8")
    return computed
