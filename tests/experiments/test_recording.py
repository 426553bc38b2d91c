"""Results of earlier runs while a command writes new ones: kept until the new ones are complete."""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from nabla_reasoner.__main__ import INTERRUPTED, main
from nabla_reasoner.config.targets import find
from nabla_reasoner.experiments import recording
from nabla_reasoner.experiments.command import DONE, FAILED, Command
from nabla_reasoner.experiments.recording import EarlierResults, Recording
from nabla_reasoner.theory import suite
from nabla_reasoner.theory.check import Check
from nabla_reasoner.theory.context import Findings
from nabla_reasoner.theory.suite import Group

NAMES = ("table.csv", "table.md", "models", "summary.json")  # what the command writes; models/ is a folder


def content(folder: Path) -> dict[str, str]:
    """Every file of a folder by its path, without summary and lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "summary.json")]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def write(folder: Path, text: str) -> None:
    (folder / "models").mkdir(parents=True, exist_ok=True)
    for name in ("table.csv", "table.md", "models/weights"):
        (folder / name).write_text(text)
    (folder / "models" / text).write_text(text)


def record(results: Path, work: Callable[[Path], None]) -> int:
    settings = {"results_dir": str(results), "wandb": "disabled"}
    command = Command(find("theorem"), ())
    with Recording(command, settings, scale="tiny", varied={"seed": [0]}, replaces=NAMES) as recording:
        work(recording.folder)
        return recording.finish()


def first_and_second(results: Path, work: Callable[[Path], None]) -> dict[str, str]:
    """Let one run finish and another one do this work; returns what the first had left."""
    assert record(results, lambda folder: write(folder, "old")) == DONE
    before = content(results / "theory") | {"summary": (results / "theory" / "summary.json").read_text()}
    with pytest.raises((KeyboardInterrupt, OSError)):
        record(results, work)
    return before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("written", [True, False])
def test_run_that_does_not_finish_puts_the_earlier_results_back(tmp_path: Path, capsys, error: type, written: bool):
    def stopped(folder: Path) -> None:
        assert not (folder / "table.csv").exists(), "earlier rows must not pass for this run's"
        if written:
            write(folder, "new")
        raise error

    before = first_and_second(tmp_path, stopped)
    folder = tmp_path / "theory"
    assert content(folder) | {"summary": (folder / "summary.json").read_text()} == before
    assert f"the earlier results in {folder} are put back" in capsys.readouterr().err


def test_finished_run_leaves_only_its_own_files(tmp_path: Path):
    assert record(tmp_path, lambda folder: write(folder, "old")) == DONE
    assert record(tmp_path, lambda folder: (folder / "table.csv").write_text("new")) == DONE
    assert content(tmp_path / "theory") == {"table.csv": "new"}
    assert not [path for path in (tmp_path / "theory").iterdir() if path.is_dir()]


def test_interruption_of_the_copy_for_wandb_leaves_a_finished_run(tmp_path: Path, monkeypatch):
    def interrupted(*_: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recording, "mirror_tables", interrupted)
    settings = {"results_dir": str(tmp_path), "wandb": "offline"}
    run = Recording(Command(find("theorem"), ()), settings, scale="tiny", varied={"seed": [0]}, replaces=NAMES)
    write(run.folder, "new")
    with pytest.raises(KeyboardInterrupt), run:
        run.finish(tables=["table"])
    assert json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))["status"] == "finished"


def test_first_run_that_does_not_finish_keeps_what_it_wrote(tmp_path: Path, capsys):
    def stopped(folder: Path) -> None:
        (folder / "table.csv").write_text("some")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(tmp_path, stopped)
    assert content(tmp_path / "theory") == {"table.csv": "some"}
    assert '"status": "interrupted"' in (tmp_path / "theory" / "summary.json").read_text()
    assert "put back" not in capsys.readouterr().err


def test_summary_that_cannot_be_written_puts_the_earlier_results_back(tmp_path: Path, monkeypatch):
    assert record(tmp_path, lambda folder: write(folder, "old")) == DONE
    before = content(tmp_path / "theory")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nabla_reasoner.experiments.recording.Summary", full)
    with pytest.raises(OSError, match="No space"):
        record(tmp_path, lambda folder: write(folder, "new"))
    assert content(tmp_path / "theory") == before


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it is done."""


@contextmanager
def killed_at(step: int, patch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """End the block before the `step`-th change of a file's name or place; yields a list with True once it did."""
    steps, stopped = itertools.count(), []

    def counted(change: Callable[..., None]) -> Callable[..., None]:
        def changed(*arguments: Any, **more: Any) -> None:
            if next(steps) == step:
                stopped.append(True)
                raise Killed
            change(*arguments, **more)

        return changed

    with patch.context() as patched, suppress(Killed):
        for name in ("replace", "unlink", "rmdir"):
            patched.setattr(os, name, counted(getattr(os, name)))
        yield stopped


@pytest.mark.parametrize("finishes", [True, False])
def test_kill_at_any_moment_leaves_all_earlier_files_or_all_new_ones(tmp_path: Path, monkeypatch, finishes: bool):
    for name in ("old", "new"):
        write(tmp_path / name, name)
    old, new = content(tmp_path / "old"), content(tmp_path / "new")
    for step in itertools.count():
        folder = tmp_path / str(step)
        write(folder, "old")
        with killed_at(step, monkeypatch) as stopped:
            earlier = EarlierResults(folder, NAMES)
            write(folder, "new")
            (earlier.drop if finishes else earlier.put_back)()
        with killed_at(step % 5, monkeypatch):  # the next start is killed too
            EarlierResults(folder, NAMES)
        EarlierResults(folder, NAMES).put_back()
        assert content(folder) in ((old, new) if finishes else (old,)), step
        if not stopped:
            break
    assert step > 4
    assert content(folder) == (new if finishes else old)


@pytest.mark.slow
def test_interrupted_command_leaves_the_tables_of_the_one_before(tmp_path: Path, monkeypatch):
    """The exit status, and the whole path of a command: no target that replaces its files deletes them first."""

    def stopped(context: object) -> Findings:
        raise KeyboardInterrupt

    words = ["theorem", "checks=[argmin]", "wandb=disabled", f"results_dir={tmp_path}"]
    monkeypatch.setitem(suite.GROUPS, "argmin", Group(lambda context: Findings([Check("kept", 2.0, 1.0)]), 1))
    assert main(words) == FAILED, "a failed check is a result"
    before = content(tmp_path / "theory")
    assert "checks.csv" in before
    monkeypatch.setitem(suite.GROUPS, "argmin", Group(stopped, 1))
    assert main(words) == INTERRUPTED
    assert content(tmp_path / "theory") == before
