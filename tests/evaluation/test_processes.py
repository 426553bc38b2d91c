"""Cells whose chunks are shared by two processes on the CPU (gloo): same records, deaths, time-outs, errors."""

import multiprocessing
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import toys
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from toy_runs import without_timings

from nabla_reasoner import BestOfN, Problem
from nabla_reasoner.config.schema import REWARD_DEVICES
from nabla_reasoner.evaluation import prediction, processes
from nabla_reasoner.evaluation.processes import ProcessError
from nabla_reasoner.evaluation.records import read_records, sort_records

PROBLEMS = [Problem(str(number), f"What is {number} + 7?", str(number + 7), "free") for number in range(12)]
SETTINGS = {"num_samples": 2, "max_new_tokens": 4}


class Dying(BestOfN):
    """Kills the second process at its second chunk, while the first one is held up by its own.

    The time is written to the file `killed_at`.
    """

    killed_at: Path

    def solve(self, problems, policy, reward, seed=0, repeat=0):
        if os.environ.get("LOCAL_RANK") == "1" and problems[0].id != "1":
            time.sleep(1)
            self.killed_at.write_text(str(time.time()), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("LOCAL_RANK") == "0" and problems[0].id != "0":
            time.sleep(300)
        return super().solve(problems, policy, reward, seed=seed, repeat=repeat)


class Late(BestOfN):
    """Holds up all processes but the first, before they can join it; `arrived` is a file that the first one makes."""

    arrived: Path

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        try:
            self.arrived.touch(exist_ok=False)
        except FileExistsError:
            time.sleep(300)


class Reversed(BestOfN):
    """Sorts the list of problems that it is given."""

    def solve(self, problems, policy, reward, seed=0, repeat=0):
        problems.reverse()
        return super().solve(problems, policy, reward, seed=seed, repeat=repeat)


class Misnamed(BestOfN):
    """Returns solutions of other problems."""

    def solve(self, problems, policy, reward, seed=0, repeat=0):
        solutions = super().solve(problems, policy, reward, seed=seed, repeat=repeat)
        return [solution._replace(problem_id="other") for solution in solutions]


def run(path: Path, count: int, *, devices: int, batch_size: int, method: BestOfN | None = None) -> list:
    """Solve the first problems; return the file's records without timings."""
    policy, reward = toys.policy(dtype="float32"), toys.reward(dtype="float32")
    module = prediction.Inference(method or BestOfN(**SETTINGS), policy, reward, 0)
    names = {"policy": "toy", "method": "best_of_n", "repeats": 1, "label": None, "device": "cpu", "threads": 1}
    prediction.run(module, PROBLEMS[:count], path, **names, devices=devices, batch_size=batch_size)
    return without_timings(read_records(path))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "batch_size"), [(1, 2), (5, 2)])
def test_records_of_two_processes_are_those_of_one(tmp_path: Path, monkeypatch, capfd, count: int, batch_size: int):
    for name in ("NTASKS", "NTASKS_PER_NODE", "NNODES"):  # a job of SLURM starts one task, which starts the others
        monkeypatch.setenv(f"SLURM_{name}", "1")
    one = run(tmp_path / "one.jsonl", count, devices=1, batch_size=batch_size)
    two = run(tmp_path / "two.jsonl", count, devices=2, batch_size=batch_size)
    assert two == one
    assert len(one) == count
    assert "istributed" not in capfd.readouterr().err, "Lightning would say it for every cell"
    assert "MASTER_PORT" not in os.environ, "a port that was used may be taken when the next cell begins"


@pytest.mark.slow
def test_killed_process_ends_the_others_and_the_run_resumes(tmp_path: Path):
    path, killed = tmp_path / "records.jsonl", tmp_path / "killed"
    method = Dying(**SETTINGS)
    method.killed_at = killed
    with pytest.raises(ProcessError, match=r"process 1 of this cell was killed by SIGKILL.*same command resumes"):
        run(path, 5, devices=2, batch_size=1, method=method)
    assert time.time() - float(killed.read_text(encoding="utf-8")) < 15, "at once, not after torch's 30 s"
    assert not multiprocessing.active_children()
    kept = read_records(path)
    assert sorted(record["problem_id"] for record in kept) == ["0", "1"]
    assert all(record["status"] == "ok" for record in kept), "what the signal interrupted is not a failed problem"
    resumed = run(path, 5, devices=2, batch_size=1)
    assert resumed == run(tmp_path / "one.jsonl", 5, devices=1, batch_size=1)


@pytest.mark.slow
def test_solutions_are_graded_with_their_own_problems(tmp_path: Path):
    expected = run(tmp_path / "plain.jsonl", 3, devices=1, batch_size=3)
    one_by_one = run(tmp_path / "reversed.jsonl", 3, devices=1, batch_size=3, method=Reversed(**SETTINGS))
    assert [record["response"] for record in one_by_one] == [record["response"] for record in expected]
    assert [record["problem_id"] for record in one_by_one] == ["0", "1", "2"]
    failed = run(tmp_path / "misnamed.jsonl", 2, devices=1, batch_size=2, method=Misnamed(**SETTINGS))
    assert {record["status"] for record in failed} == {"failed"}
    assert all("one solution per problem, in their order; got problems" in record["error"] for record in failed)


@pytest.mark.slow
def test_process_that_does_not_join_in_time_ends_the_run(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(processes, "START_SECONDS", 5)
    method = Late(**SETTINGS)
    method.arrived = tmp_path / "arrived"
    with pytest.raises(ProcessError, match="did not all start within 5 s"):
        run(tmp_path / "records.jsonl", 2, devices=2, batch_size=1, method=method)
    assert not multiprocessing.active_children()


def test_progress_bar_of_a_terminal_can_be_sent_to_another_process(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert pickle.loads(pickle.dumps(prediction.ProgressBar("cell 1/2"))).label == "cell 1/2"


def test_reward_has_the_device_that_the_setting_names(monkeypatch):
    cards = {place: processes.reward_device(torch.device("cuda", 2), place) for place in REWARD_DEVICES}
    assert {place: str(device) for place, device in cards.items()} == {"same": "cuda:2", "next": "cuda:3", "cpu": "cpu"}
    assert processes.devices(3, "same") == 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes.devices(2, "next") == [0, 2]
    with pytest.raises(ValueError, match="two GPUs for each of 3 processes; found 4"):
        processes.devices(3, "next")


def test_reward_of_its_own_device_is_moved_there_and_not_by_lightning():
    policy, reward = toys.policy(dtype="float32"), toys.reward(dtype="float32", reference=True)
    together = prediction.Inference(BestOfN(**SETTINGS), policy, reward, 0)
    assert {id(model) for model in together.models} == {id(m.model) for m in (policy, reward, reward.reference)}
    apart = prediction.Inference(BestOfN(**SETTINGS), policy, reward, 0, "cpu")
    assert [model for model in apart.modules() if model in (reward.model, reward.reference.model)] == []
    apart.to("meta")  # stands for the GPU that Lightning moves the policy to
    apart.on_predict_start()
    assert {policy.device.type, reward.device.type, reward.reference.device.type} == {"meta", "cpu"}
    assert reward.device.type == reward.reference.device.type == "cpu"


@pytest.mark.parametrize(
    ("platform", "gpu", "method"),
    [("linux", False, "forkserver"), ("linux", True, "spawn"), ("darwin", False, "spawn")],
)
def test_processes_are_copies_of_one_only_where_that_is_safe(monkeypatch, platform: str, gpu: bool, method: str):
    monkeypatch.setattr(processes.sys, "platform", platform)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert processes.start_method() == method


def raised(error: Exception) -> Exception:
    with pytest.raises(Exception, match=".") as caught, processes.described_errors():
        raise error
    return caught.value


def test_processes_are_of_this_machine_whatever_a_launcher_left_in_the_environment(monkeypatch):
    """With another rank or address the processes waited ten minutes for each other."""
    for name, value in {"NODE_RANK": "1", "GROUP_RANK": "2", "MASTER_ADDR": "nosuchhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    surroundings = processes.environment()
    assert (surroundings.node_rank(), surroundings.main_address) == (0, "127.0.0.1")
    assert surroundings.main_port == pickle.loads(pickle.dumps(surroundings)).main_port > 1023


def test_errors_of_processes_are_told_in_one_line():
    full = raised(
        ProcessRaisedException("\n\n-- Process 1\nOSError: [Errno 28] No space left on device: 'a.jsonl'", 1, 9)
    )
    assert isinstance(full, OSError)
    assert (full.errno, full.strerror, full.filename) == (28, "No space left on device", "a.jsonl")
    other = raised(ProcessRaisedException("Traceback\n  line\nRuntimeError: CUDA error: device-side assert", 1, 9))
    assert "process 1 of this cell raised RuntimeError: CUDA error: device-side assert" in str(other)
    ended = raised(ProcessExitedException("", 0, 9, exit_code=3))
    assert "process 0 of this cell ended with status 3" in str(ended)
    for error in (other, ended):
        assert isinstance(error, ProcessError)
        assert "\n" not in str(error)


def test_sorted_records_keep_their_bytes_and_drop_a_cut_line(tmp_path: Path):
    path = tmp_path / "records.jsonl"
    lines = [f'{{"problem_id": "{name}", "repeat": {repeat}, "é": 1.50}}' for name, repeat in ("b1", "a1", "a0")]
    path.write_text("\n".join(lines) + '\n{"problem_id": "c', encoding="utf-8")
    sort_records(path, [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1)])
    assert path.read_text(encoding="utf-8") == "\n".join(reversed(lines)) + "\n"
    before = path.stat().st_mtime_ns
    sort_records(path, [("a", 0), ("a", 1), ("b", 1)])
    assert path.stat().st_mtime_ns == before, "a file in order is left alone"
