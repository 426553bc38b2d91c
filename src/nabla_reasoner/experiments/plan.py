"""Plan of a target: what it would run, download and cost, and whether it fits, printed before any model is loaded."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from ..config.cell import Cell
from ..config.compose import compose_recipe, compose_settings
from ..config.data_folder import locate
from ..config.schema import GROUPS
from ..config.sweeps import compose_cell, compose_sweeps
from ..config.targets import Target, find, targets
from ..planning import machines, text, training
from ..planning.cells import check_memory, plan_cells
from ..planning.training_recipes import scale_estimate, trainings
from ..planning.work import check_budget
from ..types import ChecksPrompts, Problem
from .command import DONE, HOW, Command, refusing
from .models import RECIPES

OPTION = "gpu="
MANY = 1000  # problems of a generated task
# Settings that no method, task or model can refuse.
SAFE = {*GROUPS, *HOW, "seed", "num_problems", "batch_size", "device", "devices", "dtype", "threads"} - {"method"}


def run(command: Command, settings: None) -> int:
    """Print the plan of a target; return the exit status. A plan that does not fit the machine is refused."""
    with refusing():
        target = find(command.argument, others=())
        overrides = [word for word in command.overrides if not word.startswith((OPTION, "keep="))]
        chosen = [word.removeprefix(OPTION) for word in command.overrides if word.startswith(OPTION)]
        if target.settings == "cells":
            cells = [cell for part in compose_sweeps(target.name, overrides) for cell in part.cells]
            _check_parts(cells, overrides)
            _show_cells(target, cells, chosen)
        elif target.settings == "cell":  # one question, by greedy decoding and by the method
            others = [word for word in overrides if not word.startswith(("method=", "method."))]
            cells = [
                compose_cell(target, ["num_problems=1", *others, "method=greedy"]),
                compose_cell(target, ["num_problems=1", *overrides]),
            ]
            _check_parts(cells, overrides)
            _show_cells(target, cells, chosen)
        elif target.settings == "train":
            _show_trainings(target, overrides, chosen)
        else:
            _show_results(target, overrides)
    return DONE


def _check_parts(cells: Sequence[Cell], overrides: Sequence[str]) -> None:
    """Raise ValueError on a setting that a run's methods, generated tasks or models would refuse.

    Models are looked at where they lie in a folder, without their weights.
    """
    if all(word.partition("=")[0] in SAFE for word in overrides) and not any(map(_has_many_problems, cells)):
        return
    from ..config import build  # imported late, with torch: plans of mere choices are there at once
    from ..evaluation.records import check_names
    from ..evaluation.rollout_engine import check_cells

    check_cells(cells)
    for cell in cells:
        check_names(cell.policy.name, cell.task.name, cell.method.name)
    for cell in {(cell.policy.path, cell.method.model_dump_json()): cell for cell in cells}.values():
        check_budget(cell.method)  # says the same of a count, with the override to write
        method = build.build_method(cell)
        if isinstance(method, ChecksPrompts) and _is_here(cell):
            policy, _ = build.outline_models(cell.changed(device="cpu"))
            method.check_prompts([Problem("any", "", None, "free")], policy)
    for cell in {cell.task.model_dump_json(): cell for cell in cells if cell.task.dataset is not None}.values():
        is_whole = cell.split == "validation" or _has_many_problems(cell)
        build.build_problems(cell if is_whole else cell.changed(num_problems=1))
    models = {(cell.policy.path, cell.reward.path, cell.reward.kind, cell.response_limit): cell for cell in cells}
    for cell in models.values():
        if _is_here(cell):
            for model in build.outline_models(cell.changed(device="cpu")):
                model.check_length(1, cell.response_limit)


def _has_many_problems(cell: Cell) -> bool:
    """Return whether a generated task may have fewer questions than are asked for; then they are made and counted."""
    return cell.task.dataset is not None and (cell.num_problems or 0) > MANY


def _is_here(cell: Cell) -> bool:
    """Return whether both models of a cell lie in folders."""
    return all(Path(locate(path)).is_dir() for path in (cell.policy.path, cell.reward.path))


def _show_trainings(target: Target, overrides: Sequence[str], chosen: Sequence[str]) -> None:
    """Print the plan of the trainings of a scale."""
    scale, recipe = compose_recipe(target, overrides)
    if any(word.startswith("only=") for word in overrides):
        importlib.import_module(f"{RECIPES}.{scale}").stages_of(recipe)  # raises ValueError on another name
    machine = machines.machine(chosen[-1] if chosen else scale_estimate(scale).machine)
    planned = trainings(scale, recipe)
    print(f"{target.name}, scale {scale}: {target.summary}")
    if not planned:
        print("nothing to plan: no model is trained, or those that are do not exist yet, so that their size is unknown")
        return
    print("\n".join(text.training_summary(planned, machine)))
    training.check_memory(planned, machine)
    print(f"fits. models would go to {recipe.folder}")


def _show_results(target: Target, overrides: Sequence[str]) -> None:
    """Print what a target without cells reads and writes, and which results are missing."""
    values = {} if target.settings in ("plan", "train") else compose_settings(target, overrides).model_dump()
    scale, root = values.get("scale", "tiny"), values.get("results_dir") or "results"
    print(f"{target.name}: {target.summary}")
    if target.reads:
        known = targets()
        missing = [name for name in target.reads if not Path(root, known[name].path(scale)).is_dir()]
        print(f"  reads:    {', '.join(target.reads)}")
        print(f"  missing:  {', '.join(missing) or 'nothing'} (in {root})")
    print(f"  writes:   {', '.join(target.writes) or 'nothing'}")
    machine = "a GPU" if values.get("device") == "cuda" else "two idle cores"
    print(f"  takes:    about {target.minutes:g} min at scale=tiny on {machine}")
    print(f"results would go to {target.place or Path(root, target.path(scale))}")


def _show_cells(target: Target, cells: Sequence[Cell], chosen: Sequence[str]) -> None:
    """Print the grid and its plan."""
    first = cells[0]
    machine = machines.machine(chosen[-1]) if chosen else machines.default_machine(first.estimate.machine, first.device)
    plans = plan_cells(cells, machine)
    names = {
        group: list(dict.fromkeys(getattr(c, group).name for c in cells)) for group in ("policy", "task", "method")
    }
    print(f"{target.name}, scale {first.scale_name}: {len(cells)} cells on {first.device} ({first.dtype})")
    for group, values in names.items():
        print(f"  {group + ':':<8}{', '.join(values)}")
    print(f"  seeds:  {', '.join(map(str, sorted({cell.seed for cell in cells})))}")
    print("\n".join(text.summary(plans, machine)))
    check_memory(plans, machine)
    print(f"fits. results would go to {first.folder}" if target.writes else "fits. Nothing is written.")
