"""Skeleton of a command: its folder, summary, progress with time left, W&B runs, files and exit status."""

import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from ..evaluation.provenance import Summary
from ..evaluation.results_folder import locked, written_files
from ..reporting.wandb_runs import mirror_tables
from .command import DONE, FAILED, Command, refusing

ASIDE = (".replacing", ".replaced")  # folders of results that are set aside


def has_set_aside(folder: Path) -> bool:
    """Return whether a command was killed in this folder, or still runs, so that earlier results lie aside."""
    return any((folder / name).is_dir() for name in ASIDE)


class EarlierResults:
    """Files and folders of earlier runs, set aside while a command writes new ones of the same names.

    They move to `.replacing`, which becomes `.replaced` once it has all of them, and `.dropped` once the new ones are
    complete. A kill at any moment thus leaves either all earlier files or all new ones, and the next start tells which.

    Args:
        folder: of the results, whose lock is held.
        names: of what the command will write.
    """

    def __init__(self, folder: Path, names: Sequence[str]):
        self.folder, self.names = folder, names
        self.moving, self.aside, self.dropped = (folder / f".{name}" for name in ("replacing", "replaced", "dropped"))
        self.put_back()  # what a run had set aside that was killed
        files = [folder / name for name in names if (folder / name).exists()]
        if files:
            self.moving.mkdir()
            for path in files:
                path.replace(self.moving / path.name)
            self.moving.replace(self.aside)

    def put_back(self) -> bool:
        """Put the earlier files in the place of what was written since; returns whether there were any."""
        shutil.rmtree(self.dropped, ignore_errors=True)
        if self.aside.is_dir():
            for name in self.names:
                _remove(self.folder / name)
            self.aside.replace(self.moving)
        if not self.moving.is_dir():
            return False
        for path in list(self.moving.iterdir()):
            _remove(self.folder / path.name)
            path.replace(self.folder / path.name)
        self.moving.rmdir()
        return True

    def drop(self) -> None:
        """Delete the earlier files: the new ones are complete."""
        if self.aside.is_dir():
            self.aside.replace(self.dropped)
            shutil.rmtree(self.dropped, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Recording:
    """The folder of a command while it runs: a summary when it starts, and when it ends, however it ends.

    Args:
        command: the command that runs.
        settings: its settings, written into the summary; `results_dir` and `wandb` are read.
        scale: its scale.
        varied: values of the settings that the command varies, by name, e.g. {"seed": [0]}.
        device: "cpu" or "cuda".
        replaces: files and folders of earlier runs, which are deleted when this one has finished. If it does not
            finish, they are put back in the place of its own; without any, what it has written stays.
    """

    def __init__(
        self,
        command: Command,
        settings: Mapping[str, Any],
        *,
        scale: str,
        varied: Mapping[str, list],
        device: str = "cpu",
        replaces: Sequence[str] = (),
    ):
        self.command, self.settings, self.scale = command, settings, scale
        self.folder = Path(settings["results_dir"], command.target.path(scale))
        self.lock = ExitStack()
        with refusing():
            self.lock.enter_context(locked(self.folder))
        self.earlier, self.is_finished = EarlierResults(self.folder, replaces), False
        try:
            self.summary = Summary(self.folder, command.line, dict(settings), dict(varied), device)
        except BaseException:
            self.earlier.put_back()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        with self.lock:
            if kind is None or self.is_finished:  # what is interrupted then is the copy for W&B
                return
            if self.earlier.put_back():
                print(f"note: the earlier results in {self.folder} are put back.", file=sys.stderr)
            else:
                self.summary.close("interrupted" if issubclass(kind, KeyboardInterrupt) else "failures")

    def finish(
        self,
        *,
        failed: bool = False,
        tables: Sequence[str] | None = None,
        metrics: Mapping[str, float | int] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> int:
        """Close the summary, mirror to W&B, and print the files; return the exit status.

        Args:
            failed: whether some part failed.
            tables: tables `NAME.csv` that are mirrored, with the figures; None mirrors nothing.
            metrics: numbers that summarise the run, for W&B.
            facts: further entries of the summary.
        """
        self.summary.close("failures" if failed else "finished", **(facts or {}))
        self.earlier.drop()
        self.is_finished = True
        if tables is not None:
            mirror_tables(
                self.folder,
                self.settings,
                experiment=self.folder.name,
                scale=self.scale,
                names=tables,
                metrics=metrics or {},
            )
        names = written_files(self.folder)
        print(f"\nResults in {self.folder}: {', '.join(names)}")
        return FAILED if failed else DONE


class Progress:
    """A bar over parts of known weight, with the time left, and a line for each part that is done.

    Args:
        total: sum of the weights.
        count: number of parts.
    """

    def __init__(self, total: float | int, count: int):
        self.total, self.count, self.number, self.done = total, count, 0, 0.0
        self.begin = time.perf_counter()
        form = "{desc} {percentage:3.0f}% {bar} {elapsed}<{remaining}"
        self.bar = tqdm(total=total, bar_format=form, disable=None)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    @contextmanager
    def part(self, name: str, weight: float | int) -> Iterator["Part"]:
        """Run one part; the block may set `part.note`, which is printed at its end."""
        self.number += 1
        title = f"[{self.number}/{self.count}] {name}"
        self.bar.set_description_str(title)
        part = Part(self, weight)
        yield part
        self.done += weight
        self.bar.update(self.done - self.bar.n)
        spent = time.perf_counter() - self.begin
        left = spent * (self.total / self.done - 1)
        self.bar.write(f"{title}: {part.note or 'done'}; {spent:.0f} s so far, about {left:.0f} s left")


class Part:
    """One part of a command's work: `advance` moves the bar, `note` is printed at its end."""

    def __init__(self, progress: Progress, weight: float | int):
        self.progress, self.weight, self.note = progress, weight, ""

    def advance(self, fraction: float | int) -> None:
        """Move the bar by a fraction of the part."""
        self.progress.bar.update(fraction * self.weight)
