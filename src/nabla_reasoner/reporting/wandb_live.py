"""Cells shown in Weights & Biases while they run, by a process that nothing waits for.

The process reads record files only. It opens the runs that are uploaded when all cells are finished, under the same
ids. A hang or an error there costs one warning and at most `WAIT_SECONDS` at the end of the cells.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..config.cell import Cell
from ..config.wandb_mode import chosen_mode
from ..evaluation.cell_records import record_file
from ..evaluation.error_text import error_text
from ..evaluation.records import settings_path
from . import wandb_live_process
from .wandb_live_process import PLAN, LiveCell, Plan, changed
from .wandb_log import tags
from .wandb_runs import LIVE, ONLINE, cell_names, cell_run

WAIT_SECONDS = wandb_live_process.END_SECONDS + 2
# Variables that are not for the process: the mode is known, and the service of this process is not to be shared.
NOT_FOR_IT = ("WANDB_MODE", "WANDB_SERVICE")


@contextmanager
def shown_live(cells: Sequence[tuple[Cell, int]]) -> Iterator[None]:
    """Show cells in W&B while the block runs, with mode online; otherwise do nothing.

    Args:
        cells: those that will run, with the numbers of records that they will have.
    """
    if not cells or chosen_mode(cells[0][0].wandb) != ONLINE:
        yield
        return
    folder, process = None, None
    try:
        folder = Path(tempfile.mkdtemp(prefix="nabla-wandb-"))
        process = _start(cells, folder)
    except Exception as error:
        print(f"warning: cells are not shown in W&B while they run ({error_text(error)}).", file=sys.stderr)
    try:
        yield
    finally:
        if process is not None:
            _end(process)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def live_cell(cell: Cell, expected: int) -> LiveCell:
    """Return what the process needs of a cell that will have so many records."""
    records = record_file(cell).resolve()
    settings = str(settings_path(records))
    key = [cell.experiment_name, cell.scale_name, *cell_names(cell)]
    run = cell_run(cell, {})
    fields = {name: getattr(run, name) for name in ("identity", "name", "job_type", "config")}
    return LiveCell(fields, key, str(records), settings, changed(settings), expected)


def _start(cells: Sequence[tuple[Cell, int]], folder: Path) -> subprocess.Popen:
    """Start the process; `folder` is for its plan and for wandb's own files."""
    first = cells[0][0]
    sent = Path(first.folder, "wandb", LIVE).resolve()
    words = tags(first.scale_name, first.experiment_name)
    plan = Plan([live_cell(cell, expected) for cell, expected in cells], first.experiment_name, words, str(sent))
    content = {**plan._asdict(), "cells": [cell._asdict() for cell in plan.cells]}
    (folder / PLAN).write_text(json.dumps(content), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in NOT_FOR_IT}
    source = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-P", "-m", wandb_live_process.__name__, str(folder)],
        env=environment,
        stdin=subprocess.PIPE,  # its end tells the process to end
        stdout=subprocess.DEVNULL,
        cwd=folder,
        start_new_session=True,  # Ctrl-C is for this process
    )


def _end(process: subprocess.Popen) -> None:
    """End the process: ask it, wait for `WAIT_SECONDS`, then kill it with what it started; raises no error."""
    try:
        process.stdin.close()
        process.wait(WAIT_SECONDS)
    except BaseException as error:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        if not isinstance(error, Exception):  # Ctrl-C
            raise
