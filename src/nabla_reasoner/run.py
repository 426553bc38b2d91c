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

from . import grid
from .grid import Cell

FAILED, WRONG, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    target, rest = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    try:
        if target in grid.choices("experiment"):
            prepared = functools.partial(run_experiment, target, rest, check(target, rest))
        elif target == "plan":
            from . import plan

            return plan.show(rest)
        elif target == "solve":
            prepared = prepare_solve(rest)
        else:
            valid = ", ".join([*grid.choices("experiment"), "solve", "plan"])
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
    result = grid.phases(target, overrides)
    from . import session  # torch and Lightning: only once the choices are known to be valid

    cells = [cell for _, phase in result for cell in phase]
    for cell in cells:
        grid.prepare_models(cell)
        grid.build_method(cell)
        grid.build_problems(cell)
        if not cell["overwrite"]:
            session.check_records(cell)
    if any(override.startswith("hydra/launcher=") for override in overrides):
        return result  # the machine that submits jobs need not be able to load the models
    for group in {json.dumps([c["policy"], c["reward"], c["task"]], sort_keys=True): c for c in cells}.values():
        policy, _ = grid.load_models(group)
        problems = grid.build_problems(group)
        lengths = [len(policy.prompt_ids(problem.messages)) for problem in problems]
        policy.check_length(max(lengths), group["max_new_tokens"])
    return result


def launch(overrides: Sequence[str], job: Callable[[Any], None]) -> None:
    """Hand a sweep to Hydra, which composes and starts one job per cell (here, or on a cluster by its launcher)."""
    arguments, sys.argv = sys.argv, [sys.argv[0], *overrides]
    try:
        hydra.main(version_base="1.3", config_path=str(grid.CONFIGS), config_name="config")(job)()
    finally:
        sys.argv = arguments


def run_experiment(target: str, overrides: Sequence[str], prepared: list[tuple[list[str], list[Cell]]]) -> int:
    """Run every cell of an experiment, then print its table and where everything lies."""
    from . import ablations, headings, mirror, session, summary

    cells = [cell for _, phase in prepared for cell in phase]
    first, folder = cells[0], Path(cells[0]["folder"])
    sweep = {g: sorted({cell[g]["name"] for cell in cells}) for g in ("policy", "task", "method")}
    sweep |= {"seed": sorted({cell["seed"] for cell in cells})}
    command = shlex.join(["./reproduce.sh", target, *overrides])
    record = summary.Summary(folder, command, first, sweep, first["device"])
    cells_run = session.Session(cells, session.write_tables)

    def job(config: Any) -> None:
        cells_run.run(grid.plain_cell(config))

    try:
        for phase_overrides, _ in prepared:
            launch(phase_overrides, job)
        if target == "ablations" and (first["only"] is None or "right_token" in first["only"]):
            headings.write(prepared[0][1], folder)
    except KeyboardInterrupt:
        record.close("interrupted", cells_finished=cells_run.finished, cells=len(cells))
        raise
    failed = session.failures(cells)
    bad = bool(failed or cells_run.broken)
    record.close("failures" if bad else "finished", cells_finished=cells_run.finished, cells=len(cells))
    if target == "ablations":
        gallery = grid.ROOT / "figures" if first["results_dir"] == "results" else None
        ablations.write_figure(folder, ablations.figure_name(first), command, gallery)
    mirror.mirror_cells(cells, [session.record_file(cell) for cell in cells], sweep=sweep)
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


def prepare_solve(arguments: Sequence[str]) -> Callable[[], int]:
    """Check `solve "question" [settings]`; the returned function answers by greedy decoding and by the chosen method.

    Raises:
        ValueError: no question, a wrong setting, or a prompt beyond the policy's context.
    """
    if not arguments or not arguments[0].strip():
        raise ValueError('solve needs a question, e.g. ./reproduce.sh solve "12+34-5=?".')
    from .problems import Problem

    question, overrides = arguments[0], list(arguments[1:])
    chosen = grid.compose_cells(overrides)
    if len(chosen) != 1:
        raise ValueError(f"solve takes one choice of each group; got {len(chosen)} combinations. Give single values.")
    shared = [override for override in overrides if not override.startswith(("method=", "method."))]
    baseline = grid.compose_cells([*shared, "method=greedy"])
    methods = [(cell["method"]["name"], grid.build_method(cell)) for cell in [*baseline, *chosen]]
    grid.prepare_models(chosen[0])
    policy, reward = grid.load_models(chosen[0])
    problem = Problem("question", question, None, "free")
    messages = problem.messages
    policy.check_length(len(policy.prompt_ids(messages)), chosen[0]["max_new_tokens"])
    from . import scoring

    def answer() -> int:
        print(f"policy {policy.name}, reward {reward.name} ({reward.kind})")
        for name, method in dict(methods).items():
            solution = method.solve([problem], policy, reward, seed=chosen[0]["seed"])[0]
            if solution.reward is None:  # the method did not ask; shown for comparison, not part of its cost
                values, _ = scoring.rewards(reward, [reward.prompt_ids(messages)], [solution.token_ids])
                solution = solution._replace(reward=values[0])
            spent = solution.cost
            print(f"\n{name}\n  {solution.response}")
            print(
                f"  reward {solution.reward:.4g}; {spent.decode_tokens} decoded tokens, {spent.gradient_evaluations} "
                f"gradient evaluations, {spent.model_calls} model calls, {spent.flops:.3g} FLOPs, {spent.seconds:.2f} s"
            )
        return 0

    return answer


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; Lightning would only take note of it
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main(sys.argv[1:]))
