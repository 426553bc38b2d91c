"""A sweep of cells: checked before compute is spent, run one after the other, with the table rewritten after each."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from ..config import build
from ..config.build import BuiltCell
from ..config.cell import Cell
from ..config.sweeps import Sweep
from ..evaluation import provenance
from ..evaluation.cell_records import check_records, record_file
from ..evaluation.cell_runner import CellRunner, expected, failures, is_pending, wanted
from ..evaluation.results_folder import check_files, locked, written_files
from ..evaluation.rollout_engine import RolloutEngine, check_cells, engine_summary
from ..reporting import wandb_runs
from ..reporting.wandb_live import shown_live
from ..types import ChecksPrompts
from . import launching
from .command import DONE, FAILED, Command, refusing


def run_cells(
    command: Command,
    sweeps: Sequence[Sweep],
    write_tables: Callable[[Sequence[Cell]], None],
    finish: Callable[[Path], None] = lambda folder: None,
) -> int:
    """Run every cell, then print the table and the folders of the results; return the exit status.

    Args:
        command: the command line.
        sweeps: the sweeps of the experiment.
        write_tables: rewrites the experiment's tables from the records.
        finish: makes the other files of the experiment, after the cells.
    """
    first = sweeps[0].cells[0]
    with ExitStack() as stack:
        with refusing():
            stack.enter_context(locked(Path(first.folder)))
            built, attention = check(command, sweeps)
            engine = stack.enter_context(RolloutEngine(Path(first.folder)))
            pending = [item for item in built if is_pending(item)]
            if first.served and pending and not launching.launcher(command.overrides):
                engine.models(pending[0])  # a server that is wrong is refused before anything is written
        return _run_checked(command, sweeps, built, attention, engine, write_tables, finish)


def _run_checked(
    command: Command,
    sweeps: Sequence[Sweep],
    built: Sequence[BuiltCell],
    attention: dict[str, str],
    engine: RolloutEngine,
    write_tables: Callable[[Sequence[Cell]], None],
    finish: Callable[[Path], None],
) -> int:
    cells = [item.cell for item in built]
    first, folder = cells[0], Path(cells[0].folder)
    varied = {group: sorted({getattr(cell, group).name for cell in cells}) for group in ("policy", "task", "method")}
    varied |= {"seed": sorted({cell.seed for cell in cells})}
    summary = provenance.Summary(folder, command.line, first.content(), varied, first.device, attention=attention)
    runner = CellRunner(cells, write_tables, engine)
    try:
        with shown_live([(item.cell, expected(item)) for item in built if is_pending(item)]):
            if launching.launcher(command.overrides):
                launching.launch_all(sweeps, runner)
                runner.collect(built)
            else:
                runner.run_all(built)
            finish(folder)
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failures"
        engines = engine_summary(cells, engine.facts)
        summary.close(status, cells_finished=runner.finished, cells=len(cells), **engines)
        raise
    failed = failures(cells)
    bad = bool(failed or runner.broken)
    engines = engine_summary(cells, engine.facts)
    summary.close(
        "failures" if bad else "finished",
        peak_bytes=runner.peak_bytes,
        cells_finished=runner.finished,
        cells=len(cells),
        **engines,
    )
    wandb_runs.mirror_cells(cells, [record_file(cell) for cell in cells], sweep=varied)
    for path in sorted(folder.glob("*.md")):
        if path.stem in ("table", "right_token", "row_movement"):
            print(f"\n{path.read_text(encoding='utf-8')}")
    print(f"Results in {folder}: {', '.join(written_files(folder))}; records in {Path(first.records, 'records')}")
    for name in dict.fromkeys(runner.broken):
        print(f"not done: {name}", file=sys.stderr)
    if failed:
        counts = "; ".join(f"{count} in {path}" for path, count in failed.items())
        print(f"{sum(failed.values())} problems failed ({counts}). overwrite=true runs a cell again.", file=sys.stderr)
    return FAILED if bad else DONE


def check(command: Command, sweeps: Sequence[Sweep]) -> tuple[list[BuiltCell], dict[str, str]]:
    """Build every cell, and check models, problems and existing records before compute is spent.

    Returns:
        The cells, and the implementation of attention of each model by its name; of none with a launcher.

    Raises:
        ValueError: a wrong problem file, method or model, a prompt beyond the context, or records made with other
            settings.
    """
    launching.check(command.overrides)
    built = [build.build_cell(cell) for part in sweeps for cell in part.cells]
    check_cells([item.cell for item in built])
    for folder in {record_file(item.cell).parent for item in built}:
        if folder.is_symlink() and not folder.exists():
            raise ValueError(
                f"{folder} must lead to a folder; {folder.readlink()} is not there. Mount it, or remove the link."
            )
        for place in (folder.parent, folder):  # of one reward or setting, and of its records
            if place.exists() and not place.is_dir():
                raise ValueError(f"{place} must be a folder; got a file. Move it, or choose results_dir=DIR.")
            if place.exists():
                check_files(place)
    for item in built:
        if not item.cell.overwrite:
            check_records(item.cell, wanted(item))
    if launching.launcher(command.overrides):
        return built, {}  # the models may lie on other machines only
    attention: dict[str, str] = {}
    for cell, _, problems in _different_models(built):
        policy, reward = build.outline_models(cell)
        for model in (policy, reward) if cell.method.scored else (policy,):
            lengths = [len(model.prompt_ids(problem.messages)) for problem in problems]
            model.check_length(max(lengths), cell.response_limit)
        attention |= {cell.policy.name: policy.attention, cell.reward.name: reward.attention}
    for cell, method, problems in built:
        if isinstance(method, ChecksPrompts):
            method.check_prompts(problems, build.outline_models(cell)[0])
    return built, attention


def _different_models(built: Sequence[BuiltCell]) -> list[BuiltCell]:
    """Return a cell for each policy, reward, task and length, and for methods with and without the reward model."""
    cells = [item.cell for item in built]
    keys = [
        (cell.policy.path, cell.reward.path, cell.task.name, cell.method.scored, cell.response_limit) for cell in cells
    ]
    return list(dict(zip(keys, built, strict=True)).values())
