"""Command line: `python -m nabla_reasoner TARGET [key=value ...]`.

Exit status: 0 done; 1 some part failed; 2 the command was wrong (nothing was computed or changed); 130 interrupted.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from .config.targets import Target, find
from .config.wandb_mode import chosen_mode

WRONG, INTERRUPTED = 2, 130
HELP = ("help", "--help", "-h")


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    name, *words = arguments or ["help"]
    try:
        target = None if name in HELP else find(name)
        if target is None or any(word in HELP[1:] for word in words):
            from .config import help as texts

            print(texts.overview() if target is None else texts.describe(target))
            return 0
        return _run(target, words)
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to resume.", file=sys.stderr)
        return INTERRUPTED


def _run(target: Target, words: Sequence[str]) -> int:
    """Check the settings, then import and run the target: a refusal comes before torch is loaded.

    Raises:
        ValueError: a wrong setting or argument, or results that the target needs and are missing.
    """
    argument, overrides = ("", list(words)) if not target.argument else ("".join(words[:1]), list(words[1:]))
    if target.argument and not argument.strip():
        raise ValueError(f"{target.name} needs {target.argument}; got {argument!r}. Example: {target.example}")
    settings = _settings(target, overrides)
    chosen_mode("offline")  # a wrong WANDB_MODE is refused before anything is computed

    from hydra.utils import get_method

    from .experiments import keep
    from .experiments.command import Command, Refused

    command = Command(target, tuple(overrides), argument)
    keep.check(command)
    try:
        return keep.finish(command, get_method(target.run)(command, settings))
    except Refused as refusal:
        raise ValueError(str(refusal)) from refusal


def _settings(target: Target, overrides: list[str]) -> Any:
    """Return what the target's `run` takes: sweeps, one cell, a recipe, or a dict of checked settings."""
    from .config import compose
    from .config.sweeps import compose_sweeps

    if target.settings == "cells":
        return compose_sweeps(target.name, overrides)
    if target.settings == "cell":
        cells = compose.compose_cells([f"experiment={target.name}", *overrides])
        if len(cells) > 1:
            raise ValueError(f"{target.name} takes one value per setting; got {len(cells)} combinations.")
        return cells[0]
    if target.settings == "train":
        return compose.compose_recipe(target, overrides)
    if target.settings == "plan":
        return None
    return compose.compose_settings(target, overrides)


if __name__ == "__main__":
    if sys.getfilesystemencoding() != "utf-8":  # names of files and models could not be written in this locale
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", "-m", "nabla_reasoner", *sys.argv[1:]])
    for stream in (sys.stdout, sys.stderr):  # a character that the terminal cannot show must not end a command
        stream.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; Lightning would only take note of it
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main(sys.argv[1:]))
