"""Locks of files: one holder, also after refusals and where a holder removes its file."""

import fcntl
import os
from pathlib import Path

import pytest

from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.evaluation import cell_records, results_folder
from nabla_reasoner.evaluation.file_locks import open_locked
from nabla_reasoner.evaluation.records import settings_path


def test_refused_processes_leave_the_holders_settings(tmp_path: Path):
    (cell,) = compose_cells(["method=greedy", "policy=tiny-base", "task=products", f"results_dir={tmp_path}"])
    path = settings_path(cell_records.record_file(cell))
    with cell_records.locked(cell):
        for _ in range(2):  # the second one had the lock of a new file, while the first holder went on
            with pytest.raises(ValueError, match="another process solves"), cell_records.locked(cell):
                pass
            assert path.exists()
        cell_records.write_settings(cell)
    assert path.stat().st_size > 0
    with cell_records.locked(cell):
        pass
    assert path.stat().st_size > 0, "settings are kept, whoever holds the lock"


def test_lock_of_a_removed_file_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, lock, calls = tmp_path / "a.lock", fcntl.flock, []

    def removed_meanwhile(descriptor: int, operation: int) -> None:
        lock(descriptor, operation)
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()  # as its holder does before it lets go

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    descriptor = open_locked(path)
    assert len(calls) == 2
    assert os.path.samestat(os.fstat(descriptor), path.stat())
    with pytest.raises(BlockingIOError):
        open_locked(path)
    os.close(descriptor)


def test_second_command_names_the_process_that_holds_the_folder(tmp_path: Path):
    with (
        results_folder.locked(tmp_path / "results"),
        pytest.raises(ValueError, match=rf"another command writes to .*results \(process {os.getpid()}\)"),
        results_folder.locked(tmp_path / "results"),
    ):
        pass
