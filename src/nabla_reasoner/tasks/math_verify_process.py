"""math-verify in a separate process, which is killed if a comparison takes too long."""

import atexit
import contextlib
import functools
import json
import os
import selectors
import subprocess
import sys
import threading
from pathlib import Path

PROGRAM = Path(__file__).with_name("math_verify_worker.py")
TIMEOUT_SECONDS = 10.0  # per comparison; our choice
START_SECONDS = 120.0  # enough to import math-verify on a busy machine
MEMORY_BYTES = 4 * 2**30  # limit of the address space, for answers such as 9^9^9


class Worker:
    """A process that compares answers; started by the first comparison and again after it was killed.

    Args:
        timeout_seconds: limit of one comparison, > 0.
    """

    def __init__(self, timeout_seconds: float | int = TIMEOUT_SECONDS):
        self.timeout_seconds = timeout_seconds
        self.process: subprocess.Popen | None = None
        self.owner = os.getpid()
        self.lock = threading.Lock()
        atexit.register(self.stop)

    def verify(self, first: str, second: str) -> tuple[bool, str | None]:
        """Return whether two answers in LaTeX are equal, and why the comparison failed, if it did.

        Raises:
            RuntimeError: the process cannot be started (math-verify is missing, or the machine is out of memory).
        """
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.stop()
                self._start()
            try:
                self.process.stdin.write(json.dumps([first, second]) + "\n")
                self.process.stdin.flush()
                reply = self._reply(self.timeout_seconds)
            except BrokenPipeError:
                reply = ""
            if reply:
                equal, note = json.loads(reply)
                return equal, note
            self.stop()
            if reply is None:
                return False, f"grading took more than {self.timeout_seconds:g} seconds"
            return False, "the grading process died"

    def _start(self) -> None:
        # -P and not -I: the program's own folder must not shadow other modules, but PYTHONPATH and the user's
        # site-packages may be where math-verify is installed
        command = [sys.executable, "-P", str(PROGRAM), str(MEMORY_BYTES), str(int(2 * self.timeout_seconds) + 1)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # a keyboard interrupt must reach the parent only
        )
        if not self._reply(START_SECONDS):
            self.stop()
            raise RuntimeError(
                "the grading process must start; it did not. Check that math-verify[antlr4-9-3] is installed."
            )

    def _reply(self, seconds: float | int) -> str | None:
        """Return the next line; None if none came in time, "" if the process has died."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            return self.process.stdout.readline() if selector.select(seconds) else None

    def stop(self) -> None:
        """Kill the process if it runs; in a forked child, leave the parent's process alone."""
        if self.process is not None and self.owner == os.getpid():
            self.process.kill()
            self.process.wait()
            with contextlib.suppress(BrokenPipeError):  # the process may not have read the last request
                self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


@functools.lru_cache
def _worker(pid: int) -> Worker:
    return Worker()


def worker() -> Worker:
    """Return this process's worker; a forked child gets its own, because two processes cannot share a pipe."""
    return _worker(os.getpid())
