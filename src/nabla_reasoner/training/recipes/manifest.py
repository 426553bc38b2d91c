"""Measurements of the shipped models on validation problems, written to assets/manifest.json.

A policy: greedy accuracy, accuracy of one sample, and of any of 8. A reward, for each policy and task: Best-of-8, share
of the gap between one sample and any of 8 that it closes, AUC and calibration on the policy's own samples, and how
often the worked solution outranks answers to other problems (far-away answers). The token AUC is that of the rewards
of the responses' prefixes, at every token, against the verdict on the whole response.
"""

import csv
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from omegaconf import DictConfig, OmegaConf
from scipy import special, stats

from ...engine import scoring
from ...engine.sampling import Sampling, keyed_uniforms
from ...evaluation.accuracy import grades, greedy_accuracy, sample_responses
from ...evaluation.token_values import prefix_rewards
from ...models.language_models import Policy, RewardModel
from ...types import Problem
from ..data import solution_ids
from .verifiers import checkpoint_folders

NUM_PROBLEMS = 300  # validation problems of each task
NUM_SAMPLES = 8
NUM_FAR = 20  # answers to other problems that each worked solution is compared with
MAX_NEW_TOKENS = 96
TEMPERATURE = 0.7
WEAK_LIKELIHOOD = "tiny-instruct"  # the weakest likelihood reward: a policy itself


def write(config: DictConfig, data: dict[str, dict[str, list[Problem]]]) -> None:
    """Measure all models in the assets folder and write its manifest."""
    folder = Path(config.folder)
    validation = {task: parts["validation"][:NUM_PROBLEMS] for task, parts in data.items()}
    recipes = shipped_models(config)
    rewards = {
        name: RewardModel.from_pretrained(
            str(folder / recipe.folder), kind=reward_kind(name, recipe), reference=reference_folder(config, recipe)
        )
        for name, recipe in recipes.items()
        if recipe.folder.startswith("rewards/")
    }
    weak_folder = str(folder / config.models[WEAK_LIKELIHOOD].folder)
    rewards["likelihood-weak"] = RewardModel.from_pretrained(weak_folder, "likelihood")
    entries = {name: describe(folder, folder / recipe.folder, recipe) for name, recipe in recipes.items()}
    entries |= {name: describe(folder, Path(recipe.folder), recipe) for name, recipe in config.improved.items()}
    for name, reward in rewards.items():
        if reward.strong is not None:
            entries[WEAK_LIKELIHOOD if name == "likelihood-weak" else name]["greedy_accuracy"] = {
                task: round(greedy_accuracy(reward.strong, problems, MAX_NEW_TOKENS), 1)
                for task, problems in validation.items()
            }
    far: dict[tuple[str, str], float] = {}
    for name, entry in entries.items():
        if entry["folder"].startswith("policies/"):
            policy = Policy.from_pretrained(str(folder / entry["folder"]))
            measured = rewards if name in config.models else {"likelihood": rewards["likelihood"]}
            entry["validation"] = {
                task: measure(policy, measured, problems, far) for task, problems in validation.items()
            }
            print(f"manifest: {name} measured", flush=True)
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


def shipped_models(config: DictConfig) -> dict[str, DictConfig]:
    """Return the recipe of every pretrained model by name; the earlier checkpoints of a verifier are models too."""
    recipes = {}
    for name, recipe in config.models.items():
        recipes[name] = recipe
        for step, folder in checkpoint_folders(recipe).items() if "labels" in recipe else ():
            recipes[f"{name}-{step}"] = OmegaConf.merge(recipe, {"folder": folder})
    return recipes


def reward_kind(name: str, recipe: Mapping[str, Any]) -> str:
    """Return the kind of a shipped reward model."""
    return "likelihood" if name.startswith("likelihood") or recipe.get("head") == "ratio" else "classifier"


def reference_folder(config: DictConfig, recipe: DictConfig) -> str | None:
    """Return the folder of a reward's reference model: where a verifier by log-ratio started; None for others."""
    return str(Path(config.folder, config.models[recipe.start].folder)) if recipe.get("head") == "ratio" else None


def read_sweep(path: Path) -> list[dict[str, str]]:
    """Return the rows of a sweep over a baseline's main setting."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(line for line in stream if not line.startswith("#")))


def describe(assets: Path, folder: Path, recipe: DictConfig) -> dict[str, Any]:
    """Return recipe, size and checksum of the model in a folder of the assets."""
    weights = folder / "model.safetensors"
    return {
        "folder": str(folder.relative_to(assets)),
        "recipe": OmegaConf.to_container(recipe, resolve=True),
        "architecture": json.loads((folder / "config.json").read_text())["architectures"],
        "bytes": weights.stat().st_size,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def measure(
    policy: Policy,
    rewards: dict[str, RewardModel],
    problems: Sequence[Problem],
    far: dict[tuple[str, str], float] | None = None,
) -> dict[str, Any]:
    """Return accuracies of one policy on one task in percent, and the quality of each reward there.

    Args:
        far: results of `far_ranking` by reward and task, which are the same for every policy; new ones are added.
    """
    far = {} if far is None else far
    task = problems[0].task
    repeated = [problem for problem in problems for _ in range(NUM_SAMPLES)]
    noise = [keyed_uniforms(0, p.id, 0, f"rollout {k}", MAX_NEW_TOKENS) for p in problems for k in range(NUM_SAMPLES)]
    rollouts = sample_responses(policy, repeated, noise, Sampling(TEMPERATURE), MAX_NEW_TOKENS)
    responses = [rollout.token_ids for rollout in rollouts]
    correct = np.array([grade.correct for grade in grades(policy, repeated, rollouts)])
    correct = correct.reshape(-1, NUM_SAMPLES)
    result: dict[str, Any] = {
        "greedy": round(greedy_accuracy(policy, problems, MAX_NEW_TOKENS), 1),
        "one_sample": round(100 * correct.mean(), 1),
        "any_of_8": round(100 * correct.any(1).mean(), 1),
        "response_tokens": round(float(np.mean([len(response) for response in responses])), 1),
        "rewards": {},
    }
    for name, reward in rewards.items():
        if (name, task) not in far:
            far[name, task] = far_ranking(policy, reward, problems)
        values, _ = scoring.rewards(reward, [reward.prompt_ids(problem.messages) for problem in repeated], responses)
        scores = np.array(values).reshape(-1, NUM_SAMPLES)
        quality = selection_quality(scores, correct)
        result["rewards"][name] = {
            "best_of_8": round(quality["best_of_8"], 1),
            "gap_closed": rounded(quality["gap_closed"]),
            "auc": rounded(quality["auc"]),
            "auc_within": rounded(auc_within(scores, correct)),
            "token_auc": rounded(token_auc(reward, problems, responses[::NUM_SAMPLES], correct[:, 0])),
            "calibration_error": round(calibration_error(probability(reward, scores), correct), 3),
            "outranks_far_answers": round(far[name, task], 3),
        }
    return result


def rounded(value: float | int) -> float | None:
    """Return a measure with three decimals; None for NaN, which JSON does not have."""
    return None if math.isnan(value) else round(float(value), 3)


def selection_quality(
    scores: Float[np.ndarray, "problem sample"], correct: Bool[np.ndarray, "problem sample"]
) -> dict[str, float]:
    """Return how well a reward's scores choose among N samples: percentages, share of the gap closed, AUC.

    The last two are NaN where they are undefined: no gap, or only right or only wrong answers.
    """
    count = scores.shape[1]
    one_sample = 100 * correct.mean()
    any_sample = 100 * correct.any(1).mean()
    best = 100 * correct[np.arange(len(scores)), scores.argmax(1)].mean()
    return {
        "one_sample": one_sample,
        f"any_of_{count}": any_sample,
        f"best_of_{count}": best,
        "gap_closed": (best - one_sample) / (any_sample - one_sample) if any_sample > one_sample else float("nan"),
        "auc": auc(scores[correct], scores[~correct]),
    }


def auc(positive: Float[np.ndarray, " positive"], negative: Float[np.ndarray, " negative"]) -> float:
    """Return the probability that a right answer scores above a wrong one (ties count half); NaN without both."""
    if not (len(positive) and len(negative)):
        return float("nan")
    return float(stats.mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))


def auc_within(scores: Float[np.ndarray, "problem sample"], correct: Bool[np.ndarray, "problem sample"]) -> float:
    """Return the mean AUC of right against wrong answers to the same problem, which is what a search compares.

    The AUC over all problems also rewards knowing which problems are hard. NaN if no problem has both.
    """
    is_mixed = correct.any(1) & ~correct.all(1)
    rows = zip(scores[is_mixed], correct[is_mixed], strict=True)
    return float(np.mean([auc(row[right], row[~right]) for row, right in rows])) if is_mixed.any() else float("nan")


def token_auc(
    reward: RewardModel,
    problems: Sequence[Problem],
    responses: Sequence[list[int]],
    correct: Bool[np.ndarray, " problem"],
) -> float:
    """Return the AUC of r(y_≤l|x) at all tokens of one response per problem, against the verdict on the response."""
    rows = prefix_rewards(reward, [reward.prompt_ids(problem.messages) for problem in problems], responses)
    is_right = np.repeat(correct, [len(row) for row in rows])
    scores = np.concatenate(rows)
    return auc(scores[is_right], scores[~is_right])


def probability(reward: RewardModel, scores: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return rewards as probabilities that a response is right.

    A classifier's score is a logit, and a log-ratio is taken as one. A likelihood without reference is the
    log-probability that the model writes this response.
    """
    is_likelihood = reward.kind == "likelihood" and reward.reference is None
    return np.exp(np.minimum(scores, 0)) if is_likelihood else special.expit(scores)


def calibration_error(
    probabilities: Float[np.ndarray, "*shape"], correct: Bool[np.ndarray, "*shape"], bins: int = 10
) -> float:
    """Return the expected calibration error: |share right - mean probability| over bins of equal width, by count."""
    indices = np.minimum((probabilities.ravel() * bins).astype(int), bins - 1)
    gaps = correct.ravel().astype(float) - probabilities.ravel()
    return float(np.abs(np.bincount(indices, gaps, minlength=bins)).sum() / len(gaps))


def far_ranking(policy: Policy, reward: RewardModel, problems: Sequence[Problem]) -> float:
    """Return the share of problems whose worked solution outscores those of NUM_FAR other problems."""
    count = len(problems)
    solutions = [solution_ids(policy.tokenizer, problem, policy.eos_ids[0]) for problem in problems]
    prompts = [reward.prompt_ids(problem.messages) for problem in problems]
    compared = [[i] + [(i + 1 + k) % count for k in range(NUM_FAR)] for i in range(count)]  # the right one first
    values, _ = scoring.rewards(
        reward, [prompts[i] for i in range(count) for _ in compared[i]], [solutions[j] for row in compared for j in row]
    )
    scores = np.array(values).reshape(count, NUM_FAR + 1)
    return float((scores[:, 0] > scores[:, 1:].max(1)).mean())
