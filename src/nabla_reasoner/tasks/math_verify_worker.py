"""math-verify in a process of its own, which can be stopped when it hangs."""

import atexit
import contextlib
import functools
import json
import os
import selectors
import subprocess
import sys
import threading

TIMEOUT_SECONDS = 10.0  # per answer; our choice
START_SECONDS = 120.0  # for the worker to import math-verify on a busy machine
MEMORY_BYTES = 4 * 2**30  # of address space; an answer such as 9^9^9 must not take the machine's memory
# The worker reads [gold, answer] and writes [correct, note], a line each. It is a program and not a function, so that
# the process imports neither the caller's main module nor torch. math-verify's own alarms are off: a signal cannot
# interrupt a long operation inside one bytecode (a power of huge integers), a kill can. The alarm below has its
# default action, which ends the process wherever it is: nothing is left running when the parent itself was killed.
WORKER = """
import json, resource, signal, sys
replies, sys.stdout = sys.stdout, sys.stderr
try:
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_AS)[1]))
except (ValueError, OSError):
    pass
from math_verify import parse, verify
print("ready", file=replies, flush=True)
for line in sys.stdin:
    gold, answer = json.loads(line)
    signal.alarm(int(sys.argv[2]))
    try:
        target = parse("$" + gold + "$", parsing_timeout=None)
        given = parse("\\\\boxed{" + answer + "}", parsing_timeout=None)
        reply = [bool(verify(target, given, timeout_seconds=None)), None if target else "reference not understood"]
    except (Exception, MemoryError, RecursionError) as error:
        reply = [False, type(error).__name__ + ": " + str(error)[:200]]
    signal.alarm(0)
    print(json.dumps(reply), file=replies, flush=True)
"""


class Worker:
    """A process that compares answers with math-verify, started when first asked and again after it was killed.

    Args:
        timeout_seconds: limit per comparison, > 0.
    """

    def __init__(self, timeout_seconds: float | int = TIMEOUT_SECONDS):
        self.timeout_seconds = timeout_seconds
        self.process: subprocess.Popen | None = None
        self.owner = os.getpid()
        self.lock = threading.Lock()
        atexit.register(self.stop)

    def verify(self, gold: str, answer: str) -> tuple[bool, str | None]:
        """Whether the answer equals the reference, and the reason when that could not be found out.

        Raises:
            RuntimeError: the worker cannot be started (math-verify is missing, or the machine is out of memory).
        """
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.stop()
                self._start()
            try:
                self.process.stdin.write(json.dumps([gold, answer]) + "\n")
                self.process.stdin.flush()
                reply = self._reply(self.timeout_seconds)
            except BrokenPipeError:
                reply = ""
            if reply:
                correct, note = json.loads(reply)
                return correct, note
            self.stop()
            if reply is None:
                return False, f"grading took more than {self.timeout_seconds:g} seconds"
            return False, "the grading process died"

    def _start(self) -> None:
        command = [sys.executable, "-c", WORKER, str(MEMORY_BYTES), str(int(2 * self.timeout_seconds) + 1)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # an interrupt at the keyboard is the parent's to handle
        )
        if not self._reply(START_SECONDS):
            self.stop()
            raise RuntimeError("the grading process must start; it did not. Is math-verify[antlr4_9_3] installed?")

    def _reply(self, seconds: float | int) -> str | None:
        """The next line; None when none came in time, "" when the process has died."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            return self.process.stdout.readline() if selector.select(seconds) else None

    def stop(self) -> None:
        """Kill the process, if there is one; a forked child leaves its parent's alone."""
        if self.process is not None and self.owner == os.getpid():
            self.process.kill()
            self.process.wait()
            with contextlib.suppress(BrokenPipeError):  # a request that the process did not live to read
                self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


@functools.lru_cache
def _worker(pid: int) -> Worker:
    return Worker()


def worker() -> Worker:
    """The worker of this process; a forked child gets one of its own, since two may not share a pipe."""
    return _worker(os.getpid())
