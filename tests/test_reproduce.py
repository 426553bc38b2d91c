"""reproduce.sh: targets, exit status, and a run that resumes after SIGKILL."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_runs
from command_processes import shared

from nabla_reasoner.config.targets import targets

ROOT = Path(__file__).resolve().parents[1]


def reproduce(*words: str, **settings) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", str(ROOT / "reproduce.sh"), *words], capture_output=True, text=True, **settings)


def test_help_names_every_target_and_needs_no_python(tmp_path: Path):
    shown = reproduce("help", env={"PATH": "/usr/bin:/bin"}, cwd=tmp_path)
    assert shown.returncode == 0
    for name, target in targets().items():
        assert f"\n  {name} " in shown.stdout
        assert target.summary in shown.stdout


def test_link_to_the_script_is_followed_to_its_checkout(tmp_path: Path):
    (tmp_path / "run").symlink_to(ROOT / "reproduce.sh")
    shown = subprocess.run(["bash", str(tmp_path / "run"), "help"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert shown.stdout == reproduce("help").stdout


def test_exported_search_path_of_cd_leads_to_no_other_checkout(tmp_path: Path):
    (tmp_path / ROOT.name / "configs/experiment").mkdir(parents=True)
    words = ["bash", f"{ROOT.name}/reproduce.sh", "help"]
    shown = subprocess.run(
        words, env={**os.environ, "CDPATH": str(tmp_path)}, cwd=ROOT.parent, capture_output=True, text=True
    )
    assert (shown.returncode, shown.stdout) == (0, reproduce("help").stdout)


def test_path_with_a_colon_is_refused(tmp_path: Path):
    folder = tmp_path / "a:b"
    folder.mkdir()
    (folder / "reproduce.sh").write_bytes((ROOT / "reproduce.sh").read_bytes())
    refused = subprocess.run(["bash", str(folder / "reproduce.sh"), "help"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "must hold no colon" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "locale",
    [{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}],
    ids=["locale C", "ASCII output"],
)
def test_ascii_output_ends_no_command(locale: dict[str, str]):
    words = [sys.executable, "-m", "nabla_reasoner", "help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **locale}
    shown = subprocess.run(words, env=environment, capture_output=True)
    assert shown.returncode == 0, shown.stderr
    assert b"-Reasoner as released" in shown.stdout


def test_unknown_target_lists_valid_ones_and_exits_2():
    begin = time.monotonic()
    refused = reproduce("tabel1")
    assert time.monotonic() - begin < 1
    assert refused.returncode == 2
    for name in [*targets(), "test", "help"]:
        assert name in refused.stderr


def test_old_python_is_refused_with_reason(tmp_path: Path):
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14", "python"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    script = (ROOT / "reproduce.sh").read_text(encoding="utf-8")
    (tmp_path / "reproduce.sh").write_text(script, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("", encoding="utf-8")
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    (tmp_path / "configs" / "experiment" / "plan.yaml").touch()
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    refused = subprocess.run(
        ["bash", str(tmp_path / "reproduce.sh"), "plan", "table1"], capture_output=True, text=True, env=environment
    )
    assert refused.returncode != 0
    assert "Python 3.11 or newer" in refused.stderr


@pytest.mark.slow
def test_terminated_run_stops_and_explains_how_to_resume(tmp_path: Path):
    """Lightning only records SIGTERM; a scheduler that sent it would then kill the run without a summary."""
    words = toy_runs.command(tmp_path, "method=greedy,best_of_n,nabla_reasoner", "num_problems=200")
    run, seen = shared().start_command(words, os.environ), tmp_path / "tiny" / "table1" / "records"
    while run.join(0.02) is None and not list(seen.glob("*greedy*.jsonl")):
        pass
    run.send_signal(signal.SIGTERM)
    done = run.result()
    assert done.returncode == 130
    assert "Run the same command again to resume" in done.stderr
    assert json.loads((tmp_path / "tiny" / "table1" / "summary.json").read_text())["status"] == "interrupted"
