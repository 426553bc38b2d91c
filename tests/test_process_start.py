"""What a command finds when its process starts: standard streams, signals, an editor's settings, no docstrings."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMAND = f"exec '{sys.executable}' -m nabla_reasoner help"
AFTER_START = (
    f"exec '{sys.executable}' -c 'import os, signal; from nabla_reasoner.__main__ import run_process; "
    'run_process(["help"]); print(); print(signal.getsignal(signal.SIGHUP), os.environ.get("MPLBACKEND"))\''
)


def shell(line: str, **environment: str) -> subprocess.CompletedProcess:
    known = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment}
    # the tests themselves may have been started by `nohup`
    heard = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    return subprocess.run(["bash", "-c", line], env=known, capture_output=True, text=True, preexec_fn=heard)


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_missing_standard_stream_ends_no_command(closed: str):
    done = shell(f"{COMMAND} {closed}")
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (" >&-" not in f" {closed}")


@pytest.mark.slow
def test_hang_up_is_ignored_where_nohup_asks_for_it():
    ignored = shell(f"trap '' HUP; {AFTER_START}").stdout.splitlines()[-1]
    assert ignored.startswith("Handlers.SIG_IGN") or ignored.startswith("1 ")
    assert "default_int_handler" in shell(AFTER_START).stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("named", "kept"),
    [("module://backend_interagg", "None"), ("Qt4Agg", "None"), ("TkAgg", "None"), ("SVG", "SVG")],
)
def test_backend_that_writes_no_files_is_forgotten(named: str, kept: str):
    assert shell(AFTER_START, MPLBACKEND=named).stdout.split()[-1] == kept


@pytest.mark.slow
def test_python_without_docstrings_is_refused():
    done = shell(f"'{sys.executable}' -OO -m nabla_reasoner table1 num_problems=2")
    assert done.returncode == 2
    assert "docstrings must be there" in done.stderr
    assert done.stderr.count("\n") == 1
