"""A server that is started and stopped here: its command line, its end, and what is said if it does not start."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from command_processes import Started, shared

from nabla_reasoner.serving.client import Client, ServerError
from nabla_reasoner.serving.process import ServerProcess, ServerSettings, check_python, command

STUB = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": sys.argv[sys.argv.index("--model") + 1]}]}).encode())

host, port = (sys.argv[sys.argv.index(name) + 1] for name in ("--host", "--port"))
HTTPServer((host, int(port)), Handler).serve_forever()
"""


def python(folder: Path, script: str, found: int = 0) -> str:
    """Write a file that stands for a Python with vLLM: it runs `script` as if it were vLLM's server."""
    (folder / "stub.py").write_text(script)
    path = folder / "python"
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = -c ]; then exit {found}; fi\nexec {sys.executable} {folder / "stub.py"} "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


def settings(path: str, *arguments: str) -> ServerSettings:
    return ServerSettings(path, "the-model", "float32", "cpu", 256, arguments)


def test_command_names_every_setting_and_the_users_arguments_come_last():
    line = command(ServerSettings("py", "m", "bfloat16", "cuda", 512, ["--gpu-memory-utilization", "0.5"]), 8001)
    assert line[:3] == ["py", "-m", "vllm.entrypoints.openai.api_server"]
    for key, value in {
        "--host": "127.0.0.1",
        "--port": "8001",
        "--max-model-len": "512",
        "--dtype": "bfloat16",
    }.items():
        assert line[line.index(key) + 1] == value
    assert line[line.index("--generation-config") + 1] == "vllm", "settings of the model's own do not apply"
    assert "--enable-prefix-caching" in line
    assert "--enforce-eager" not in line
    assert line[-2:] == ["--gpu-memory-utilization", "0.5"]
    assert "--enforce-eager" in command(settings("py"), 1)


def test_server_answers_until_it_is_stopped(tmp_path: Path):
    process = ServerProcess(settings(python(tmp_path, STUB)), tmp_path / "server.log")
    client = Client(process.url)
    assert process.url.startswith("http://127.0.0.1:")
    assert client.get("/v1/models")["data"][0]["id"] == "the-model"
    process.stop()
    assert not process.running
    with pytest.raises(ServerError):
        client.get("/v1/models")
    process.stop()


@pytest.mark.slow
def test_server_that_ends_at_its_start_is_reported_with_the_end_of_its_log(tmp_path: Path):
    path = python(tmp_path, "print('no such head size: 28'); raise SystemExit(3)")
    with pytest.raises(
        ValueError, match=r"vLLM ended while it started \(status 3\): .*no such head size: 28.*server.log"
    ):
        ServerProcess(settings(path), tmp_path / "server.log")


@pytest.mark.slow
def test_server_that_never_answers_is_ended(tmp_path: Path):
    path = python(
        tmp_path, f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(99)"
    )
    with pytest.raises(ValueError, match="did not answer in time"):
        ServerProcess(settings(path), tmp_path / "server.log", start_seconds=1)
    pid = int((tmp_path / "pid").read_text() or 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_log_of_an_earlier_server_is_not_blamed(tmp_path: Path):
    log = tmp_path / "server.log"
    with pytest.raises(ValueError, match="no such head size"):
        ServerProcess(settings(python(tmp_path, "print('no such head size: 28'); raise SystemExit(3)")), log)
    with pytest.raises(ValueError, match=r"status 4") as caught:
        ServerProcess(settings(python(tmp_path, "raise SystemExit(4)")), log)
    assert "no such head size" not in str(caught.value)


@pytest.mark.slow
def test_server_that_asks_for_a_key_is_refused_at_once(tmp_path: Path, monkeypatch):
    """A key in the environment is ours, not the server's; one that asks for another is not waited for."""
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    asking = STUB.replace("send_response(200)", "send_response(401 if 'VLLM_API_KEY' in os.environ else 200)")
    process = ServerProcess(settings(python(tmp_path, "import os" + asking)), tmp_path / "server.log", start_seconds=20)
    process.stop()
    begin = time.monotonic()
    with pytest.raises(ValueError, match="must answer without a key; .*HTTP 403"):
        ServerProcess(settings(python(tmp_path, STUB.replace("(200)", "(403)"))), tmp_path / "log", start_seconds=60)
    assert time.monotonic() - begin < 30


def first_line(run: Started) -> str:
    """Return the first line of a process's output, once it is there."""
    while run.join(0.02) is None and "\n" not in run.stdout.read_text(encoding="utf-8"):
        pass
    return run.stdout.read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.slow
def test_second_interruption_while_a_server_stops_leaves_none(tmp_path: Path):
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + STUB
    code = (
        "import sys, time; from pathlib import Path\n"
        "from nabla_reasoner.serving.process import ServerProcess, ServerSettings\n"
        f"settings = ServerSettings({python(tmp_path, deaf)!r}, 'm', 'float32', 'cpu', 9)\n"
        f"process = ServerProcess(settings, Path({str(tmp_path / 'log')!r}))\n"
        "try:\n    print(process.url, flush=True); time.sleep(99)\nfinally:\n    process.stop()"
    )
    run = shared().start_code(code, os.environ)
    url = first_line(run)
    for _ in range(2):
        run.send_signal(signal.SIGINT)
        time.sleep(1)
    assert run.join(20) is not None
    with pytest.raises(ServerError):
        Client(url, timeout=2).get("/v1/models")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its killed parent")
def test_server_ends_if_the_run_is_killed(tmp_path: Path):
    path = python(tmp_path, STUB)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from nabla_reasoner.serving.process import ServerProcess, ServerSettings\n"
        f"settings = ServerSettings({path!r}, 'm', 'float32', 'cpu', 9)\n"
        f"process = ServerProcess(settings, Path({str(tmp_path / 'log')!r}))\n"
        "print(process.url, flush=True); time.sleep(99)"
    )
    run = shared().start_code(code, os.environ)
    url = first_line(run)
    assert Client(url).get("/v1/models")
    run.send_signal(signal.SIGKILL)
    run.join()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            Client(url, timeout=1).get("/v1/models")
        except ServerError:
            return
        time.sleep(0.05)
    pytest.fail(f"{url} still answers")


@pytest.mark.parametrize(("found", "message"), [(1, "has none"), (0, None)])
def test_python_without_vllm_is_refused(tmp_path: Path, found: int, message: str | None):
    path = python(tmp_path, STUB, found)
    if message is None:
        check_python(path)
        return
    with pytest.raises(ValueError, match=message):
        check_python(path)
    with pytest.raises(ValueError, match="cannot be run"):
        check_python(str(tmp_path / "missing"))
