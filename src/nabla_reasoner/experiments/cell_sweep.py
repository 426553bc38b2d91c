"""A sweep of cells: checked before compute is spent, run one after the other, with the table rewritten on the way."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra

from ..config import build, compose
from ..config.schema import CONFIGS, Cell
from ..config.sweeps import Sweep
from ..evaluation import provenance, sweep
from ..reporting import wandb_runs
from .command import DONE, FAILED, Command, refusing


def run_cells(
    command: Command,
    sweeps: Sequence[Sweep],
    write_tables: Callable[[Sequence[Cell]], None],
    finish: Callable[[Path], None] = lambda folder: None,
) -> int:
    """Run every cell, then print the table and where everything lies; returns the exit status.

    Args:
        command: what was typed.
        sweeps: the sweeps of the experiment.
        write_tables: rewrites the experiment's tables from the records.
        finish: makes what else belongs to the experiment, after the cells.
    """
    with refusing():
        check(command, sweeps)
    cells = [cell for part in sweeps for cell in part.cells]
    first, folder = cells[0], Path(cells[0]["folder"])
    varied = {group: sorted({cell[group]["name"] for cell in cells}) for group in ("policy", "task", "method")}
    varied |= {"seed": sorted({cell["seed"] for cell in cells})}
    summary = provenance.Summary(folder, command.line, first, varied, first["device"])
    progress = sweep.Sweep(cells, write_tables)
    try:
        for part in sweeps:
            _launch(command, part, progress.run)
        finish(folder)
    except KeyboardInterrupt:
        summary.close("interrupted", cells_finished=progress.finished, cells=len(cells))
        raise
    failed = sweep.failures(cells)
    bad = bool(failed or progress.broken)
    summary.close("failures" if bad else "finished", cells_finished=progress.finished, cells=len(cells))
    wandb_runs.mirror_cells(cells, [sweep.record_file(cell) for cell in cells], sweep=varied)
    for path in sorted(folder.glob("*.md")):
        if path.stem in ("table", "right_token"):
            print(f"\n{path.read_text(encoding='utf-8')}")
    files = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_file()))
    print(f"Results in {folder}: {files}; records in {Path(first['records'], 'records')}")
    for name in dict.fromkeys(progress.broken):
        print(f"not done: {name}", file=sys.stderr)
    if failed:
        counts = "; ".join(f"{count} in {path}" for path, count in failed.items())
        print(f"{sum(failed.values())} problems failed ({counts}). overwrite=true runs a cell again.", file=sys.stderr)
    return FAILED if bad else DONE


def check(command: Command, sweeps: Sequence[Sweep]) -> None:
    """Try everything that can be tried before compute is spent.

    Raises:
        ValueError: a wrong problem file, method or model, a prompt beyond the context, or records made with other
            settings.
    """
    cells = [cell for part in sweeps for cell in part.cells]
    for cell in cells:
        build.prepare_models(cell)
        build.build_method(cell)
        build.build_problems(cell)
        if not cell["overwrite"]:
            sweep.check_records(cell)
    if _launcher(command):
        return  # the machine that submits jobs need not be able to load the models
    for cell, scores in _different_models(cells):
        policy, reward = build.load_models(cell)
        for model in (policy, reward) if scores else (policy,):
            lengths = [len(model.prompt_ids(problem.messages)) for problem in build.build_problems(cell)]
            model.check_length(max(lengths), cell["max_new_tokens"])


def _different_models(cells: Sequence[Cell]) -> list[tuple[Cell, bool]]:
    """Return a cell for each policy, reward and task, and whether its method uses the reward model."""
    groups = {}
    for cell in cells:
        scores = getattr(build.build_method(cell), "uses_reward", True)
        groups[json.dumps([cell["policy"], cell["reward"], cell["task"], scores], sort_keys=True)] = cell, scores
    return list(groups.values())


def _launcher(command: Command) -> bool:
    return any(override.startswith("hydra/launcher=") for override in command.overrides)


def _launch(command: Command, part: Sweep, run: Callable[[Cell], None]) -> None:
    """Run a sweep's cells here, or hand it to the launcher of Hydra that the command names (SLURM)."""
    if not _launcher(command):
        for cell in part.cells:
            run(cell)
        return

    def job(config: Any) -> None:
        run(compose.plain_cell(config))

    arguments, sys.argv = sys.argv, [sys.argv[0], "--multirun", *compose.swept(part.overrides)]
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(job)()
    finally:
        sys.argv = arguments
