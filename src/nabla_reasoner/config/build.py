"""Policy, reward model, method and problems of a cell."""

import functools
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from hydra.utils import get_class, get_method
from omegaconf import OmegaConf

from ..baselines.judge_decoding import LIKELIHOOD_METHODS
from ..baselines.lockstep import check_likelihood
from ..models.language_models import Policy, RewardModel
from ..tasks import problems
from ..types import Problem
from .schema import CONFIGS, ROOT, Cell


def locate(path: str) -> str:
    """Return a model's folder, relative to here or to the repository's root; otherwise the name as it is (hub)."""
    return str(ROOT / path) if not Path(path).exists() and (ROOT / path).exists() else path


def build_problems(cell: Cell) -> list[Problem]:
    """Return the cell's problems; cells of the same task share the list.

    Raises:
        ValueError: a missing or malformed file, a benchmark that cannot be fetched, or too many problems.
    """
    return _problems(json.dumps(cell["task"], sort_keys=True), cell["num_problems"], cell["split"], cell["scale_name"])


@functools.lru_cache(maxsize=16)
def _problems(task_json: str, size: int | None, split: str, scale: str) -> list[Problem]:
    task = json.loads(task_json)
    if "dataset" in task:
        if size is None:
            raise ValueError(f"task {task['name']} is generated without end; give num_problems.")
        generated = _generated(task, size, split, scale)
        return [problem._replace(question=problem.question + task.get("suffix", "")) for problem in generated]
    if task["path"] is not None:
        return problems.load_jsonl(task["path"], task=task["name"], size=size, suffix=task["suffix"])
    try:
        return problems.load_hub(task=task["name"], size=size, suffix=task["suffix"], **task["hub"])
    except Exception as error:  # no `datasets`, no network, a renamed data set: each raises types of its own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"task {task['name']} cannot be fetched from the hub ({type(error).__name__}: {first}). "
            "Give a file: task.path=FILE.jsonl with fields id, problem, answer."
        ) from error


def _generated(task: dict[str, Any], size: int, split: str, scale: str) -> list[Problem]:
    """Return problems of a reasoning-gym task; the recipe of the scale's models says what is held out for validation.

    Raises:
        ValueError: validation at a scale whose models are not trained here, or more problems than were held out.
    """
    if split == "test":
        return problems.generate(task["dataset"], split=split, size=size, settings=task["settings"])
    recipe = CONFIGS / "train" / f"{scale}.yaml"
    if not recipe.exists():
        raise ValueError(f"split=validation needs a scale whose models are trained here; got {scale}. Use split=test.")
    held_out = OmegaConf.to_container(OmegaConf.load(recipe).held_out)
    return problems.validation(task["dataset"], size=size, settings=task["settings"], held_out=held_out)


def prepare_models(cell: Cell) -> None:
    """Unpack models that come in another form, as their `prepare` says; once per process."""
    for group in ("policy", "reward"):
        if "prepare" in cell[group]:
            _prepare(json.dumps(cell[group]["prepare"]))


@functools.cache
def _prepare(settings_json: str) -> None:
    settings = json.loads(settings_json)
    get_method(settings.pop("_target_"))(**settings)


def build_method(cell: Cell) -> Any:
    """Return the cell's method, an object with `solve` (`types.Method`); its constructor checks the settings.

    Raises:
        ValueError: a setting that the method does not have or refuses, or a kind of reward that it cannot use.
    """
    settings = {key: value for key, value in cell["method"].items() if key not in ("name", "budget", "_target_")}
    try:
        method = get_class(cell["method"]["_target_"])(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"method {cell['method']['name']}: {error}") from error
    if isinstance(method, LIKELIHOOD_METHODS):
        check_likelihood(cell["method"]["name"], cell["reward"]["kind"], cell["reward"]["name"])
    return method


def load_models(cell: Cell) -> tuple[Policy, RewardModel]:
    """Return policy and reward model of a cell, and set torch's threads; the last of each stays loaded.

    Raises:
        ValueError: a folder that cannot be read, or vocabularies that differ.
    """
    transformers.logging.disable_progress_bar()  # a bar for each weight file would hide the sweep's own lines
    if cell["threads"] is not None:
        torch.set_num_threads(cell["threads"])
    policy = _policy(locate(cell["policy"]["path"]), cell["device"], cell["dtype"])
    settings = cell["reward"]
    reference = locate(settings["reference"]) if settings["reference"] else None
    reward = _reward(locate(settings["path"]), settings["kind"], cell["device"], cell["dtype"], reference)
    reward.check_vocabulary(policy)
    return policy, reward


@functools.lru_cache(maxsize=1)
def _policy(path: str, device: str, dtype: str) -> Policy:
    return Policy.from_pretrained(path, device=device, dtype=dtype)


@functools.lru_cache(maxsize=1)
def _reward(path: str, kind: str, device: str, dtype: str, reference: str | None) -> RewardModel:
    return RewardModel.from_pretrained(path, kind=kind, device=device, dtype=dtype, reference=reference)
