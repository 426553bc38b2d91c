"""Cells as jobs of submitit, run by its local executor: records, pre-emption, refusals."""

import os
import signal
from pathlib import Path

import command_processes
import pytest
from toy_runs import command, records_below

from nabla_reasoner.__main__ import FAILED, WRONG, main
from nabla_reasoner.config.compose import compose_cells
from nabla_reasoner.evaluation.cell_records import locked, record_file
from nabla_reasoner.evaluation.records import settings_path
from nabla_reasoner.experiments import launching

LOCAL = ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=60", "hydra.sweeper.max_batch_size=null")
PROBLEMS = 16  # of the job that is pre-empted while it solves them
installed = pytest.mark.skipif(
    not launching._installed(), reason="needs hydra-submitit-launcher: pip install -e '.[reference]'"
)


def jobs_below(folder: Path) -> list[int]:
    """Return the processes of submitit's jobs whose files lie in this folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode().split("\0")
        except OSError:  # it has ended
            continue
        if "submitit.core._submit" in words and any(word.startswith(str(folder)) for word in words):
            found.append(int(file.parent.name))
    return found


@installed
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the job's process in Linux's /proc")
def test_preempted_job_is_queued_again_and_resumes(tmp_path: Path):
    """One cell; its job gets SIGUSR2 in the middle. A job that began anew with overwrite=true would lose records."""
    words = ["method=best_of_n", f"num_problems={PROBLEMS}", "batch_size=1", "max_new_tokens=40", "overwrite=true"]
    launched = command(tmp_path / "jobs", *words, *LOCAL)
    run = command_processes.shared().start_command(launched, os.environ)
    lines: list[int] = []
    while run.join(0.02) is None and not (lines and 3 <= lines[-1] < PROBLEMS):
        lines = [len(path.read_bytes().splitlines()) for path in (tmp_path / "jobs").rglob("*.jsonl")]
    (job,) = jobs_below(tmp_path)
    os.kill(job, signal.SIGUSR2)
    done = run.result()
    assert done.returncode == 0, done.stdout + done.stderr
    logs = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "jobs").rglob("*_log.*"))
    assert "Requeued job" in logs
    plain = command_processes.shared().run_command(command(tmp_path / "plain", *words), os.environ)
    assert plain.returncode == 0, plain.stderr
    (expected,), (actual,) = (records_below(tmp_path / name).values() for name in ("plain", "jobs"))
    assert actual == expected
    assert len(expected) == PROBLEMS
    summary = next((tmp_path / "jobs").rglob("table.md")).read_text(encoding="utf-8")
    assert f"{PROBLEMS} x 1" in summary, "the table counts what the jobs wrote"


def with_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that submitit is installed and that SLURM's srun is on the PATH."""
    monkeypatch.setattr(launching, "_installed", lambda: True)
    commands = folder / "slurm"
    commands.mkdir()
    (commands / "srun").touch(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)


@pytest.mark.slow
def test_slurm_that_is_missing_is_refused(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(launching, "_installed", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(command(tmp_path, "method=greedy", "hydra/launcher=submitit_slurm")) == WRONG
    told = capsys.readouterr().err
    assert "srun must be on the PATH" in told
    assert "hydra/launcher=submitit_local" in told
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.slow
def test_launcher_that_is_not_installed_is_refused(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(launching, "_installed", lambda: False)
    assert main(command(tmp_path, "method=greedy", "hydra/launcher=submitit_slurm")) == WRONG
    told = capsys.readouterr().err
    assert "hydra/launcher=submitit_slurm needs the package hydra-submitit-launcher" in told
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.slow
def test_cell_that_a_job_still_solves_is_refused(tmp_path: Path, capsys):
    words = command(tmp_path, "method=greedy")
    cell = compose_cells(["experiment=table1", *words[1:]])[0]
    with locked(cell):
        assert settings_path(record_file(cell)).exists()
        assert main(words) == FAILED
    assert "another process solves the problems of" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.jsonl"))
    assert not settings_path(record_file(cell)).exists(), "an empty file would be taken for damaged settings"
    assert main(words) == 0


def test_failed_job_is_told_and_its_cell_is_not_done(tmp_path: Path, capsys, monkeypatch):
    def broken(overrides, runner):
        raise RuntimeError("job 17 died")

    monkeypatch.setattr(launching, "_launch", broken)
    with_slurm(tmp_path, monkeypatch)
    assert main(command(tmp_path, "method=greedy", "hydra/launcher=submitit_slurm")) == FAILED
    told = capsys.readouterr().err
    assert "a job failed (RuntimeError: job 17 died)" in told
    assert "not done: tiny-base products greedy seed 0 (5 of 5 problems)" in told


@pytest.mark.slow
@pytest.mark.parametrize("solved", [0, 2])
def test_records_survive_a_launch_that_solves_nothing(tmp_path: Path, capsys, monkeypatch, solved: int):
    words = command(tmp_path, "method=greedy")
    assert main(words) == 0
    (path,) = tmp_path.rglob("*.jsonl")
    before = {file: file.read_bytes() for file in (path, settings_path(path))}

    def launch(overrides, runner):
        assert not path.exists(), "jobs begin anew"
        assert overrides[-1] == "overwrite=false"
        settings_path(path).write_text("{}", encoding="utf-8")
        path.write_bytes(b"".join(before[path].splitlines(keepends=True)[:solved]))
        if not solved:
            path.unlink()
        raise RuntimeError("sbatch: not found")

    monkeypatch.setattr(launching, "_launch", launch)
    with_slurm(tmp_path, monkeypatch)
    assert main([*words, "overwrite=true", "hydra/launcher=submitit_slurm"]) == FAILED
    told = capsys.readouterr().err
    assert "a job failed (RuntimeError: sbatch: not found)" in told
    assert f"words are in {tmp_path / 'tiny' / 'table1' / '.submitit'}" in told
    assert ("whose earlier records are kept" in told) == (not solved)
    if solved:
        assert path.read_bytes().count(b"\n") == solved
    else:
        assert {file: file.read_bytes() for file in before} == before
    assert not list(tmp_path.rglob("*.replaced"))


@pytest.mark.slow
def test_records_of_a_running_job_are_not_replaced(tmp_path: Path, capsys, monkeypatch):
    words = command(tmp_path, "method=greedy")
    assert main(words) == 0
    with_slurm(tmp_path, monkeypatch)
    (path,) = tmp_path.rglob("*.jsonl")
    with locked(compose_cells(["experiment=table1", *words[1:]])[0]):
        assert main([*words, "overwrite=true", "hydra/launcher=submitit_slurm"]) == WRONG
    assert "another process solves the problems of" in capsys.readouterr().err
    assert path.read_bytes().count(b"\n") == 5


@pytest.mark.parametrize("target", ["fidelity", "figure1", "theorem", "models"])
def test_launcher_is_refused_where_no_cells_run_as_jobs(tmp_path: Path, capsys, target: str):
    assert main([target, "hydra/launcher=submitit_slurm"]) == WRONG
    assert f"{target} computes in its own process. Leave it out." in capsys.readouterr().err


def test_setting_of_a_launcher_needs_a_launcher(tmp_path: Path, capsys):
    assert main(command(tmp_path, "method=greedy", "hydra.launcher.timeout_min=60")) == WRONG
    assert "hydra.launcher.timeout_min=60 is for a launcher, and none is chosen" in capsys.readouterr().err
