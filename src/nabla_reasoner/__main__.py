"""Command line: `python -m nabla_reasoner TARGET [key=value ...]`, or `nabla-reasoner TARGET` where it is installed.

Exit status: 0 done; 1 some part failed; 2 the command was wrong (nothing was computed or changed); 130 interrupted.
"""

import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .config.data_folder import needs_repository, spelled
from .config.targets import Target, find
from .config.wandb_mode import chosen_mode
from .evaluation.results_folder import UNWRITABLE
from .experiments.command import FAILED, INTERRUPTED, WRONG, Command, Refused

FILE_BACKENDS = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")  # of Matplotlib
HELP = ("help", "--help", "-h")


def main(arguments: Sequence[str]) -> int:
    """Run one command line; return the exit status."""
    name, *target_arguments = arguments or ["help"]
    try:
        target = None if name in HELP else find(name)
        if target is None or any(argument in HELP[1:] for argument in target_arguments):
            from .config import help as texts

            print(spelled(texts.overview() if target is None else texts.describe(target)))
            return 0
        return _run(target, target_arguments)
    except ValueError as error:
        print(spelled(f"error: {' '.join(str(error).split())}"), file=sys.stderr)
        return WRONG
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"error: results cannot be written{where}: {error.strerror}. Free space or repair the folder, then go on: "
            f"{_how_to_resume(arguments)}",
            file=sys.stderr,
        )
        return FAILED
    except MemoryError as error:
        print(f"error: out of memory: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        advice = _how_to_resume(arguments)
        print(f"Interrupted. {advice[0].upper()}{advice[1:]}", file=sys.stderr)
        return INTERRUPTED


def _how_to_resume(arguments: Sequence[str]) -> str:
    """Return what to type so that nothing is solved twice."""
    words = [word.removeprefix("--").lower() for word in arguments]
    if not any(word == "overwrite" or word.startswith("overwrite=") for word in words):
        try:
            resumes = find(arguments[0]).resumes
        except ValueError:
            resumes = False
        return f"run the same command again{' to resume' if resumes else ''}."
    return (
        "run the same command without overwrite=true to resume: cells that it had not begun then keep their earlier "
        "records."
    )


def _run(target: Target, arguments: Sequence[str]) -> int:
    """Check the settings, then import and run the target: a refusal comes before torch is loaded.

    Raises:
        ValueError: a wrong setting or argument, or results that the target needs and are missing.
    """
    if target.repository:
        needs_repository(target.name)
    if sys.flags.optimize > 1:
        raise ValueError(
            "docstrings must be there, which transformers reads; Python was started without them (-OO, or "
            f"PYTHONOPTIMIZE={sys.flags.optimize}). Unset PYTHONOPTIMIZE."
        )
    from .config.overrides import check_launching, is_setting, written_out

    positional = 1 if target.argument else 0
    argument, overrides = "".join(arguments[:positional]), written_out(arguments[positional:])
    is_flag = re.fullmatch(r"-\w|--[a-zA-Z]\S*", argument) is not None
    if target.argument and (not argument.strip() or is_setting(argument) or is_flag):
        raise ValueError(f"{target.name} needs {target.argument}; got {argument!r}. Example: {target.example}")
    check_launching(target, overrides)
    settings = _settings(target, overrides)
    chosen_mode("offline")  # a wrong WANDB_MODE is refused before anything is computed

    command = Command(target, tuple(overrides), argument)
    run = _imported(target.run)
    try:
        plans = target.settings == "plan"  # keeps nothing, whatever its target would keep
        if plans or (not target.keeps and not any(word.startswith("keep=") for word in overrides)):
            return run(command, settings)

        from .experiments import keep  # needs torch, as every target with rows to keep does

        keep.check(command)
        return keep.finish(command, run(command, settings))
    except Refused as refusal:
        raise ValueError(str(refusal)) from refusal


def _imported(name: str) -> Callable[[Command, Any], int]:
    """Import what runs a target; to search for garbage meanwhile would take a tenth of the time."""
    from hydra.utils import get_method

    gc.disable()
    try:
        return get_method(name)
    finally:
        gc.enable()


def _settings(target: Target, overrides: list[str]) -> Any:
    """Return what the target's `run` takes: sweeps, one cell, a recipe, or its checked settings."""
    from .config import compose
    from .config.sweeps import compose_cell, compose_sweeps

    if target.settings == "cells":
        return compose_sweeps(target.name, overrides)
    if target.settings == "cell":
        return compose_cell(target, overrides)
    if target.settings == "train":
        return compose.compose_recipe(target, overrides)
    if target.settings == "plan":
        return None
    return compose.compose_settings(target, overrides)


def run_process(arguments: Sequence[str]) -> int:
    """Set up signals and the environment of this process, and run one command line; return the exit status."""
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):  # a character that the terminal cannot show must not end a command
        stream.reconfigure(errors="replace")
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):  # as for Ctrl-C; clusters send these as a warning
        if signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:  # as `nohup` asks for
            signal.signal(getattr(signal, name), signal.default_int_handler)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Before torch is loaded: its threads sleep while they wait. With spinning threads and another process on the cores,
    # one cell took 30 s instead of 1 s; on idle cores no difference is seen.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _drop_foreign_backend()
    try:
        status = main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe has closed it, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python flushes at exit goes nowhere
        return FAILED
    return status


def _open_missing_streams() -> None:
    """Replace standard streams that this process was started without, as by some daemons, by ones that lead nowhere."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))


def _drop_foreign_backend() -> None:
    """Forget a backend of Matplotlib that writes no files: editors and shell profiles name some that are not there."""
    if os.environ.get("MPLBACKEND", "agg").lower() not in FILE_BACKENDS:
        del os.environ["MPLBACKEND"]


def run_console() -> None:
    """Run the command line of this process, in UTF-8 mode; ends the process with the exit status."""
    if sys.getfilesystemencoding() != "utf-8":  # names of files and models could not be written in this locale
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", "-m", "nabla_reasoner", *sys.argv[1:]])
    status = run_process(sys.argv[1:])
    gc.freeze()  # Python's last search for garbage, among all that torch and transformers keep, took over a second
    sys.exit(status)


if __name__ == "__main__":
    run_console()
