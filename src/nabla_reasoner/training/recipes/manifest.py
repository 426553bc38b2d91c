"""What the shipped models are and can do, measured on validation problems into assets/manifest.json.

A policy: greedy accuracy, one sample, any of 8. A reward, for each policy and task: Best-of-8, the share of the gap
between one sample and any-of-8 that it closes, AUC on the policy's own samples, and how often the worked solution
outranks answers to other problems (far-away answers), and how far its probabilities are from the truth.
"""

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from scipy import special, stats

from ...engine import generation, scoring
from ...engine.sampling import Sampling, keyed_uniforms
from ...evaluation.accuracy import grades, greedy_accuracy
from ...models.language_models import Policy, RewardModel
from ...tasks import worked_solutions
from ...types import Problem

NUM_PROBLEMS, NUM_SAMPLES, NUM_FAR, LIMIT, TEMPERATURE = 300, 8, 20, 96, 0.7


def write(config: DictConfig, data: dict[str, dict[str, list[Problem]]]) -> None:
    """Measure everything in the assets folder and write its manifest."""
    folder = Path(config.folder)
    rewards = {
        name: RewardModel.from_pretrained(str(folder / config.models[name].folder), kind=name.partition("-")[0])
        for name in config.models
        if name.startswith(("likelihood", "classifier"))
    }
    own = str(folder / config.models["tiny-instruct"].folder)  # the weakest judge: no better than the better policy
    rewards["likelihood-weak"] = RewardModel.from_pretrained(own, "likelihood")
    validation = {task: parts["validation"][:NUM_PROBLEMS] for task, parts in data.items()}
    entries = {name: describe(folder, folder / recipe.folder, recipe) for name, recipe in config.models.items()}
    entries |= {name: describe(folder, Path(recipe.folder), recipe) for name, recipe in config.improved.items()}
    for name, reward in rewards.items():
        if reward.strong is not None:
            entries["tiny-instruct" if name == "likelihood-weak" else name]["greedy_accuracy"] = {
                task: round(greedy_accuracy(reward.strong, problems, LIMIT), 1) for task, problems in validation.items()
            }
    for name, entry in entries.items():
        if entry["folder"].startswith("policies/"):
            policy = Policy.from_pretrained(str(folder / entry["folder"]))
            asked = rewards if name in config.models else {"likelihood": rewards["likelihood"]}
            entry["validation"] = {task: measure(policy, asked, own) for task, own in validation.items()}
    manifest = {
        "made_by": "./reproduce.sh models",
        "measured_on": f"{NUM_PROBLEMS} validation problems per task, {NUM_SAMPLES} samples, temperature {TEMPERATURE}",
        "tasks": OmegaConf.to_container(config.tasks),
        "held_out": OmegaConf.to_container(config.held_out),
        "models": entries,
        "improvement": OmegaConf.to_container(config.improvement, resolve=True),
        "sweeps": {path.stem: read_sweep(path) for path in sorted((folder / "sweeps").glob("*.csv"))},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def read_sweep(path: Path) -> list[dict[str, str]]:
    """Rows of a sweep over a baseline's main setting."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(line for line in stream if not line.startswith("#")))


def describe(assets: Path, folder: Path, recipe: DictConfig) -> dict[str, Any]:
    """Recipe, size and checksum of the model in a folder of the assets."""
    weights, settings = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    return {
        "folder": str(folder.relative_to(assets)),
        "recipe": OmegaConf.to_container(recipe, resolve=True),
        "architecture": settings["architectures"],
        "bytes": weights.stat().st_size,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def prompts(model: Policy | RewardModel, problems: Sequence[Problem]) -> list[list[int]]:
    """Chat prompts of the problems by the model's template."""
    return [model.prompt_ids(problem.messages) for problem in problems]


def measure(policy: Policy, rewards: dict[str, RewardModel], problems: Sequence[Problem]) -> dict[str, Any]:
    """Accuracies of one policy on one task, and the worth of each reward there."""
    own = prompts(policy, problems)
    noise = [keyed_uniforms(0, p.id, 0, f"rollout {k}", LIMIT) for p in problems for k in range(NUM_SAMPLES)]
    repeated = [prompt for prompt in own for _ in range(NUM_SAMPLES)]
    drawn = generation.sample(policy, repeated, noise, Sampling(TEMPERATURE), [LIMIT] * len(repeated))
    owners = [problem for problem in problems for _ in range(NUM_SAMPLES)]
    correct = np.array([grade.correct for grade in grades(policy, owners, drawn)]).reshape(-1, NUM_SAMPLES)
    one, best = 100 * correct.mean(), 100 * correct.any(1).mean()
    result: dict[str, Any] = {
        "greedy": round(greedy_accuracy(policy, problems, LIMIT), 1),
        "one_sample": round(one, 1),
        "any_of_8": round(best, 1),
        "response_tokens": round(float(np.mean([len(r.token_ids) for r in drawn])), 1),
        "rewards": {},
    }
    for kind, reward in rewards.items():
        values, _ = scoring.rewards(
            reward, [p for p in prompts(reward, problems) for _ in range(NUM_SAMPLES)], [r.token_ids for r in drawn]
        )
        scores = np.array(values).reshape(-1, NUM_SAMPLES)
        chosen = 100 * correct[np.arange(len(problems)), scores.argmax(1)].mean()
        result["rewards"][kind] = {
            "best_of_8": round(chosen, 1),
            "gap_closed": round((chosen - one) / (best - one), 3),
            "auc": round(auc(scores[correct], scores[~correct]), 3),
            "calibration_error": round(calibration_error(probability(reward, scores), correct), 3),
            "outranks_far_answers": round(far_ranking(policy, reward, problems), 3),
        }
    return result


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a right response scores above a wrong one (ties count half)."""
    return float(stats.mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))


def probability(reward: RewardModel, scores: np.ndarray) -> np.ndarray:
    """A reward read as the probability that the response is right: the sigmoid of a classifier's score, or the
    probability that the judge itself would have written just this response."""
    return special.expit(scores) if reward.kind == "classifier" else np.exp(np.minimum(scores, 0))


def calibration_error(probabilities: np.ndarray, correct: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: |share right - mean probability| in bins of equal width, weighted by their counts."""
    place = np.minimum((probabilities.ravel() * bins).astype(int), bins - 1)
    gaps = correct.ravel().astype(float) - probabilities.ravel()
    return float(np.abs(np.bincount(place, gaps, minlength=bins)).sum() / len(gaps))


def far_ranking(policy: Policy, reward: RewardModel, problems: Sequence[Problem]) -> float:
    """Share of problems whose worked solution outscores the worked solutions of NUM_FAR other problems."""
    end = [policy.eos_ids[0]]
    encode = policy.tokenizer.encode
    solutions = [encode(worked_solutions.worked_solution(p), add_special_tokens=False) + end for p in problems]
    count = len(problems)
    order = [[i] + [(i + 1 + k) % count for k in range(NUM_FAR)] for i in range(count)]
    own = prompts(reward, problems)
    values, _ = scoring.rewards(
        reward, [own[i] for i in range(count) for _ in order[i]], [solutions[j] for row in order for j in row]
    )
    scores = np.array(values).reshape(count, NUM_FAR + 1)
    return float((scores[:, 0] > scores[:, 1:].max(1)).mean())
