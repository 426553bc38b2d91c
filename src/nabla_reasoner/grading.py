"""Grading: takes the answer out of a response and compares it with the reference.

Generated tasks are scored by `reasoning-gym` itself. Everything else is compared by `math-verify` in a process of its
own, which is killed when an answer takes too long. Nothing is ever guessed: a response that does not state its answer
has none.
"""

import atexit
import contextlib
import functools
import json
import os
import re
import selectors
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from .problems import Problem

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


class Grade(NamedTuple):
    """The grader's verdict.

    Attributes:
        extracted: the answer that was taken out of the response; None when it states none.
        correct: whether it equals the reference.
        note: why the comparison could not be finished, if so (then `correct` is False).
    """

    extracted: str | None
    correct: bool
    note: str | None = None


def grade(problem: Problem, response: str, finished: bool = True) -> Grade:
    """Grade a response.

    Args:
        problem: its `answer` must be known.
        response: text of the response.
        finished: False when the response was cut off; then only a complete, explicit answer counts.

    Raises:
        ValueError: the problem has no reference answer.
    """
    if problem.answer is None:
        raise ValueError(f"a problem needs a reference answer to be graded; {problem.id!r} has none. Give one.")
    extracted = extract_answer(response, problem.task, finished)
    if extracted is None:
        return Grade(None, False)
    if problem.metadata is None:
        return Grade(extracted, *_verified(problem.answer, extracted))
    entry = {"question": problem.question, "answer": problem.answer, "metadata": problem.metadata}
    try:
        return Grade(extracted, bool(score_function(problem.task)(extracted, entry) == 1.0))
    except Exception as error:  # some of the library's scorers trip over malformed answers
        return Grade(extracted, False, f"{type(error).__name__}: {str(error)[:200]}")


def is_generated(task: str) -> bool:
    """Whether `reasoning-gym` makes and scores this task."""
    from reasoning_gym.factory import DATASETS

    return task in DATASETS


@functools.lru_cache
def score_function(task: str) -> Callable[[str, dict[str, Any]], float]:
    """The library's own verifier; 1.0 means correct, partial credit is none here."""
    from reasoning_gym.factory import get_score_answer_fn

    return get_score_answer_fn(task)


def extract_answer(response: str, task: str, finished: bool = True) -> str | None:
    r"""The answer that a response states, or None.

    Generated tasks: the last `<answer>…</answer>`, else the last `\boxed{…}`, else what follows the last "=" on its
    line. Benchmarks: the last `\boxed{…}`, else what follows the last "####" on its line. Both: else what follows the
    last "answer is" or "answer:" on its line. There is no last-number rule.

    Args:
        response: text of the response.
        task: decides which rules hold.
        finished: False when the response was cut off; then only the rules with a closing mark are used.
    """
    generated = is_generated(task)
    tagged = re.findall(r"<answer>(.*?)</answer>", response, re.DOTALL) if generated else []
    if tagged:
        return tagged[-1].strip() or None
    boxed = last_boxed(response)
    if boxed is not None:
        return boxed or None
    if not finished:
        return None
    if generated and "=" in response:
        return _trimmed(response.rpartition("=")[2])
    marked = [] if generated else re.findall(r"####\s*([^\n]+)", response)
    stated = marked or re.findall(r"\banswer(?:\s+is\b|\s*:)[\s*:]*([^\n]+)", response, re.IGNORECASE)
    return _trimmed(stated[-1]) if stated else None


def _trimmed(text: str) -> str | None:
    """The first line of `text` without the marks of prose, Markdown or mathematics mode around it."""
    line = text.strip().partition("\n")[0]
    line = re.sub(r"^(?:\\\(|\\\[|[\s*`$])+|(?:\\\)|\\\]|[\s*`$.,;:])+$", "", line)
    return line or None


def last_boxed(text: str) -> str | None:
    r"""What the last complete `\boxed{…}` (or `\fbox{…}`) holds, braces balanced; None when there is none."""
    for match in reversed(list(re.finditer(r"\\f?box(?:ed)?\s*\{", text))):
        depth, start = 1, match.end()
        for mark in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
            depth += {"{": 1, "}": -1}.get(mark.group(), 0)
            if depth == 0:
                return text[start : start + mark.start()].strip()
    return None


def answers_match(a: str | None, b: str | None, task: str) -> bool:
    """Whether two extracted answers are the same for a vote: equal text, or equal mathematics for benchmarks."""
    if a is None or b is None:
        return False
    if is_generated(task):
        return _plain(a) == _plain(b)
    return _verified(a, b)[0]


def _plain(text: str) -> str:
    return " ".join(text.split())


@functools.lru_cache(maxsize=100_000)
def _verified(gold: str, answer: str) -> tuple[bool, str | None]:
    """Whether an answer equals the reference, and why that could not be found out."""
    if _plain(gold) == _plain(answer):
        return True, None
    word = re.fullmatch(r"\\text(?:bf|it|rm)?\{([^{}]*)\}", gold.strip())
    if word:  # math-verify reads letters as a product of symbols: "seat" would equal "east"
        return _word(word[1]) == _word(re.sub(r"\\text(?:bf|it|rm)?|[{}$]", "", answer)), None
    return worker().verify(gold, answer)


def _word(text: str) -> str:
    return _plain(text).strip("().,").casefold()


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
