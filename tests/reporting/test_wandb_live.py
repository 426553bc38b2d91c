"""Cells shown in W&B while they run: what is sent and when, and that nothing there holds the cells up."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import toy_runs
import wandb_server
from wandb_server import Server

from nabla_reasoner.__main__ import main
from nabla_reasoner.baselines import repeated_sampling
from nabla_reasoner.config import compose
from nabla_reasoner.config.wandb_mode import chosen_mode
from nabla_reasoner.evaluation.cell_records import record_file, write_settings
from nabla_reasoner.evaluation.records import append_records, sort_records
from nabla_reasoner.reporting import running_metrics, wandb_live, wandb_live_process, wandb_log, wandb_runs
from nabla_reasoner.reporting.wandb_live_process import LiveCell, follow

SLACK = 3  # seconds that a busy machine may take beyond a limit


def record(index: int) -> dict:
    names = {"policy": "tiny-base", "task": "products", "method": "greedy", "seed": 0, "repeat": 0}
    costs = {name: index + 1 for name in running_metrics.COSTS}
    return {**names, "problem_id": f"p{index}", "correct": index % 2 == 0, "status": "ok", "cost": costs, "search": {}}


class FakeRun:
    """What a W&B run was sent; a step at or before the last one is ignored, as by wandb."""

    def __init__(self, events: list):
        self.events, self.summary, self.steps = events, {}, [0]

    def log(self, metrics: dict, *, step: int, commit: bool) -> None:
        assert commit
        if step > self.steps[-1]:
            self.steps.append(step)
            self.events.append((step, metrics["accuracy"]))

    def finish(self, exit_code: int) -> None:
        self.events.append(("end", exit_code))


class Script:
    """Stands for waiting: before each look at the files it does the next thing."""

    def __init__(self, *actions: Callable[[], object]):
        self.actions = list(actions)

    def __call__(self, seconds: float) -> bool:
        self.actions.pop(0)()
        return not self.actions


class Cells:
    """Cells in a folder, and what W&B is told of them."""

    def __init__(self, folder: Path):
        self.folder, self.events, self.warnings, self.noted, self.broken = folder, {}, [], {}, 0

    def cell(self, name: str, expected: int = 4) -> LiveCell:
        records, settings = str(self.folder / f"{name}.jsonl"), str(self.folder / f"{name}.settings.json")
        run = {"identity": "", "name": name, "job_type": "greedy", "config": {"budget": False}}
        return LiveCell(run, ["table1", name], records, settings, wandb_live_process.changed(settings), expected)

    def start(self, name: str) -> None:
        (self.folder / f"{name}.settings.json").write_text('{"seed": 0}', encoding="utf-8")

    def solve(self, name: str, *numbers: int) -> None:
        append_records(self.folder / f"{name}.jsonl", [record(number) for number in numbers])

    def connect(self, entry: wandb_runs.WandbRun) -> FakeRun:
        if self.broken:
            self.broken -= 1
            raise OSError("no answer")
        assert entry.config == {"seed": 0, "budget": False}
        assert entry.identity == wandb_runs.identity(["table1", entry.name], {"seed": 0})
        return FakeRun(self.events.setdefault(entry.name, []))

    def follow(self, cells: list[LiveCell], *actions: Callable[[], object]) -> None:
        follow(cells, self.connect, Script(*actions), self.warnings.append, self.noted.update)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_live_process, "RETRY_SECONDS", 0)


@pytest.fixture
def cells(tmp_path: Path) -> Cells:
    return Cells(tmp_path)


def test_runs_open_as_cells_start_and_points_come_with_records(cells: Cells):
    seen = []

    def look() -> None:
        seen.append(json.loads(json.dumps(cells.events)))

    cells.follow(
        [cells.cell("a"), cells.cell("b")],
        lambda: None,
        lambda: (look(), cells.start("a"), cells.start("b")),  # two processes: both at once
        lambda: (look(), cells.solve("b", 0), cells.solve("a", 0, 1)),
        lambda: (look(), cells.solve("a", 2, 3)),
        lambda: (look(), cells.solve("b", 1)),  # the command was interrupted
    )
    half = [[1, 100.0], [2, 50.0]]
    assert seen == [
        {},
        {"a": [], "b": []},
        {"a": half, "b": half[:1]},
        {"a": [*half, [3, 200 / 3], ["end", 0]], "b": half[:1]},
    ]
    assert cells.events["b"] == [(1, 100.0), (2, 50.0), ("end", 1)]
    assert cells.noted == {
        wandb_runs.identity(["table1", "a"], {"seed": 0}): 3,
        wandb_runs.identity(["table1", "b"], {"seed": 0}): 2,
    }
    assert not cells.warnings


def test_sorted_records_are_read_again_and_counted_once(cells: Cells):
    """The file of a cell that two processes solve is replaced when it is complete."""
    path, order = cells.folder / "a.jsonl", [(f"p{number}", 0) for number in range(6)]
    cells.follow(
        [cells.cell("a", expected=6), cells.cell("b", expected=2)],
        lambda: (cells.start("a"), cells.solve("a", 0, 2, 4)),
        lambda: (cells.solve("a", 1, 3, 5), sort_records(path, order), cells.start("b")),
        lambda: cells.solve("b", 0, 1),
        lambda: None,
    )
    assert cells.events["a"] == [(1, 100.0), (2, 100.0), (3, 100.0), (4, 75.0), (5, 60.0), ("end", 0)]
    assert cells.events["b"] == [(1, 100.0), ("end", 0)]
    assert not cells.warnings


def test_damaged_records_of_one_cell_leave_the_others_shown(cells: Cells):
    cells.follow(
        [cells.cell("a"), cells.cell("b", expected=2)],
        lambda: (cells.start("a"), cells.start("b"), (cells.folder / "a.jsonl").write_text("{broken\n")),
        lambda: cells.solve("b", 0, 1),
        lambda: None,
    )
    assert cells.events == {"a": [("end", 1)], "b": [(1, 100.0), ("end", 0)]}
    assert len(cells.warnings) == 1


def test_half_written_record_waits_for_its_end(cells: Cells):
    line = (json.dumps(record(0)) + "\n").encode()
    path = cells.folder / "a.jsonl"
    cells.follow(
        [cells.cell("a")],
        lambda: (cells.start("a"), path.write_bytes(line[:30])),
        lambda: cells.events["a"].append("half"),
        lambda: path.write_bytes(line),
    )
    assert cells.events["a"] == ["half", (1, 100.0), ("end", 1)]


def test_records_of_earlier_commands_are_shown_only_once_their_cell_starts(cells: Cells):
    cells.start("a")
    cells.solve("a", 0, 1)
    cell = cells.cell("a")

    def overwrite() -> None:
        Path(cell.records).unlink()
        cells.start("a")

    cells.follow([cell], lambda: None, overwrite, lambda: cells.solve("a", 1))
    assert cells.events["a"] == [(1, 0.0), ("end", 1)]


def test_server_that_fails_is_tried_again_with_nothing_lost(cells: Cells):
    cells.broken = 2
    cells.follow(
        [cells.cell("a")],
        lambda: (cells.start("a"), cells.solve("a", 0)),
        lambda: cells.solve("a", 1),
        lambda: cells.solve("a", 2),
        lambda: None,
    )
    assert cells.warnings == ["OSError: no answer"] * 2
    assert [step for step, _ in cells.events["a"]] == [1, 2, 3, "end"]


@pytest.mark.parametrize(
    ("variable", "mode"),
    [
        ("dryrun", "offline"),
        ("run", "online"),
        ("Online", "online"),
        (" OFFLINE ", "offline"),
        ("DISABLED", "disabled"),
        (" ", "online"),
    ],
)
def test_every_spelling_is_one_mode_for_us_and_for_wandb(variable: str, mode: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", variable)
    assert chosen_mode("online") == mode
    settings = wandb_log.import_wandb().Settings()
    settings.update_from_env_vars(os.environ)  # refuses what wandb does not know
    assert settings.mode == mode


def table_cell(folder: Path, *words: str) -> wandb_live.Cell:
    (cell,) = compose.compose_cells(["experiment=table1", *toy_runs.command(folder, *words)[1:], "method=greedy"])
    return cell


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["disabled", "offline", "dryrun", "Offline", ""])
def test_no_process_starts_without_online_mode(tmp_path: Path, variable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", variable)
    monkeypatch.setattr(wandb_live, "_start", lambda *_: pytest.fail("started"))
    cell = table_cell(tmp_path)
    assert cell.wandb == "offline"
    with wandb_live.shown_live([(cell, 5)]):
        pass


def test_full_disk_is_one_line_and_the_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("WANDB_MODE", "online")
    cell, ran = table_cell(tmp_path), []  # makes the random models in a temporary folder
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with wandb_live.shown_live([(cell, 5)]):
        ran.append(True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: cells are not shown in W&B while they run (OSError: [Errno 28]")
    assert ran


@pytest.mark.slow
def test_process_that_hangs_is_killed_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb_live, "WAIT_SECONDS", 0.3)
    read, write = os.pipe()  # held open by the process and its child
    hang = ["bash", "-c", "trap '' TERM INT; sleep 60 & wait"]
    monkeypatch.setattr(
        wandb_live,
        "_start",
        lambda *_: subprocess.Popen(hang, stdin=subprocess.PIPE, pass_fds=[write], start_new_session=True),
    )
    begin = time.monotonic()
    with wandb_live.shown_live([(table_cell(tmp_path), 5)]):
        os.close(write)
    assert os.read(read, 1) == b"", "both have ended"
    assert time.monotonic() - begin < SLACK
    os.close(read)


@pytest.mark.slow
def test_process_ends_when_the_command_is_killed(tmp_path: Path):
    plan = wandb_live_process.Plan([], "table1", [], str(tmp_path / "sent.json"))
    waiting = LiveCell({}, [], str(tmp_path / "a.jsonl"), str(tmp_path / "a.json"), None, 1)
    (tmp_path / "plan.json").write_text(json.dumps({**plan._asdict(), "cells": [waiting._asdict()]}), encoding="utf-8")
    code = f"""
import subprocess, sys, time
words = [sys.executable, "-m", {wandb_live_process.__name__!r}, {str(tmp_path)!r}]
print(subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True).pid, flush=True)
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(wandb_live.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as command:
        child = int(command.stdout.readline())
        time.sleep(0.5)
        os.kill(child, 0)  # it runs
        command.send_signal(signal.SIGKILL)
        command.wait()
    deadline = time.monotonic() + wandb_live_process.END_SECONDS + SLACK
    while Path(f"/proc/{child}/stat").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    own = {"WANDB_MODE": "online", "WANDB_BASE_URL": server.url, "WANDB_API_KEY": wandb_server.KEY}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()


def wait_for(test: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def steps(server: Server) -> list[int]:
    with server.lock:
        return [line["_step"] for lines in server.history.values() for line in lines]


@pytest.mark.slow
def test_runs_are_on_the_server_before_the_cells_end_and_only_once_afterwards(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capfd
):
    """The third of five problems waits until the server has the run of its cell."""
    solve, calls = repeated_sampling.Greedy.solve, []

    def waiting(self, problems, *arguments, **settings):
        calls.append(len(problems))
        if len(calls) == 3:
            wait_for(lambda: server.runs)
            assert [told["displayName"] for told in server.runs.values()] == ["tiny-base-products-greedy-s0"]
        return solve(self, problems, *arguments, **settings)

    monkeypatch.setattr(repeated_sampling.Greedy, "solve", waiting)
    words = [*toy_runs.command(tmp_path, "method=greedy"), "batch_size=1"]
    assert main(words) == 0
    assert calls == [1] * 5
    assert "warning" not in capfd.readouterr().err
    names = {told["displayName"]: name for name, told in server.runs.items()}
    assert names.keys() == {"tiny-base-products-greedy-s0", "table1-tiny-tables"}
    identity = names["tiny-base-products-greedy-s0"]
    assert [line["_step"] for line in server.history[identity]] == [1, 2, 3, 4, 5]
    assert server.summaries[identity]["num_problems"] == 5
    assert {"ci_low", "ci_high", "samples"} <= server.summaries[identity].keys()
    state = json.loads((tmp_path / "tiny" / "table1" / "wandb" / wandb_runs.STATE).read_text(encoding="utf-8"))
    assert {where for where, *_ in state.values()} == {"online"}
    monkeypatch.setattr(wandb_live, "_start", lambda *_: pytest.fail("nothing is left to run"))
    assert main(words) == 0


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["stops", "rejects", "refuses"])
def test_server_that_fails_neither_stops_nor_delays_the_cells(tmp_path: Path, server: Server, behaviour: str, capfd):
    """One that stops has points by then: they are sent while the cell runs."""
    cell = table_cell(tmp_path)
    server.rejects_keys = behaviour == "rejects"
    if behaviour == "refuses":
        server.close()
    with wandb_live.shown_live([(cell, 20)]):
        record_file(cell).parent.mkdir(parents=True)
        write_settings(cell)
        append_records(record_file(cell), [record(0), record(1)])
        if behaviour == "stops":
            wait_for(lambda: [line["_step"] for lines in server.history.values() for line in lines] == [1, 2])
            server.is_silent = True
            append_records(record_file(cell), [record(2)])
        else:
            wait_for(lambda: capfd.readouterr().err.startswith("warning: cells are not shown in W&B while they run ("))
        begin = time.monotonic()
    assert time.monotonic() - begin < wandb_live.WAIT_SECONDS + SLACK
    assert not capfd.readouterr().err
