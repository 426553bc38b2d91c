"""A vLLM server that is started for a run and stopped with it, in an environment of its own, on this machine only."""

import atexit
import contextlib
import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .client import Client, ServerError

HOST = "127.0.0.1"
START_SECONDS = 1800.0  # within which a server must answer; a 7B model takes minutes to load
STOP_SECONDS = 30.0  # before a server that was asked to stop is killed
CPU_CACHE_GB = "1"  # memory for keys and values on a CPU, unless VLLM_CPU_KVCACHE_SPACE says otherwise
REFUSALS = (401, 403)  # HTTP states of a server that asks for a key
TAIL = 5  # lines of the log in an error message
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
HAS_VLLM = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


class ServerSettings(NamedTuple):
    """What a server is started with.

    Attributes:
        python: Python of an environment that has vLLM.
        model: folder or hub name of the policy.
        dtype: "float32", "bfloat16", ...
        device: "cpu" or "cuda".
        max_tokens: longest text, prompt and response together.
        arguments: further arguments of vLLM's, which win over ours.
    """

    python: str
    model: str
    dtype: str
    device: str
    max_tokens: int
    arguments: Sequence[str] = ()


def check_python(python: str) -> None:
    """Raise ValueError unless `python` is a Python with vLLM."""
    try:
        check = subprocess.run([python, "-c", HAS_VLLM], capture_output=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(
            f"server_python must be the Python of an environment with vLLM; {python!r} cannot be run ({error})."
        ) from error
    if check.returncode:
        raise ValueError(
            f"server_python must be the Python of an environment with vLLM; {python} has none. "
            "docs/serving.md has the commands that make one."
        )


def command(settings: ServerSettings, port: int) -> list[str]:
    """Return the command line of a server."""
    return [
        *[settings.python, "-m", "vllm.entrypoints.openai.api_server"],
        *["--model", settings.model, "--dtype", settings.dtype, "--host", HOST, "--port", str(port)],
        *["--max-model-len", str(settings.max_tokens), "--seed", "0"],
        *["--generation-config", "vllm", "--enable-prefix-caching"],
        *(["--enforce-eager"] if settings.device == "cpu" else []),
        *settings.arguments,
    ]


class ServerProcess:
    """A running server. It ends with `stop`, with this process, and on Linux also if this process is killed.

    Args:
        settings: what it is started with.
        log: file for all that it prints.

    Attributes:
        url: its address.

    Raises:
        ValueError: it could not be started; the message has the end of its log.
    """

    def __init__(self, settings: ServerSettings, log: Path, start_seconds: float | int = START_SECONDS):
        port = _free_port()
        self.url = f"http://{HOST}:{port}"
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        arguments = command(settings, port)
        with log.open("ab") as stream:
            self._begins = stream.tell()  # what earlier servers printed stands before
            stream.write(f"{shlex.join(arguments)}\n".encode())
            stream.flush()
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=_environment(settings),
                start_new_session=True,  # Ctrl-C is for us; we then stop it
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        atexit.register(self.stop)
        try:
            self._wait(time.monotonic() + start_seconds)
        except BaseException:
            self.stop()
            raise

    def _wait(self, deadline: float) -> None:
        """Wait until the server answers."""
        client = Client(self.url, timeout=5)
        while True:
            if self._process.poll() is not None:
                raise ValueError(f"vLLM ended while it started (status {self._process.returncode}): {self._tail()}")
            try:
                client.get("/v1/models")
            except ServerError as error:
                if any(f"HTTP {status} " in str(error) for status in REFUSALS):
                    raise ValueError(f"vLLM must answer without a key; {error}. Start it without one.") from None
                if time.monotonic() > deadline:
                    raise ValueError(f"vLLM did not answer in time: {self._tail()}") from None
                time.sleep(0.2)
            else:
                return

    def _tail(self) -> str:
        text = self.log.read_bytes()[self._begins :].decode("utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return f"{' | '.join(lines[-TAIL:])}. All of it: {self.log}"

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Stop the server and the processes that it started; does nothing if it has ended.

        Interrupted while it waits, it kills them before it goes on with the interruption.
        """
        try:
            for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
                try:
                    os.killpg(self._process.pid, number)
                except ProcessLookupError:
                    break  # the whole group has ended
                try:
                    self._process.wait(seconds)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:  # Ctrl-C, SIGTERM
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            raise
        finally:
            self._process.wait()
            atexit.unregister(self.stop)


def _environment(settings: ServerSettings) -> dict[str, str]:
    """Return the environment of a server: ours, without what belongs to our own Python."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "OMP_WAIT_POLICY", "VLLM_API_KEY")
    variables = {key: value for key, value in os.environ.items() if key not in dropped}
    defaults = {"VLLM_NO_USAGE_STATS": "1"}
    if settings.device == "cpu":
        defaults["VLLM_CPU_KVCACHE_SPACE"] = CPU_CACHE_GB
    if Path(settings.model).is_dir():
        defaults["HF_HUB_OFFLINE"] = "1"
    return {**defaults, **variables}


def _end_with_parent() -> None:
    """Ask Linux to end this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]
