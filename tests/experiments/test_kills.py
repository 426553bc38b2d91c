"""Runs that are killed, signalled or out of space, and what a restart makes of their folders."""

import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
from toy_runs import command, records_below

from nabla_reasoner.__main__ import FAILED, INTERRUPTED, run_process

CONTEXT = multiprocessing.get_context("forkserver")  # every run starts from a process that has imported torch
CONTEXT.set_forkserver_preload(["nabla_reasoner.experiments.table1", "nabla_reasoner.evaluation.cell_runner"])
METHODS = "method=greedy,best_of_n,tree_of_thoughts,nabla_reasoner"
KILLS, FOLDERS = int(os.environ.get("NABLA_KILLS", "6")), 2  # more kills take minutes
TABLES = ("table.csv", "table.md", "table.tex", "comparisons.csv")


def _run(words: list[str], file_bytes: int | None) -> None:
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and what `nohup` starts ignores this
    if file_bytes is not None:  # stands for a full disk: writing beyond it fails
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    sys.exit(run_process(words))


def start(folder: Path, file_bytes: int | None = None, *more: str) -> multiprocessing.Process:
    process = CONTEXT.Process(target=_run, args=([*command(folder, METHODS), *more], file_bytes))
    process.start()
    return process


def finish(folder: Path) -> int:
    process = start(folder)
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], float]:
    """Records of a run that nothing disturbs, and its seconds."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(folder / "warm")  # fills the caches of the file system
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
            process.kill()
            process.join()
        assert_restart_completes(tmp_path / str(number), records)


def in_order(files: dict[str, list]) -> dict[str, list]:
    """Return the records of each file, sorted by problem."""
    return {name: sorted(entries, key=lambda entry: entry["problem_id"]) for name, entries in files.items()}


@pytest.mark.slow
def test_two_processes_killed_with_their_parent_resume_to_the_records_of_one(tmp_path: Path, undisturbed):
    """Killing the command leaves no process that solves on: it would write problems which the restart solves too."""
    records, _ = undisturbed
    chance, words = random.Random(1), (None, "devices=2", "method=best_of_n")
    whole = {name: entries for name, entries in records.items() if "best_of_n" in name and "records/" in name}
    for _ in range(max(2, KILLS // 5)):
        process = start(tmp_path, *words)
        while process.is_alive() and not list(tmp_path.rglob("*.settings.json")):  # the models are loaded
            time.sleep(0.01)
        process.join(chance.uniform(0, 15))
        process.kill()
        process.join()
    process = start(tmp_path, *words)
    process.join()
    assert process.exitcode == 0
    restarted = {name: entries for name, entries in records_below(tmp_path).items() if name in whole}
    assert in_order(restarted) == in_order(whole)  # a kill may fall between the last record and the sorting


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_signalled_run_stops_at_once_and_resumes(tmp_path: Path, undisturbed, name: str):
    records, _ = undisturbed
    process = start(tmp_path)
    while not list(tmp_path.rglob("*.jsonl")):
        time.sleep(0.01)
    for _ in range(10):  # a signal that arrives while a destructor runs is lost, as with Ctrl-C: users press it again
        os.kill(process.pid, getattr(signal, name))
        process.join(1)
        if process.exitcode is not None:
            break
    assert process.exitcode == INTERRUPTED
    assert_restart_completes(tmp_path, records)


@pytest.mark.slow
@pytest.mark.parametrize("file_bytes", [1, 3000, 20000])
def test_run_out_of_space_loses_nothing(tmp_path: Path, undisturbed, file_bytes: int):
    records, _ = undisturbed
    process = start(tmp_path, file_bytes)
    process.join()
    assert process.exitcode in (FAILED, 2)
    assert_restart_completes(tmp_path, records)


@pytest.mark.slow
def test_second_process_on_one_folder_is_refused(tmp_path: Path, undisturbed):
    records, _ = undisturbed
    first = start(tmp_path)
    while not list(tmp_path.rglob(".lock")):
        time.sleep(0.01)
    assert finish(tmp_path) == 2
    first.join()
    assert first.exitcode == 0
    assert records_below(tmp_path) == records
