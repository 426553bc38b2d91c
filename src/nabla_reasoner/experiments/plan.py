"""Plan of a target: what it would run, download and cost, printed before any model is loaded.

The estimate, per problem and repeat, with N and R the parameters of policy and reward, P prompt and L answer tokens:

    decoding k answers          2 N k (P + L)
    scoring k answers           2 R k (P + L)
    g gradient evaluations      4 (N + R) g (P + L)

P and L are typical lengths from the scale's file, L at most the length limit. k comes from `answers` in the method's
file; ∇-Reasoner's k and g are typical values too, since they depend on the problems.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from ..config.cell import Cell, MethodSettings, ModelSettings
from ..config.compose import compose_settings
from ..config.data_folder import locate
from ..config.sweeps import compose_sweeps
from ..config.targets import Target, find, targets
from .command import DONE, Command, refusing


def run(command: Command, settings: None) -> int:
    """Print the plan of a target; return the exit status."""
    with refusing():
        target = find(command.argument)
        if target.settings == "cells":
            _show_cells(
                target, [cell for part in compose_sweeps(target.name, command.overrides) for cell in part.cells]
            )
        else:
            _show_results(target, command.overrides)
    return DONE


def _show_results(target: Target, overrides: Sequence[str]) -> None:
    """Print what a target without cells reads and writes, and which results are missing."""
    values = {} if target.settings in ("cell", "plan", "train") else compose_settings(target, overrides)
    scale, root = values.get("scale", "tiny"), values.get("results_dir") or "results"
    print(f"{target.name}: {target.summary}")
    if target.reads:
        known = targets()
        missing = [name for name in target.reads if not Path(root, known[name].path(scale)).is_dir()]
        print(f"  reads:    {', '.join(target.reads)}")
        print(f"  missing:  {', '.join(missing) or 'nothing'} (in {root})")
    print(f"  writes:   {', '.join(target.writes) or 'nothing'}")
    print(f"  takes:    about {target.minutes:g} min at scale=tiny on two idle cores")
    print(f"results would go to {Path(root, target.path(scale))}")


def _show_cells(target: Target, cells: Sequence[Cell]) -> None:
    """Print the grid, the models with their sizes, and the estimate."""
    first = cells[0]
    names = {
        group: list(dict.fromkeys(getattr(c, group).name for c in cells)) for group in ("policy", "task", "method")
    }
    print(f"{target.name}, scale {first.scale_name}: {len(cells)} cells on {first.device} ({first.dtype})")
    for group, values in names.items():
        print(f"  {group + ':':<8}{', '.join(values)}")
    print(f"  seeds:  {', '.join(map(str, sorted({cell.seed for cell in cells})))}")
    for task in {cell.task.name: cell for cell in cells}.values():
        print(f"  {_problems(task)}")
    print("models:")
    models = [(group, getattr(cell, group)) for group in ("policy", "reward") for cell in cells]
    for (group, path), model in {(group, model.path): model for group, model in models}.items():
        print(f"  {group} {model.name}: {path}, {_size(model)}")
    _show_estimate(cells)
    print(f"results would go to {first.folder}")


def _problems(cell: Cell) -> str:
    task, size = cell.task, cell.num_problems
    count = f"{size} problems" if size else f"all {task.size} problems"
    return f"{task.name}: {count}, {task.repeats} repeat(s), answers of up to {cell.max_new_tokens} tokens"


def _local_bytes(path: str) -> int:
    return sum(file.stat().st_size for file in Path(locate(path)).glob("*.safetensors"))


def _size(model: ModelSettings) -> str:
    """Describe the size of a model, and whether it is on this machine."""
    if _local_bytes(model.path):
        return f"here, {_local_bytes(model.path) / 1e6:.1f} MB"
    if model.download_gb is not None:
        return f"to be fetched from the hub, {model.download_gb} GB (unless it is in the hub's cache)"
    return "not here yet"


def _parameters(model: ModelSettings) -> float | int:
    """Return the number of parameters: stated for hub models, else a quarter of the float32 bytes; 0 if unknown."""
    return model.parameters if model.parameters is not None else _local_bytes(model.path) / 4


def expected_answers(method: MethodSettings) -> int | None:
    """Return the number of complete responses decoded per problem; None for a method whose number varies."""
    if method.answers is None:
        return None
    settings = method.keywords()
    return sum(math.prod(settings.get(factor, factor) for factor in factors) for factors in method.answers)


def flops(cell: Cell) -> float | None:
    """Estimate the floating-point operations of a cell by the module's formula; None if a size is unknown."""
    policy, reward = _parameters(cell.policy), _parameters(cell.reward)
    problems = cell.num_problems or cell.task.size
    if not policy or not reward or not problems:
        return None
    typical, gradients = cell.estimate, 0.0
    tokens = typical["prompt_tokens"] + min(typical["response_tokens"], cell.max_new_tokens)
    answers = expected_answers(cell.method)
    if answers is None:
        settings = cell.method.keywords()
        answers = typical["rollouts"] * settings.get("num_passes", 1) ** 0.5
        gradients = typical["gradients"] if settings.get("use_gradient") else 0.0
    scored = reward if cell.method.scored else 0
    per_problem = 2 * (policy + scored) * answers * tokens + 4 * (policy + reward) * gradients * tokens
    return per_problem * problems * cell.task.repeats


def _show_estimate(cells: Sequence[Cell]) -> None:
    """Print the FLOPs of each method and their sum in hours."""
    estimates = [flops(cell) for cell in cells]
    if None in estimates:
        print("estimate: not possible, because a model is not here yet and its size is not known")
        return
    print("estimate (decoding 2Nk(P+L), scoring 2Rk(P+L), gradients 4(N+R)g(P+L); P, L, g and a search's k are")
    print("typical values from the scale's file; expect the truth within a factor of three):")
    spent: dict[str, float] = {}
    for value, cell in zip(estimates, cells, strict=True):
        name = cell.method.name + (" (larger pool, for matched cost)" if cell.budget else "")
        spent[name] = spent.get(name, 0.0) + value
    for name, value in spent.items():
        print(f"  {name}: {value:.2g} FLOPs")
    rate = cells[0].estimate["flops_per_second"]
    hours = sum(estimates) / rate / 3600
    print(f"  in all {sum(estimates):.2g} FLOPs; about {hours:.2g} hours at {rate:.2g} FLOP/s (scale's estimate)")
