"""The best that any search of the reward could do (Figure 4): a search of the judge itself, by beams.

For a likelihood reward the highest r is the judge's own most likely response. Beam search (`generate` of transformers)
looks for it; what it finds is a lower bound of the best reward, and its accuracy the ceiling that is drawn.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..config import build, compose, fingerprint
from ..config.schema import Cell
from ..engine import scoring
from ..evaluation.records import stored_cells
from ..models.language_models import RewardModel
from ..tasks import grading
from ..types import Problem

SCALES = ("tiny",)  # where the judge is small enough to be searched on the way
BEAMS = 8


@torch.no_grad()
def beam_search(
    reward: RewardModel, problems: Sequence[Problem], *, num_beams: int, max_new_tokens: int, batch_size: int = 50
) -> list[tuple[list[int], float]]:
    """The response of highest reward that beam search finds for each problem, with its reward in nats.

    Args:
        reward: of kind "likelihood"; all `num_beams` responses of a search are scored by it.
        max_new_tokens: length limit, end token included.

    Raises:
        ValueError: a reward that is no language model.
    """
    if reward.kind != "likelihood":
        raise ValueError(f"a reward is searched by beams where it is a likelihood; got a {reward.kind}.")
    judge, pad = reward.strong, reward.eos_ids[0]
    found = []
    for begin in range(0, len(problems), batch_size):
        prompts = [reward.prompt_ids(problem.messages) for problem in problems[begin : begin + batch_size]]
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=judge.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=judge.device)
        drawn = judge.model.generate(
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
        responses = [_cut(row[width:].tolist(), reward.eos_ids) for row in drawn]
        values, _ = scoring.rewards(reward, [p for p in prompts for _ in range(num_beams)], responses)
        for number in range(len(prompts)):
            own = range(number * num_beams, (number + 1) * num_beams)
            best = max(own, key=lambda index: values[index])
            found.append((responses[best], values[best]))
    return found


def _cut(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """A response up to its first end token."""
    stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tokens[: stop + 1]


def rows(folder: Path, scale: str) -> dict[str, dict[str, dict[str, Any]]]:
    """By task and problem: response, reward and whether it is correct; made where it is not stored yet.

    Stored as `table1/ceiling/<reward>__<task>.jsonl`, one line per problem. Tasks are left out whose records were not
    made with a likelihood reward that is here, and every task at scales other than `SCALES`.

    Args:
        folder: results of the scale, with `table1/records`.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (policy, task, _), paths in stored_cells(folder / "table1" / "records").items() if scale in SCALES else ():
        settings = json.loads(paths[0].with_suffix(".settings.json").read_text(encoding="utf-8"))
        if task in found or settings.get("reward", {}).get("kind") != "likelihood":
            continue
        names = [f"scale={scale}", f"policy={policy}", f"task={task}", f"reward={settings['reward']['name']}"]
        names += [f"num_problems={settings['num_problems']}", f"threads={settings['threads'] or 'null'}"]
        (cell,) = compose.compose_cells([*names, "method=greedy"])
        made = fingerprint.fingerprint(cell)
        if any(made[group] != settings[group] for group in ("reward", "task")):
            continue  # the judge or the problems are not those of the records
        path = folder / "table1" / "ceiling" / f"{settings['reward']['name']}__{task}.jsonl"
        found[task] = _stored(path, made["reward"]["weights"], cell)
    return found


def _stored(path: Path, weights: str, cell: Cell) -> dict[str, dict[str, Any]]:
    """The rows of one file, which is written anew where problems are missing or the judge is another."""
    problems = build.build_problems(cell)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    held = {row["problem_id"]: row for row in map(json.loads, lines)}
    known = all(problem.id in held and held[problem.id]["weights"] == weights for problem in problems)
    if known and all(row["num_beams"] == BEAMS for row in held.values()):
        return held
    policy, reward = build.load_models(cell)
    best = beam_search(reward, problems, num_beams=BEAMS, max_new_tokens=cell["max_new_tokens"])
    held = {}
    for problem, (tokens, value) in zip(problems, best, strict=True):
        response = policy.decode(tokens)
        right = grading.grade(problem, response, tokens[-1] in reward.eos_ids).correct
        held[problem.id] = {
            "problem_id": problem.id,
            "response": response,
            "reward": value,
            "correct": right,
            "num_beams": BEAMS,
            "weights": weights,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in held.values()), encoding="utf-8")
    return held
