"""From a command line to cells: composes every choice of a sweep, checks its values, and builds the parts of a cell.

A cell is one (policy, task, method, seed): a plain nested dict of resolved settings. Composing needs no torch, so that
a wrong choice is answered at once.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
# Keys that change no record; `_target_` is where a method's class lies, not what it does.
NOT_SETTINGS = {
    "_target_", "paper", "size", "prepare", "parameters", "download_gb", "skywork", "budget", "manifest"
}  # fmt: skip
MISSING = object()
METHODS = (  # the order of a table's rows
    "greedy",
    "self_consistency",
    "best_of_n",
    "tree_of_thoughts",
    "rap",
    "tpo",
    "sft",
    "grpo",
    "nabla_without_gradient",
    "nabla_reasoner",
    "nabla_reasoner_multipass",
)
SPLITS = ("test", "validation")
WANDB_MODES = ("offline", "online", "disabled")

Cell = dict[str, Any]


def choices(group: str) -> list[str]:
    """Names that `group=NAME` may take."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def paper_name(group: str, name: str) -> str | None:
    """What the paper's cell beside ours is called, as policy/*.yaml and task/*.yaml say; None for other names."""
    file = CONFIGS / group / f"{name}.yaml"
    return OmegaConf.load(file).get("paper") if file.exists() else None


def compose_cells(overrides: Sequence[str]) -> list[Cell]:
    """The cells that these overrides ask for, in the order in which Hydra runs them.

    Raises:
        ValueError: an override that cannot be read, an unknown choice or setting (the valid ones are listed), or a
            value out of range.
    """
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        parser, current = OverridesParser.create(), list(overrides)
        for override in overrides:
            if "=" not in override or not override[0].isalpha():
                raise ValueError(f"settings are written key=value; got {override!r}. See ./reproduce.sh help.")
        try:
            plain = [item.input_line for item in parser.parse_overrides(current) if not item.is_sweep_override()]
            current = plain
            config = compose("config", plain, return_hydra_config=True)
            _check_values(plain_cell(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])))
            sweeps = config.hydra.mode == RunMode.MULTIRUN
            params = [f"{key}={value}" for key, value in config.hydra.sweeper.params.items()] if sweeps else []
            jobs = BasicSweeper.split_arguments(parser.parse_overrides([*params, *overrides]), None)[0]
            cells, composed = [], {}
            for current in jobs:
                shared = tuple(item for item in current if not item.startswith("seed="))
                if shared not in composed:
                    composed[shared] = plain_cell(compose("config", current))
                seed = [item.removeprefix("seed=") for item in current if item.startswith("seed=")]
                cells.append({**composed[shared], "seed": _integer(seed[0]) if seed else composed[shared]["seed"]})
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(_explain(error, current)) from error
    for cell in cells:
        _check_values(cell)
    return cells


def phases(target: str, overrides: Sequence[str]) -> list[tuple[list[str], list[Cell]]]:
    """The sweeps of an experiment, each as its overrides and its cells.

    Table 1 of a scale may have further sweeps over policies improved by training, for commands that choose neither
    policy nor method. The last sweep runs the larger pools that comparisons at matched cost are cut from; it comes
    last, so that the table's rows are there early, and only where the grid holds ∇-Reasoner and a method to compare it
    with.
    """
    main_phase = [f"experiment={target}", *overrides]
    cells = compose_cells(main_phase)
    if target == "ablations":
        return ablated(main_phase, cells)
    pooled = list(dict.fromkeys(cell["method"]["name"] for cell in cells if cell["method"]["budget"]))
    compared = any(cell["method"]["name"] in ("nabla_reasoner", "nabla_reasoner_multipass") for cell in cells)
    result = [(main_phase, cells)]
    if target == "table1" and not any(override.startswith(("policy=", "method=", "budget=")) for override in overrides):
        for part in cells[0]["grid"]["trained"]:
            trained = [*main_phase, f"policy={part['policy']}", f"method={part['method']}"]
            result.append((trained, compose_cells(trained)))
    if target != "table1" or cells[0]["budget"] or not (pooled and compared):
        return result
    kept = [override for override in main_phase if not override.startswith(("method=", "budget=", "seed="))]
    seeds = list(dict.fromkeys(str(cell["seed"]) for cell in cells))[: cells[0]["pool_seeds"]]
    budget_phase = [*kept, "seed=" + ",".join(seeds), "method=" + ",".join(pooled), "budget=true"]
    return [*result, (budget_phase, compose_cells(budget_phase))]


def ablated(main_phase: list[str], cells: list[Cell]) -> list[tuple[list[str], list[Cell]]]:
    """A sweep for the default, which all are compared with, and for every setting that `only` names (or its group).

    Raises:
        ValueError: an `only` that is no list of groups and settings.
    """
    first, result = cells[0], [(main_phase, cells)]
    groups = first["settings"]
    wanted = list(groups) if first["only"] is None else first["only"]
    known = [*groups, *(name for group in groups.values() for name in group)]
    if not isinstance(wanted, list) or not wanted or not set(wanted) <= set(known):
        unknown = [name for name in wanted if name not in known] if isinstance(wanted, list) else wanted
        raise ValueError(f"only must be a list of {', '.join(known)}; got {unknown}. Write only=[flip,lambda].")
    for group, settings in groups.items():
        for name, changes in settings.items():
            if group in wanted or name in wanted:
                changes = dict(changes)
                if "num_problems" in changes and first["num_problems"] is not None:
                    changes["num_problems"] = min(changes["num_problems"], first["num_problems"])
                overrides = [*main_phase, f"setting={name}", *(f"{key}={value}" for key, value in changes.items())]
                result.append((overrides, compose_cells(overrides)))
    return result


def plain_cell(config: DictConfig) -> Cell:
    """Resolved settings as a plain dict; with `budget=true` the method takes the larger pool it names."""
    cell = OmegaConf.to_container(config, resolve=True)
    if cell["budget"] and cell["method"]["budget"]:
        cell["method"] |= cell["method"]["budget"]
    return cell


def _integer(text: str) -> Any:
    return int(text) if text.isdecimal() else text


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """One line: what is wrong and which values are valid."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Available options in") for line in lines):
        start = next(index for index, line in enumerate(lines) if line.startswith("Available options in"))
        end = next((index for index, line in enumerate(lines) if line.startswith("Config search path")), len(lines))
        missing, valid = lines[start - 1].split(": ")[-1], ", ".join(lines[start + 1 : end])
        trained = "method/sft" in missing or "method/grpo" in missing
        hint = " SFT and GRPO are policies of their own, e.g. policy=tiny-base-sft method=greedy." if trained else ""
        return f"{missing}; {lines[start].replace('Available', 'available')} {valid}.{hint}"
    if isinstance(error, OverrideParseException):
        return f"the setting {error.override!r} cannot be read. Write key=value."
    if isinstance(error, InterpolationKeyError):
        return f"these choices do not go together: {lines[0]}. Choose a task that belongs to the scale."
    groups = {path.name for path in CONFIGS.iterdir() if path.is_dir()} - {"train"}
    chosen = [override for override in overrides if override.split("=")[0] in groups]
    try:
        config = compose("config", chosen)
    except (HydraException, OmegaConfBaseException):
        return " ".join(lines)
    for key in (override.split("=")[0] for override in overrides if override not in chosen):
        if not key.startswith("hydra") and OmegaConf.select(config, key, default=MISSING) is MISSING:
            return _unknown(config, key, groups)
    return f"{' '.join(lines)} in the settings {' '.join(overrides)}. Write key=value."


def _unknown(config: DictConfig, key: str, groups: set[str]) -> str:
    """The message for a setting that does not exist: those that do, at the deepest level that does."""
    parent = key.rpartition(".")[0]
    while parent and not isinstance(OmegaConf.select(config, parent), DictConfig):
        parent = parent.rpartition(".")[0]
    known = sorted(OmegaConf.select(config, parent)) if parent else sorted(set(config) | groups)
    where = f" of {parent}" if parent else ""
    hint = f" They belong to {config.method.name}: choose another with method=NAME." if parent == "method" else ""
    return f"unknown setting {key!r}; settings{where}: {', '.join(known)}.{hint}"


def _check_values(cell: Cell) -> None:
    """Raise ValueError on a setting of the wrong type or out of range (methods and models check their own)."""
    keys = ("seed", "num_problems", "batch_size", "max_new_tokens", "threads", "devices", "num_nodes", "pool_seeds")
    whole = {key: cell[key] for key in keys}
    whole["task.repeats"] = cell["task"]["repeats"]
    for key, value in whole.items():
        least = 0 if key == "seed" else 1
        if (value is None and key in ("num_problems", "threads")) or (type(value) is int and value >= least):
            continue
        raise ValueError(f"{key} must be a whole number >= {least}; got {value!r}.")
    for key in ("overwrite", "budget"):
        if type(cell[key]) is not bool:
            raise ValueError(f"{key} must be true or false; got {cell[key]!r}.")
    for key, valid in (("wandb", WANDB_MODES), ("split", SPLITS)):
        if cell[key] not in valid:
            raise ValueError(f"{key} must be one of {', '.join(valid)}; got {cell[key]!r}.")
    if cell["split"] != "test" and "dataset" not in cell["task"]:
        raise ValueError(
            f"split={cell['split']} is for generated tasks only; got task {cell['task']['name']}. Use split=test."
        )


def locate(path: str) -> str:
    """A model's folder, looked for from here and from the repository root; otherwise the name as it stands (hub)."""
    return str(ROOT / path) if not Path(path).exists() and (ROOT / path).exists() else path


def build_problems(cell: Cell) -> list:
    """The cell's problems; the same list object for cells of the same task."""
    return _problems(json.dumps(cell["task"], sort_keys=True), cell["num_problems"], cell["split"], cell["scale_name"])


@functools.lru_cache(maxsize=16)
def _problems(task_json: str, size: int | None, split: str, scale: str) -> list:
    from . import problems

    task = json.loads(task_json)
    if "dataset" in task:
        if size is None:
            raise ValueError(f"task {task['name']} is generated without end; give num_problems.")
        drawn = _generated(task, size, split, scale)
        return [problem._replace(question=problem.question + task.get("suffix", "")) for problem in drawn]
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


def _generated(task: dict[str, Any], size: int, split: str, scale: str) -> list:
    """Problems of a reasoning-gym task; what is held out for validation, the recipe of the scale's models says.

    Raises:
        ValueError: validation at a scale whose models are not trained here, or more problems than were held out.
    """
    from . import problems

    if split == "test":
        return problems.generate(task["dataset"], split=split, size=size, settings=task["settings"])
    recipe = CONFIGS / "train" / f"{scale}.yaml"
    if not recipe.exists():
        raise ValueError(f"split=validation needs a scale whose models are trained here; got {scale}. Use split=test.")
    held_out = OmegaConf.to_container(OmegaConf.load(recipe).held_out)
    return problems.validation(task["dataset"], size=size, settings=task["settings"], held_out=held_out)


def prepare_models(cell: Cell) -> None:
    """Make the folders of models that come packed in another form, as their `prepare` says; once per process."""
    for group in ("policy", "reward"):
        if "prepare" in cell[group]:
            _prepare(json.dumps(cell[group]["prepare"]))


@functools.cache
def _prepare(settings_json: str) -> None:
    from hydra.utils import get_method

    settings = json.loads(settings_json)
    get_method(settings.pop("_target_"))(**settings)


def build_method(cell: Cell) -> Any:
    """The cell's method object; its constructor checks its settings."""
    from hydra.utils import get_class

    settings = {key: value for key, value in cell["method"].items() if key not in ("name", "budget", "_target_")}
    try:
        return get_class(cell["method"]["_target_"])(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"method {cell['method']['name']}: {error}") from error


def load_models(cell: Cell) -> tuple[Any, Any]:
    """Policy and reward of a cell; the last of each stays loaded, so that a run of cells shares them."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()  # one line per weight file is noise in a grid
    if cell["threads"] is not None:
        torch.set_num_threads(cell["threads"])
    policy = _policy(locate(cell["policy"]["path"]), cell["device"], cell["dtype"])
    settings = cell["reward"]
    reference = locate(settings["reference"]) if settings["reference"] else None
    reward = _reward(locate(settings["path"]), settings["kind"], cell["device"], cell["dtype"], reference)
    reward.check_vocabulary(policy)
    return policy, reward


@functools.lru_cache(maxsize=1)
def _policy(path: str, device: str, dtype: str) -> Any:
    from .models import Policy

    return Policy.from_pretrained(path, device=device, dtype=dtype)


@functools.lru_cache(maxsize=1)
def _reward(path: str, kind: str, device: str, dtype: str, reference: str | None) -> Any:
    from .models import RewardModel

    return RewardModel.from_pretrained(path, kind=kind, device=device, dtype=dtype, reference=reference)


def fingerprint(cell: Cell) -> dict[str, Any]:
    """Everything that decides a cell's records: settings, and digests of the files they name."""
    groups = ("policy", "reward", "task", "method")
    parts = {group: {k: v for k, v in cell[group].items() if k not in NOT_SETTINGS} for group in groups}
    parts["task"].pop("step_marks", None)  # a setting of the methods that take it
    for group in ("policy", "reward"):
        parts[group]["weights"] = folder_digest(locate(parts[group]["path"]))
    if parts["task"].get("path"):
        parts["task"]["sha256"] = hashlib.sha256(Path(parts["task"].pop("path")).read_bytes()).hexdigest()
    if cell["split"] != "test":  # said only then: records made before there was a choice are of the test split
        parts["split"] = cell["split"]
    kept = ("seed", "num_problems", "batch_size", "threads", "device", "dtype", "devices", "num_nodes")
    return {**parts, **{key: cell[key] for key in kept}}


@functools.lru_cache(maxsize=64)
def folder_digest(path: str) -> str | None:
    """A digest of a model folder: names, sizes, and the first and last MiB of its files; None for a hub name."""
    if not Path(path).is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(Path(path).iterdir()):
        if file.suffix in (".json", ".safetensors", ".gguf"):
            digest.update(f"{file.name} {file.stat().st_size} ".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(2**20))
                stream.seek(max(0, file.stat().st_size - 2**20))
                digest.update(stream.read())
    return digest.hexdigest()[:16]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Settings that differ, e.g. "method.step_size: 0.1 -> 0.2"; `_target_`, which older records name, does not count."""
    before, after = dict(_flatten(old)), dict(_flatten(new))
    keys = sorted(before.keys() | after.keys())
    return [f"{k}: {before.get(k)} -> {after.get(k)}" for k in keys if before.get(k) != after.get(k)]


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if key == "_target_":
            continue
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
