"""Runs that are killed, signalled or out of space, and what a restart makes of their folders."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from command_processes import Started, shared
from toy_runs import command, records_below

from nabla_reasoner.__main__ import FAILED, INTERRUPTED, WRONG

METHODS = ("method=nabla_reasoner,greedy,best_of_n", "batch_size=1", "max_new_tokens=5")  # the slowest first
KILLS, FOLDERS = int(os.environ.get("NABLA_KILLS", "6")), 2  # more kills take minutes
TABLES = ("table.csv", "table.md", "table.tex", "comparisons.csv")
# Stands for a full disk: writing beyond so many bytes of a file fails. What is shown goes nowhere.
WITHOUT_SPACE = """
import os, resource, signal, sys
from nabla_reasoner.__main__ import run_process
sink = os.open(os.devnull, os.O_WRONLY)
os.dup2(sink, 1)
os.dup2(sink, 2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
sys.exit(run_process({words!r}))
"""


def start(folder: Path, *more: str) -> Started:
    return shared().start_command([*command(folder, *METHODS), *more], os.environ)


def finish(folder: Path) -> int:
    return start(folder).join()


def records_written(folder: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in folder.rglob("*.jsonl"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], float]:
    """Records of a run that nothing disturbs, and its seconds."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shared().run_code("", os.environ)  # later runs find the server started
    begin = time.monotonic()
    assert finish(folder / "run") == 0
    return records_below(folder / "run"), time.monotonic() - begin


def assert_restart_completes(folder: Path, records: dict[str, object]) -> None:
    assert finish(folder) == 0
    assert records_below(folder) == records
    for name in TABLES:
        assert (folder / "tiny" / "table1" / name).stat().st_size > 0


@pytest.mark.slow
def test_killed_runs_complete_to_the_records_of_an_undisturbed_run(tmp_path: Path, undisturbed):
    records, seconds = undisturbed
    chance = random.Random(0)
    for number in range(FOLDERS):
        for _ in range(KILLS // FOLDERS):
            process = start(tmp_path / str(number))
            process.join(chance.uniform(0, seconds))
            process.send_signal(signal.SIGKILL)
            process.join()
        assert_restart_completes(tmp_path / str(number), records)


def in_order(files: dict[str, list]) -> dict[str, list]:
    """Return the records of each file, sorted by problem."""
    return {name: sorted(entries, key=lambda entry: entry["problem_id"]) for name, entries in files.items()}


@pytest.mark.slow
def test_two_processes_killed_with_their_parent_resume_to_the_records_of_one(tmp_path: Path, undisturbed):
    """Killing the command leaves no process that solves on: it would write problems which the restart solves too."""
    records, _ = undisturbed
    chance, words = random.Random(1), ("devices=2", "method=best_of_n")
    whole = {name: entries for name, entries in records.items() if "best_of_n" in name and "records/" in name}
    for number in range(max(1, KILLS // 5)):
        process = start(tmp_path, *words)
        if number:
            while process.join(0.01) is None and not list(tmp_path.rglob("*.settings.json")):  # the models are loaded
                pass
            process.join(chance.uniform(0, 15))
        while not number and process.join(0.1) is None:  # the server of its processes has started one, or both
            if sum("multiprocessing.forkserver" in line for line in process.processes()) > 1:
                break
        process.send_signal(signal.SIGKILL)
        process.join()
        written, end = records_written(tmp_path), time.monotonic() + 20
        while process.processes() and time.monotonic() < end:
            time.sleep(0.1)
        assert process.processes() == []
        assert number or records_written(tmp_path) == written
    assert start(tmp_path, *words).join() == 0
    restarted = {name: entries for name, entries in records_below(tmp_path).items() if name in whole}
    assert in_order(restarted) == in_order(whole)  # a kill may fall between the last record and the sorting


@pytest.mark.slow
def test_signalled_run_stops_at_once_and_resumes(tmp_path: Path, undisturbed):
    """Each signal comes after a record more, to a run that resumes the one before it."""
    records, _ = undisturbed
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        written = records_written(tmp_path)
        process = start(tmp_path)
        while process.join(0.01) is None and records_written(tmp_path) == written:
            pass
        for _ in range(10):  # one that arrives while a destructor runs is lost, as with Ctrl-C: users press it again
            process.send_signal(getattr(signal, name))
            if process.join(1) is not None:
                break
        assert process.join(0) == INTERRUPTED, name
    assert_restart_completes(tmp_path, records)


@pytest.mark.slow
def test_run_out_of_space_loses_nothing(tmp_path: Path, undisturbed):
    """At once, while it writes its first records, and later; each run resumes the one before it."""
    records, _ = undisturbed
    words = command(tmp_path, *METHODS)
    for size in (1, 3000, 20000):
        status = shared().start_code(WITHOUT_SPACE.format(size=size, words=words), os.environ).join()
        assert status in (FAILED, WRONG)
    assert_restart_completes(tmp_path, records)


@pytest.mark.slow
def test_second_process_on_one_folder_is_refused(tmp_path: Path, undisturbed):
    records, _ = undisturbed
    first = start(tmp_path)
    while not any(path.read_text() for path in tmp_path.rglob(".lock")):  # it writes its id once it has the lock
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # or it might end first
    assert finish(tmp_path) == WRONG
    first.send_signal(signal.SIGCONT)
    assert first.join() == 0
    assert records_below(tmp_path) == records
