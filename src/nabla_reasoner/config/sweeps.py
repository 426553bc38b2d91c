"""Sweeps of an experiment: its main grid, and the further sweeps that its YAML file asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

from .cell import Cell
from .compose import Grid, check_scale, compose_cells, swept
from .fingerprint import differences
from .overrides import TRAINED_METHODS, parse
from .schema import NABLA_METHODS, choices
from .targets import Target, find

# Settings that sweeps and commands give each cell, and what to write in their place.
COMMANDS_OWN = {
    "scale_name": "Choose the scale by scale=NAME.",
    "budget": "Larger pools are made with the table; pool_seeds=COUNT says for how many seeds.",
    "setting": "Name settings by only=[NAME].",
    "records": "Records lie in results_dir=DIR.",
    "folder": "Results lie in results_dir=DIR.",
    "experiment_name": "Results lie in results_dir=DIR.",
    "experiment": "Type the target's own name in place of this one.",
}
NAMED = ("policy", "reward", "method")  # groups by whose names rows are shown and compared with the paper's


@dataclass(frozen=True)
class Sweep:
    """One sweep.

    Attributes:
        overrides: command-line overrides that ask for it, as a launcher of Hydra takes them.
        cells: its cells, in the order in which they run.
    """

    overrides: list[str]
    cells: list[Cell]


def compose_sweeps(target: str, overrides: Sequence[str]) -> list[Sweep]:
    """Return the sweeps of an experiment.

    `further` in the experiment's YAML names what follows the main grid: `extra`, the sweeps that its entry `extra`
    lists; `pools`, the larger pools that comparisons at matched cost are cut from; `settings`, one for each change.

    Raises:
        ValueError: a wrong setting (see `compose_cells`).
    """
    check_typed(overrides)
    check_scale(find(target), parse(overrides))
    _check_fixed(find(target), overrides)
    if find(target).has_records:
        _check_one_choice(target, overrides)
    grid = Grid()
    main = _sweep([f"experiment={target}", *overrides], grid)
    further = main.cells[0].further
    sweeps = [main]
    if "settings" in further:
        sweeps += _changes(main, grid)
    if "extra" in further and not _chosen(overrides, "budget"):
        sweeps += _extra(main, overrides, grid)
    if "pools" in further:
        sweeps += _pools(main, grid)
    _check_distinct([cell for part in sweeps for cell in part.cells])
    return sweeps


def compose_cell(target: Target, overrides: Sequence[str]) -> Cell:
    """Return the one cell of a target that takes no sweep; raises as `compose_sweeps`."""
    check_typed(overrides)
    check_scale(target, parse(overrides))
    cells = compose_cells([f"experiment={target.name}", *overrides])
    if len(cells) > 1:
        raise ValueError(f"{target.name} takes one value per setting; got {len(cells)} combinations. Choose one.")
    return cells[0]


def check_typed(overrides: Sequence[str]) -> None:
    """Raise ValueError on a setting that commands set themselves, or a name that belongs to another choice.

    A class under the name of another method counts as such a name.
    """
    keys = {override.partition("=")[0] for override in overrides}
    if "method._target_" in keys and "method.name" not in keys:
        raise ValueError(
            "method._target_ must come with a method.name of its own, because rows and figures go by it; got "
            f"{' '.join(overrides)}. Add method.name=NAME."
        )
    for override in overrides:
        key, _, value = override.partition("=")
        if key.partition(".")[0] == "target":
            raise ValueError(f"{key} belongs to the file configs/experiment/NAME.yaml; got {override!r}. Leave it out.")
        if key in COMMANDS_OWN:
            raise ValueError(f"{key} is set by the command itself; got {override!r}. {COMMANDS_OWN[key]}")
        group = key.removesuffix(".name")
        name = value.strip("'\"")
        if key == "method.name" and name in TRAINED_METHODS:
            raise ValueError(f"{key} must be a name of its own; {name} is the row of a policy improved by training.")
        if key != group and group in (*NAMED, "task") and name in choices(group):
            raise ValueError(
                f"{key} must be a name of its own, because rows and figures go by it; {value} is that of "
                f"configs/{group}/{value}.yaml. Write {group}={value} for that one, or another name."
            )


def _check_fixed(target: Target, overrides: Sequence[str]) -> None:
    """Raise ValueError on a setting that the target's tables count on."""
    for override in overrides:
        key = override.partition("=")[0]
        if key in target.fixed:
            raise ValueError(
                f"{key} cannot be changed for {target.name}: {target.fixed[key]}; got {override!r}. Leave it out."
            )


def _check_one_choice(target: str, overrides: Sequence[str]) -> None:
    """Raise ValueError if a path or a name is given to several policies, rewards or methods, by which records go.

    Several names of one of them would be rows of one model under several names.
    """
    for override in parse(overrides):
        group = override.key_or_group.removesuffix(".name")
        if override.is_sweep_override() and group in NAMED and override.key_or_group != group:
            raise ValueError(
                f"{override.key_or_group} must be one name, as one {group} would have several rows; got "
                f"{override.input_line}. Write one, or quote a name that holds a comma."
            )
    given = {
        group: override for group in NAMED for override in overrides if override.startswith(_override_prefixes(group))
    }
    for item in swept([f"experiment={target}", *overrides]) if given else []:
        group, _, names = item.partition("=")
        if group in given and "," in names:
            raise ValueError(
                f"{given[group].partition('=')[0]} is of one {group}; this command has {names}. Add {group}=NAME, the "
                f"one whose other settings are to hold, to {given[group]}."
            )


def _override_prefixes(group: str) -> tuple[str, str]:
    """Return the prefixes of overrides that replace the name or path of a group's choice."""
    return f"{group}.name=", f"{group}.path="


def _check_distinct(cells: Sequence[Cell]) -> None:
    """Raise ValueError if two cells would share a record file, whose name holds few of their settings."""
    folders = sorted({cell.results_dir for cell in cells})
    if len(folders) > 1:
        raise ValueError(
            f"results_dir must be one folder; got {', '.join(folders)}. Run the command once for each, or quote a name "
            "that holds a comma."
        )
    folders = sorted({cell.folder for cell in cells})
    if len(folders) > 1:
        raise ValueError(
            f"the cells of one command must lie in one folder; got {', '.join(folders)}. "
            "Run the command once for each scale."
        )
    first: dict[tuple[str | int | bool, ...], Cell] = {}
    for cell in cells:
        names = (cell.policy.name, cell.task.name, cell.method.name)
        other = first.setdefault((cell.records, cell.budget, *names, cell.seed), cell)
        changed = differences(other.content(), cell.content()) if other is not cell else []
        if other.method.target != cell.method.target:
            changed.append(f"method._target_: {other.method.target} -> {cell.method.target}")
        if changed:
            raise ValueError(
                f"two cells of one command must differ in policy, task, method or seed, which name their record files; "
                f"two of {' '.join(names)} differ in {'; '.join(changed)}. Give one value, run them with a results_dir "
                "each, or quote a value that holds a comma."
            )


def _sweep(overrides: list[str], grid: Grid) -> Sweep:
    return Sweep(overrides, compose_cells(overrides, grid))


def _chosen(overrides: Sequence[str], *keys: str) -> bool:
    return any(override.split("=")[0] in keys for override in overrides)


def _extra(main: Sweep, overrides: Sequence[str], grid: Grid) -> list[Sweep]:
    """Return the sweeps of `extra`: the main one with other choices.

    One whose policy, method or reward the command line chooses is left out; a seed chosen there replaces its own.
    """
    sweeps = []
    for part in main.cells[0].extra:
        if not _chosen(overrides, *(key for key in part if key != "seed")):
            replaced = {key: value for key, value in part.items() if not _chosen(overrides, key)}
            kept = [override for override in main.overrides if not _chosen([override], *replaced)]
            sweeps.append(_sweep([*kept, *(f"{key}={value}" for key, value in replaced.items())], grid))
    return sweeps


def _pools(main: Sweep, grid: Grid) -> list[Sweep]:
    """Return the sweep of larger pools, if the grid holds ∇-Reasoner and a method to compare it with.

    It comes last, so that the table's rows are there early.
    """
    cells = main.cells
    pooled = list(dict.fromkeys(cell.method.name for cell in cells if cell.method.budget))
    compared = any(cell.method.name in NABLA_METHODS for cell in cells)
    if cells[0].budget or not (pooled and compared and cells[0].pool_seeds):
        return []
    kept = [override for override in main.overrides if not _chosen([override], "method", "budget", "seed")]
    seeds = list(dict.fromkeys(str(cell.seed) for cell in cells))[: cells[0].pool_seeds]
    return [_sweep([*kept, "seed=" + ",".join(seeds), "method=" + ",".join(pooled), "budget=true"], grid)]


def _changes(main: Sweep, grid: Grid) -> list[Sweep]:
    """Return a sweep for every setting that `only` names (or its group), of a sweep of `AblationCell`s."""
    first = main.cells[0]
    sweeps = []
    for group, settings in first.settings.items():
        for name, changes in settings.items():
            if group in first.selected or name in first.selected:
                if "num_problems" in changes and first.num_problems is not None:
                    changes = {**changes, "num_problems": min(changes["num_problems"], first.num_problems)}
                changed = [f"{key}={value}" for key, value in changes.items()]
                sweeps.append(_sweep([*main.overrides, f"setting={name}", *changed], grid))
    return sweeps
