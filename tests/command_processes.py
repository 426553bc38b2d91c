"""Commands and Python code in processes of their own, forked from a process that has imported torch and the package.

A fork starts in a tenth of a second, where an own interpreter imports for seven. It ends as any Python process does,
with the handlers of `atexit`. What libraries read from the environment while they are imported, such as HF_HUB_CACHE,
is that of the server; everything else is the request's. The server has not imported wandb. A request may name another
folder to import the package from, which takes half a second; torch and the other libraries are then the server's still.
"""

import atexit
import contextlib
import functools
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SECONDS = 180
SOURCE = str(Path(__file__).resolve().parents[1] / "src")
# Secrets that test_security.py looks for in results: libraries see them while the server imports them.
PLANTED = {
    "HF_TOKEN": "hf_plantedPlantedPlantedPlanted00",
    "WANDB_API_KEY": "c0ffee" * 6 + "beef",  # of the length that wandb asks for
    "OPENAI_API_KEY": "sk-plantedOpenAiKeyPlanted",
    "VLLM_API_KEY": "planted-server-key",
    "AWS_SECRET_ACCESS_KEY": "plantedAwsSecret/0123456789",
    "https_proxy": "http://someone:plantedProxyPassword@127.0.0.1:9",
}


class Started:
    """A process that was started, in a session of its own.

    Attributes:
        pid: its number.
        stdout: file with what it has written so far.
        stderr: the same for errors.
    """

    def __init__(self, what: object, folder: Path):
        self.what, self.folder = what, folder
        self.stdout, self.stderr = (folder / name for name in ("stdout", "stderr"))
        number = self._content("pid", SECONDS)
        if not number:
            raise TimeoutError(f"{what} did not start within {SECONDS} s")
        self.pid = int(number)

    def _content(self, name: str, seconds: float) -> str:
        """Return the content of a file that is there in the end; empty if that takes longer than `seconds`."""
        end = time.monotonic() + seconds
        while not (self.folder / name).exists():
            if time.monotonic() > end:
                return ""
            time.sleep(0.01)
        return (self.folder / name).read_text(encoding="utf-8")

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def processes(self) -> list[str]:
        """Return the commands of its session that have not ended, whether or not they were waited for."""
        words = ["ps", "-s", str(self.pid), "-o", "stat=,args="]
        shown = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        return [line for line in shown.splitlines() if not line.startswith("Z")]

    def join(self, seconds: float = SECONDS) -> int | None:
        """Wait for the end, at most this long; return the exit status, as of `subprocess`, or None."""
        status = self._content("status", seconds)
        return int(status) if status else None

    def result(self) -> subprocess.CompletedProcess:
        """Wait for the end; return the exit status and what was written.

        Raises:
            TimeoutError: it took too long, and was killed.
        """
        status = self.join()
        if status is None:
            os.killpg(self.pid, signal.SIGKILL)
            raise TimeoutError(f"{self.what} took more than {SECONDS} s")
        return subprocess.CompletedProcess(
            self.what, status, *(path.read_text(encoding="utf-8") for path in (self.stdout, self.stderr))
        )


class ForkServer:
    """A process that imports what commands do with the environment it is given, and forks for each request."""

    def __init__(self, environment: Mapping[str, str]):
        self.folder, self.count = Path(tempfile.mkdtemp(prefix="nabla-forks-")), 0
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)  # the suite has removed its temporary files before

    def start_command(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        folder: Path | None = None,
        source: Path | None = None,
    ) -> Started:
        """Start `python -m nabla_reasoner` with these words, without input.

        Args:
            source: where the package is imported from; None for this checkout.
        """
        return self._start({"words": list(words)}, environment, folder, source)

    def start_code(
        self, code: str, environment: Mapping[str, str], folder: Path | None = None, source: Path | None = None
    ) -> Started:
        """Start Python code, without input. Arguments as of `start_command`."""
        return self._start({"code": code}, environment, folder, source)

    def run_command(self, *arguments: Any) -> subprocess.CompletedProcess:
        """Run `start_command` to the end; return the status and what was written."""
        return self.start_command(*arguments).result()

    def run_code(self, *arguments: Any) -> subprocess.CompletedProcess:
        """Run `start_code` to the end; return the status and what was written."""
        return self.start_code(*arguments).result()

    def _start(
        self, what: dict[str, Any], environment: Mapping[str, str], folder: Path | None, source: Path | None
    ) -> Started:
        self.count += 1
        place = self.folder / str(self.count)
        place.mkdir()
        for name in ("stdout", "stderr"):
            (place / name).touch()
        request = {**what, "environment": dict(environment), "folder": str(folder or Path.cwd()), "place": str(place)}
        self.process.stdin.write(json.dumps({**request, "source": source and str(source)}).encode() + b"\n")
        self.process.stdin.flush()
        return Started(what, place)


@functools.cache
def shared() -> ForkServer:
    """Return the server of this process, started at the first request."""
    server = ForkServer({**os.environ, **PLANTED, "PYTHONPATH": SOURCE})
    atexit.register(server.close)
    return server


def _next_request() -> dict[str, Any]:
    """Serve requests until the client has gone, which ends this process; return, in each fork, its request.

    Between the two is a process that waits for the fork, so that many can run at once.
    """
    while line := sys.stdin.readline():
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork():
            continue
        request = json.loads(line)
        child = os.fork()
        if not child:
            os.setsid()
            return request
        _write(request, "pid", child)
        _write(request, "status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os._exit(0)
    sys.exit()


def _write(request: dict[str, Any], name: str, number: int) -> None:
    """Write a file that has its content as soon as it is there."""
    path = Path(request["place"], name)
    path.with_suffix(".part").write_text(str(number), encoding="utf-8")
    path.with_suffix(".part").rename(path)


def _become(request: dict[str, Any]) -> None:
    """Give this process the environment, the folder, the streams and the package of a request."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and what `nohup` starts ignores this
    streams = [os.open(os.devnull, os.O_RDONLY)]
    for name in ("stdout", "stderr"):
        streams.append(os.open(Path(request["place"], name), os.O_WRONLY | os.O_APPEND))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if request["source"]:
        sys.path[:] = [request["source"], *(path for path in sys.path if path != SOURCE)]
        for name in [name for name in sys.modules if name.split(".")[0] == "nabla_reasoner"]:
            del sys.modules[name]


def _serve() -> None:
    runpy.run_path(str(Path(__file__).with_name("preloaded.py")))
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
