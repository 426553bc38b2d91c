"""Policy, reward model, method and problems of a cell."""

import functools
import inspect
import json
from typing import Any, NamedTuple

import torch
import transformers
from hydra.utils import get_class, get_method
from omegaconf import OmegaConf
from transformers import PreTrainedTokenizerBase

from ..models.language_models import REWARD_MODEL_CLASSES, BatchLimits, Policy, RewardModel
from ..models.loading import outline
from ..tasks import problems
from ..types import Method, Problem
from .cell import Cell
from .data_folder import locate
from .fingerprint import data_digest, folder_digest
from .method_rules import check_method
from .schema import CONFIGS, choices

READ = ("base", "adapter")  # keywords of a preparation that name folders it reads
KINDS: dict[type, tuple[tuple[type, ...], str]] = {  # of a default: types that a value may have
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "text"),
}


class BuiltCell(NamedTuple):
    """A cell with its method and its problems."""

    cell: Cell
    method: Method
    problems: list[Problem]


def build_cell(cell: Cell) -> BuiltCell:
    """Unpack the cell's models if needed, and build its method and problems; raises as the functions below."""
    prepare_models(cell)
    return BuiltCell(cell, build_method(cell), build_problems(cell))


def build_problems(cell: Cell) -> list[Problem]:
    """Return the cell's problems; cells of the same task share the list.

    Raises:
        ValueError: a missing or malformed file, a benchmark that cannot be fetched, or too many problems.
    """
    content = data_digest(cell.task.path) if cell.task.path is not None else None  # an edited file is read again
    task = cell.task.model_dump_json(exclude_unset=True)
    return _problems(task, cell.num_problems, cell.split, cell.scale_name, content)


@functools.lru_cache(maxsize=16)
def _problems(task_json: str, size: int | None, split: str, scale: str, content: str | None) -> list[Problem]:
    task = json.loads(task_json)
    if "dataset" in task:
        if size is None:
            raise ValueError(f"task {task['name']} is generated without end; give num_problems.")
        generated = _generated(task, size, split, scale)
        return [problem._replace(question=problem.question + task.get("suffix", "")) for problem in generated]
    if task["path"] is not None:
        return problems.load_jsonl(task["path"], task=task["name"], size=size, suffix=task["suffix"])
    source = task["hub"] if split == "test" else {**task["hub"], "split": task["training_split"]}
    try:
        return problems.load_hub(task=task["name"], size=size, suffix=task["suffix"], **source)
    except Exception as error:  # no `datasets`, no network, a renamed data set: each raises types of its own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"task {task['name']} cannot be fetched from the hub ({type(error).__name__}: {first}). "
            "Give a file: task.path=FILE.jsonl with fields id, problem, answer."
        ) from error


def _generated(task: dict[str, Any], size: int, split: str, scale: str) -> list[Problem]:
    """Return problems of a reasoning-gym task; the recipe of the scale's models says what is held out for validation.

    Raises:
        ValueError: settings that are no group, validation at a scale whose models are not trained here, or more
            problems than were held out.
    """
    if not isinstance(task["settings"], dict):
        raise ValueError(
            f"settings of task {task['name']} must be a group of reasoning-gym's settings; got {task['settings']!r}. "
            f"Leave difficulty.{task['name']} and task.settings out."
        )
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
        if preparation := getattr(cell, group).prepare:
            _prepare(preparation.target, json.dumps(preparation.keywords()))


@functools.cache
def _prepare(target: str, keywords_json: str) -> None:
    keywords = json.loads(keywords_json)
    if "base" in keywords:
        _prepare_policy_at(keywords["base"])
    get_method(target)(**{key: locate(value) if key in READ else value for key, value in keywords.items()})


def _prepare_policy_at(path: str) -> None:
    """Unpack the policy whose folder this is, if it comes in another form: an adapter's base may be needed first."""
    for name in choices("policy"):
        policy = OmegaConf.to_container(OmegaConf.load(CONFIGS / "policy" / f"{name}.yaml"))
        if policy.get("path") == path and "prepare" in policy:
            _prepare(policy["prepare"].pop("_target_"), json.dumps(policy["prepare"]))


def build_method(cell: Cell) -> Method:
    """Return the cell's method; its constructor checks the settings.

    Raises:
        ValueError: a setting that the method does not have or refuses, a kind of reward that it cannot use, or rollouts
            by a server for a method that cannot take them.
    """
    keywords = cell.method.keywords()
    try:
        target = get_class(cell.method.target)
        _check_types(inspect.signature(target), keywords)
        method = target(**keywords)
    except (ImportError, TypeError, ValueError) as error:
        raise ValueError(f"method {cell.method.name}: {' '.join(str(error).split())}") from error
    check_method(cell)
    return method


def _check_types(signature: inspect.Signature, keywords: dict[str, Any]) -> None:
    """Raise ValueError on a value of another type than the keyword's default."""
    for name, value in keywords.items():
        default = signature.parameters[name].default if name in signature.parameters else None
        for kind, (types, description) in KINDS.items():
            if type(default) is kind and type(value) not in types:
                raise ValueError(f"{name} must be {description}; got {value!r}. Write method.{name}={default}.")


def load_models(cell: Cell, *, served: bool = False) -> tuple[Policy, RewardModel]:
    """Return policy and reward model of a cell, and set torch's threads; the last of each stays loaded.

    Args:
        served: whether the caller lets servers sample and score where the cell asks for it; otherwise it is refused.

    Raises:
        ValueError: a folder that cannot be read, vocabularies that differ, or rollouts that the caller cannot have.
    """
    if cell.rollouts != "hf" and not served:
        raise ValueError(f"rollouts must be hf for this target; got {cell.rollouts}. Leave rollouts=... out.")
    if cell.reward_server is not None and not served:
        raise ValueError(f"reward_server must be left out for this target; got {cell.reward_server}.")
    transformers.logging.disable_progress_bar()  # a bar for each weight file would hide the sweep's own lines
    if cell.threads is not None:
        torch.set_num_threads(cell.threads)
    limits = (cell.tokens_per_pass, cell.decode_rows)
    policy = _policy(cell.policy.source, folder_digest(cell.policy.source), cell.device, cell.dtype, limits)
    reference = locate(cell.reward.reference) if cell.reward.reference else None
    contents = (folder_digest(cell.reward.source), reference and folder_digest(reference))
    reward = _reward(cell.reward.source, contents, cell.reward.kind, cell.reward_place, cell.dtype, reference, limits)
    return policy, reward.for_policy(policy)


def outline_models(cell: Cell) -> tuple[Policy, RewardModel]:
    """Return policy and reward model without weights: tokenizers, templates, vocabularies and contexts can be checked.

    Raises:
        ValueError: a folder that cannot be read, or vocabularies that differ.
    """

    def outlined(kind: str, path: str) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
        return outline(REWARD_MODEL_CLASSES[kind], locate(path), cell.device, cell.dtype)

    policy = Policy(*outlined("likelihood", cell.policy.source), cell.policy.path)
    reference = cell.reward.reference
    reward = RewardModel(
        *outlined(cell.reward.kind, cell.reward.source),
        cell.reward.path,
        cell.reward.kind,
        Policy(*outlined("likelihood", reference), reference) if reference else None,
    )
    return policy, reward.for_policy(policy)


@functools.lru_cache(maxsize=1)
def _policy(path: str, content: str | None, device: str, dtype: str, limits: tuple[int, int]) -> Policy:
    """Load a policy; `content` is the digest of its folder, so that an edited one is loaded again."""
    policy = Policy.from_pretrained(path, device=device, dtype=dtype)
    policy.batch_limits = BatchLimits(*limits)
    return policy


@functools.lru_cache(maxsize=1)
def _reward(
    path: str,
    contents: tuple[str | None, str | None],
    kind: str,
    device: str,
    dtype: str,
    reference: str | None,
    limits: tuple[int, int],
) -> RewardModel:
    """Load a reward model; `contents` are the digests of its folder and of its reference's."""
    reward = RewardModel.from_pretrained(path, kind=kind, device=device, dtype=dtype, reference=reference)
    for model in (reward, reward.strong, reward.reference):
        if model is not None:
            model.batch_limits = BatchLimits(*limits)
    return reward
