"""Program that shows cells in Weights & Biases while they run: it reads their record files and sends what is new.

It is a process of its own, because wandb waits for dead servers: nothing waits for it (see `wandb_live`). It imports no
torch, runs at low priority, and ends when its standard input does, so also when the command that started it is killed.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..evaluation.error_text import error_text
from . import wandb_log, wandb_upload
from .running_metrics import Metrics, RunningMetrics, is_point
from .wandb_log import WandbRun

POLL_SECONDS = 2.0  # between two looks at the record files
RETRY_SECONDS = 60.0  # between two tries to open a run, after one that failed
INIT_SECONDS = 20.0  # that the server has to open a run
FINISH_SECONDS = 10.0  # and to take the rest of it
END_SECONDS = 5.0  # that this process has after the end of its input
PLAN = "plan.json"
NICE = 10


@runtime_checkable
class OpenRun(Protocol):
    """What is used of a `wandb.Run`."""

    summary: Any

    def log(self, metrics: dict[str, Any], *, step: int, commit: bool) -> None:
        """Add a point to the run's curves; a step that the server has is ignored."""

    def finish(self, exit_code: int) -> None:
        """End the run, and send the rest of it."""


class LiveCell(NamedTuple):
    """A cell that is about to run.

    Attributes:
        run: fields of its `WandbRun`, without the settings that decide its records.
        key: names that the id of the run is made of, together with these settings.
        records: its record file.
        settings: file of these settings; it is written again when the cell starts.
        before: time of that file before the cells run, in ns; None if there was none.
        expected: number of records that it will have.
    """

    run: dict[str, Any]
    key: list[str]
    records: str
    settings: str
    before: int | None
    expected: int


class Plan(NamedTuple):
    """What the program does.

    Attributes:
        cells: in the order in which they run.
        group: of all runs.
        tags: of all runs.
        sent: file that gets the last step sent, by run id.
    """

    cells: list[LiveCell]
    group: str
    tags: list[str]
    sent: str


def changed(path: str) -> int | None:
    """Return when a file was last written, in ns; None if there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


class GrowingCell:
    """A cell, how far its records were read, and its run once that is open."""

    def __init__(self, cell: LiveCell):
        self.cell = cell
        self.run: OpenRun | None = None
        self.identity = ""
        self._running = RunningMetrics()
        self._file = 0  # inode of the records; sorting them replaces the file
        self._offset = 0
        self._known: set[tuple[str, int]] = set()  # problem and repeat of the records that were counted
        self._points: dict[int, Metrics] = {}  # not yet logged

    @property
    def is_complete(self) -> bool:
        return self._running.count >= self.cell.expected

    def entry(self) -> WandbRun | None:
        """Return the cell's run without results; None if the cell has not started."""
        if changed(self.cell.settings) in (None, self.cell.before):
            return None
        try:
            settings = json.loads(Path(self.cell.settings).read_text(encoding="utf-8"))
        except ValueError:  # it is being written
            return None
        run = WandbRun(**self.cell.run)
        identity = wandb_log.identity(self.cell.key, settings)
        return run._replace(identity=identity, config={**settings, **run.config})

    def read(self) -> None:
        """Read the records that came since the last time; an unfinished last line is left for the next time."""
        try:
            with open(self.cell.records, "rb") as stream:
                state = os.fstat(stream.fileno())
                if state.st_ino != self._file or state.st_size < self._offset:
                    self._file, self._offset = state.st_ino, 0
                stream.seek(self._offset)
                *lines, _ = stream.read().split(b"\n")
        except FileNotFoundError:
            return
        for line in lines:
            self._offset += len(line) + 1
            record = json.loads(line)
            key = record["problem_id"], record["repeat"]
            if key in self._known:
                continue
            self._known.add(key)
            self._running.add(record)
            if is_point(self._running.count, self.cell.expected):
                self._points[self._running.count] = self._running.metrics()

    def log(self, run: OpenRun) -> int:
        """Log the new points of the curve; return the last one's step, 0 if there is none.

        A complete cell's last point is the run's summary; it is a point of the curve once the finished run is uploaded.
        """
        last = 0
        for step, metrics in self._points.items():
            if step < self.cell.expected:
                run.log(metrics, step=step, commit=True)
                last = step
        self._points = {}
        if self.is_complete:
            run.summary.update(self._running.metrics())
        return last


def follow(
    cells: Sequence[LiveCell],
    connect: Callable[[WandbRun], OpenRun],
    wait: Callable[[float], bool],
    warn: Callable[[str], None],
    note: Callable[[Mapping[str, int]], None],
) -> None:
    """Open a run for every cell that starts, log its points as they come, and finish it with the cell.

    After an error a cell is no longer shown; the others are.

    Args:
        cells: in the order in which they run.
        connect: opens a run; after an error it is tried again, `RETRY_SECONDS` later.
        wait: waits up to so many seconds; returns whether no more records will come.
        warn: prints why something is not shown.
        note: stores the last steps sent, by run id.
    """
    growing, sent, retry_at = [GrowingCell(cell) for cell in cells], {}, 0.0
    last = False
    while growing and not last:
        last = wait(POLL_SECONDS)
        for cell in list(growing):
            if cell.run is None:
                entry = None if last or time.monotonic() < retry_at else cell.entry()
                if entry is None:
                    continue
                try:
                    cell.run, cell.identity = connect(entry), entry.identity
                except Exception as error:
                    warn(error_text(error)[:300])
                    retry_at = time.monotonic() + RETRY_SECONDS
                    continue
            try:
                cell.read()
                step = cell.log(cell.run)
                if step:
                    sent[cell.identity] = step
                    note(sent)
                if not (cell.is_complete or last):
                    continue
                cell.run.finish(exit_code=0 if cell.is_complete else 1)
            except Exception as error:
                warn(error_text(error)[:300])
                with contextlib.suppress(Exception):
                    cell.run.finish(exit_code=1)
            growing.remove(cell)


def _connect(plan: Plan, folder: Path, entry: WandbRun) -> OpenRun:
    wandb_upload.check_server(wandb_upload.server_address())
    settings = wandb_log.run_settings()
    settings.init_timeout, settings.finish_timeout = INIT_SECONDS, FINISH_SECONDS
    settings.reinit = "create_new"  # several cells may run at once
    return wandb_log.open_run(entry, folder, mode="online", group=plan.group, tags=plan.tags, settings=settings)


def _note(path: Path, sent: Mapping[str, int]) -> None:
    """Add steps to the file of the last steps sent; a damaged file is replaced."""
    known = {}
    with suppress(FileNotFoundError, ValueError, TypeError):
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps({**known, **sent}, indent=1) + "\n", encoding="utf-8")
    os.replace(new, path)


def _watch(ended: threading.Event) -> None:
    """Wait for the end of the input; then end this process after `END_SECONDS` at the latest."""
    sys.stdin.buffer.read()
    ended.set()
    time.sleep(END_SECONDS)
    os._exit(1)


def main(folder: Path) -> None:
    """Follow the cells of the plan in `folder`, where wandb writes too; print one warning at most."""
    warnings = os.fdopen(os.dup(sys.stderr.fileno()), "w")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # for wandb's own process too
    os.dup2(silence, 2)
    os.nice(NICE)
    said: list[str] = []

    def warn(reason: str) -> None:
        if not said:
            warnings.write(f"warning: cells are not shown in W&B while they run ({reason}).\n")
            warnings.flush()
        said.append(reason)

    ended = threading.Event()
    threading.Thread(target=_watch, args=[ended], daemon=True).start()
    try:
        content = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        plan = Plan(**{**content, "cells": [LiveCell(**cell) for cell in content["cells"]]})
        path = Path(plan.sent)
        follow(
            plan.cells, lambda entry: _connect(plan, folder, entry), ended.wait, warn, lambda sent: _note(path, sent)
        )
    except Exception as error:
        warn(error_text(error)[:300])
    finally:
        os._exit(0)  # without wandb's own end, which waits for dead servers


if __name__ == "__main__":
    main(Path(sys.argv[1]))
