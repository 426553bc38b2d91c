"""Cells in several processes: the same records as one after the other, errors, killed processes, interruption."""

import os
import signal
import time
from pathlib import Path

import pytest
import toy_runs
from command_processes import shared

from nabla_reasoner.__main__ import main
from nabla_reasoner.config import build, compose, workers
from nabla_reasoner.config.build import BuiltCell
from nabla_reasoner.evaluation import side_by_side

COMMAND = [
    "table1",
    "policy=tiny-base",
    "task=products",
    "seed=0,1",
    "method=greedy,self_consistency",
    "wandb=disabled",
]


def test_processes_are_used_where_they_help():
    (cell,) = compose.compose_cells([])
    assert cell.workers == 2
    assert workers.useful_workers(cell, 10_000) == 2
    assert workers.useful_workers(cell, workers.MIN_RECORDS) == 1
    for changes in ({"device": "cuda"}, {"rollouts": "vllm"}, {"devices": 2}, {"workers": 1}):
        assert workers.useful_workers(cell.changed(**changes), 10_000) == 1
    assert workers.useful_workers(cell.changed(workers=16), 2000) == 4


def measured(built: BuiltCell) -> tuple[float, int]:
    if built.cell.seed == 4:
        raise ValueError("no such token")
    return float(built.cell.seed), os.getpid()


def killed(built: BuiltCell) -> tuple[float, int]:
    os._exit(1)


@pytest.mark.slow
def test_results_errors_and_killed_processes():
    items = [build.build_cell(cell) for cell in compose.compose_cells(["num_problems=1", "seed=3,4"])]
    ended, failed = sorted(side_by_side.run(items, 2, measured), key=lambda result: result.built.cell.seed)
    assert (ended.built.cell.seed, ended.seconds, ended.error) == (3, 3.0, None)
    assert ended.peak_bytes != os.getpid()
    assert (failed.built.cell.seed, str(failed.error)) == (4, "no such token")
    with pytest.raises(MemoryError, match=r"was killed; workers=2 means .* workers=1"):
        list(side_by_side.run(items, 2, killed))


@pytest.mark.slow
def test_records_equal_those_of_one_process(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(workers, "MIN_RECORDS", 20)
    few = [*COMMAND, "num_problems=12"]
    assert main([*few, f"results_dir={tmp_path / 'one'}", "workers=1"]) == 0
    assert main([*few, f"results_dir={tmp_path / 'two'}"]) == 0
    output = capsys.readouterr().out
    assert output.count("4 cells, 2 at a time") == 1
    assert output.count("[4/4]") == 2
    one, two = (toy_runs.records_below(tmp_path / name) for name in ("one", "two"))
    assert len(one) == 4
    assert one == two


@pytest.mark.slow
def test_interrupted_processes_end_and_the_command_resumes(tmp_path: Path):
    words = [*COMMAND[:-2], "method=tree_of_thoughts", "wandb=disabled", "num_problems=2000", "batch_size=5"]
    run = shared().start_command([*words, f"results_dir={tmp_path}"], os.environ)
    end = time.monotonic() + 120
    while len(toy_runs.records_below(tmp_path)) < 2 and time.monotonic() < end:
        time.sleep(0.2)
    assert len(run.processes()) > 2, "the command and two that solve"
    run.send_signal(signal.SIGTERM)
    done = run.result()
    assert done.returncode == 130, done.stderr
    assert sum(map(len, toy_runs.records_below(tmp_path).values())) < 2000, "the cells went on to their end"
    assert "Interrupted. Run the same command again to resume." in done.stderr
    end = time.monotonic() + 20
    while (left := run.processes()) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []
