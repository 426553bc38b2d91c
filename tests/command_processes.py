"""Commands and Python code in processes of their own, forked from a process that has imported torch and the package.

A fork starts in a tenth of a second, where an own interpreter imports for seven. It ends as any Python process does,
with the handlers of `atexit`. What libraries read from the environment while they are imported, such as HF_HUB_CACHE,
is that of the server; everything else is the request's. The server has not imported wandb.
"""

import atexit
import functools
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MODULES = (  # what commands import, and what their models and tasks import when they are made
    "transformers.models.auto.modeling_auto",
    "reasoning_gym",
    "nabla_reasoner.experiments.launching",
    "nabla_reasoner.experiments.report",
    "nabla_reasoner.experiments.solve",
    "nabla_reasoner.experiments.table1",
    "nabla_reasoner.reporting.wandb_training",
    "nabla_reasoner.training.grpo",
)
SECONDS = 180


class ForkServer:
    """A process that imports `MODULES` with the environment it is given, and forks for each request."""

    def __init__(self, environment: Mapping[str, str]):
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def run_command(
        self, words: Sequence[str], environment: Mapping[str, str], folder: Path | None = None
    ) -> subprocess.CompletedProcess:
        """Run `python -m nabla_reasoner` with these words, without input; return its status and what it wrote."""
        return self._run({"words": list(words)}, environment, folder)

    def run_code(
        self, code: str, environment: Mapping[str, str], folder: Path | None = None
    ) -> subprocess.CompletedProcess:
        """Run Python code, without input; return its status and what it wrote."""
        return self._run({"code": code}, environment, folder)

    def _run(
        self, what: dict[str, Any], environment: Mapping[str, str], folder: Path | None
    ) -> subprocess.CompletedProcess:
        with tempfile.TemporaryDirectory() as place:
            outputs = [Path(place, name) for name in ("stdout", "stderr")]
            request = {**what, "environment": dict(environment), "folder": str(folder or Path.cwd())}
            self.process.stdin.write(json.dumps({**request, "outputs": [*map(str, outputs)]}).encode() + b"\n")
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], SECONDS)[0]:
                os.killpg(self.process.pid, signal.SIGKILL)
                raise TimeoutError(f"{what} took more than {SECONDS} s")
            status = json.loads(self.process.stdout.readline())
            return subprocess.CompletedProcess(what, status, *(path.read_text(encoding="utf-8") for path in outputs))


@functools.cache
def shared() -> ForkServer:
    """Return the server of this process, started at the first request."""
    server = ForkServer({**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src")})
    atexit.register(server.close)
    return server


def _next_request() -> dict[str, Any]:
    """Serve requests until the client has gone, which ends this process; return, in each fork, its request."""
    answers = os.dup(1)
    while line := sys.stdin.readline():
        child = os.fork()
        if not child:
            os.close(answers)
            return json.loads(line)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(answers, f"{status}\n".encode())
    sys.exit()


def _become(request: dict[str, Any]) -> None:
    """Give this process the environment, the folder and the streams of a request."""
    streams = [os.open(os.devnull, os.O_RDONLY)]
    streams += [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for path in request["outputs"]]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])


def _serve() -> None:
    for name in MODULES:
        importlib.import_module(name)
    request = _next_request()
    _become(request)
    if "code" in request:
        exec(request["code"], {"__name__": "__main__"})
        return
    from nabla_reasoner.__main__ import run_console

    sys.argv = ["nabla_reasoner", *request["words"]]
    run_console()


if __name__ == "__main__":
    _serve()
