"""`python -m nabla_reasoner.run TARGET [settings]`: checks a command, runs its cells through Hydra, writes its tables.

Targets are the files of configs/experiment, `solve "question"` and `plan TARGET`. Exit status: 0 done; 1 some problem
or cell failed; 2 the command was wrong (nothing was computed or changed); 130 interrupted.
"""

import functools
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra

from ..config import build, compose
from ..config.schema import CONFIGS, ROOT, Cell, choices
from .solve import prepare_solve
from .table1 import phases

FAILED, WRONG, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    target, rest = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    try:
        if target in choices("experiment"):
            prepared = functools.partial(run_experiment, target, rest, check(target, rest))
        elif target == "plan":
            from . import plan

            return plan.show(rest)
        elif target == "solve":
            prepared = prepare_solve(rest)
        else:
            valid = ", ".join([*choices("experiment"), "solve", "plan"])
            raise ValueError(f"target must be one of {valid}; got {target!r}.")
    except ValueError as error:
        return _refuse(error)
    try:
        return prepared()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped.", file=sys.stderr)
        return INTERRUPTED


def _refuse(error: Exception) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return WRONG


def check(target: str, overrides: Sequence[str]) -> list[tuple[list[str], list[Cell]]]:
    """Compose, then try everything that can be tried before compute is spent; returns the phases.

    Raises:
        ValueError: a wrong setting, problem file, method or model, a prompt beyond the context, or records made with
            other settings.
    """
    result = phases(target, overrides)
    from ..evaluation.sweep import check_records  # torch and Lightning: only once the choices are known to be valid

    cells = [cell for _, phase in result for cell in phase]
    for cell in cells:
        build.prepare_models(cell)
        build.build_method(cell)
        build.build_problems(cell)
        if not cell["overwrite"]:
            check_records(cell)
    if any(override.startswith("hydra/launcher=") for override in overrides):
        return result  # the machine that submits jobs need not be able to load the models
    for group in {json.dumps([c["policy"], c["reward"], c["task"]], sort_keys=True): c for c in cells}.values():
        policy, _ = build.load_models(group)
        problems = build.build_problems(group)
        lengths = [len(policy.prompt_ids(problem.messages)) for problem in problems]
        policy.check_length(max(lengths), group["max_new_tokens"])
    return result


def launch(overrides: Sequence[str], job: Callable[[Any], None]) -> None:
    """Hand a sweep to Hydra, which composes and starts one job per cell (here, or on a cluster by its launcher)."""
    arguments, sys.argv = sys.argv, [sys.argv[0], *overrides]
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(job)()
    finally:
        sys.argv = arguments


def run_experiment(target: str, overrides: Sequence[str], prepared: list[tuple[list[str], list[Cell]]]) -> int:
    """Run every cell of an experiment, then print its table and where everything lies."""
    from ..evaluation import provenance, sweep
    from ..reporting import wandb_runs
    from . import ablations, right_token, table2

    cells = [cell for _, phase in prepared for cell in phase]
    first, folder = cells[0], Path(cells[0]["folder"])
    varied = {g: sorted({cell[g]["name"] for cell in cells}) for g in ("policy", "task", "method")}
    varied |= {"seed": sorted({cell["seed"] for cell in cells})}
    command = shlex.join(["./reproduce.sh", target, *overrides])
    record = provenance.Summary(folder, command, first, varied, first["device"])
    cells_run = sweep.Sweep(cells, table2.write_tables)

    def job(config: Any) -> None:
        cells_run.run(compose.plain_cell(config))

    try:
        for phase_overrides, _ in prepared:
            launch(phase_overrides, job)
        if target == "ablations" and (first["only"] is None or "right_token" in first["only"]):
            right_token.write(prepared[0][1], folder)
    except KeyboardInterrupt:
        record.close("interrupted", cells_finished=cells_run.finished, cells=len(cells))
        raise
    failed = sweep.failures(cells)
    bad = bool(failed or cells_run.broken)
    record.close("failures" if bad else "finished", cells_finished=cells_run.finished, cells=len(cells))
    if target == "ablations":
        gallery = ROOT / "figures" if first["results_dir"] == "results" else None
        ablations.write_figure(folder, ablations.figure_name(first), command, gallery)
    wandb_runs.mirror_cells(cells, [sweep.record_file(cell) for cell in cells], sweep=varied)
    for name in ("table.md", "right_token.md"):
        if (folder / name).exists():
            print(f"\n{(folder / name).read_text(encoding='utf-8')}")
    files = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_file()))
    print(f"Results in {folder}: {files}, {'SETTING/' if target == 'ablations' else ''}records/")
    for name in dict.fromkeys(cells_run.broken):
        print(f"not done: {name}", file=sys.stderr)
    if failed:
        where = "; ".join(f"{count} in {path}" for path, count in failed.items())
        print(f"{sum(failed.values())} problems failed ({where}). overwrite=true runs a cell again.", file=sys.stderr)
    return FAILED if bad else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; Lightning would only take note of it
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main(sys.argv[1:]))
