"""Upload of offline W&B runs, in a process of its own that is ended when the server does not answer.

wandb itself waits for a silent server or proxy for over a minute, part of it when Python exits.
"""

import http.client
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from .wandb_log import import_wandb

ANSWER_SECONDS = 5  # that the server has for its first answer
RUN_SECONDS = 20  # in which the next run must be uploaded, besides the time that its models take
SLOWEST = 500_000  # bytes of models per second: a slower upload is ended
POLL_SECONDS = 0.1


class UploadError(Exception):
    """Runs were not uploaded; the message says why."""


def server_address() -> str:
    """Return the address of the W&B server that is set; wandb itself keeps that of its first run in this process."""
    return os.environ.get("WANDB_BASE_URL") or import_wandb().setup().settings.base_url


def check_server(address: str) -> None:
    """Raise UploadError if no server answers at the address within `ANSWER_SECONDS`, with any status."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(_answers(address)), daemon=True)
    thread.start()  # a thread, because looking up a name has no time limit
    thread.join(ANSWER_SECONDS)
    if answers != [True]:
        raise UploadError(f"{address} cannot be reached in {ANSWER_SECONDS} s")


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError as answer:
        answer.close()
        return True
    except (OSError, ValueError, http.client.HTTPException):  # ValueError: no address of a web server
        return False
    return True


def upload(runs: Sequence[Path], *, model_bytes: int = 0) -> None:
    """Upload offline runs with `wandb sync`.

    Args:
        runs: their folders, each in the folder `wandb` of some results.
        model_bytes: size of the models that the runs upload.

    Raises:
        UploadError: the server does not answer, refuses the key, or takes none of the runs in time.
    """
    check_server(server_address())
    environment = {name: value for name, value in os.environ.items() if name not in ("WANDB_MODE", "WANDB_SILENT")}
    words = [sys.executable, "-P", "-m", "wandb", "sync", *(str(run.resolve()) for run in runs)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            words,
            cwd=runs[0].parents[1],  # where wandb puts its log
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,  # Ctrl-C is for this process, which ends the upload
        )
        try:
            in_time = _wait(process, runs, RUN_SECONDS + model_bytes / SLOWEST)
        finally:
            process.kill()  # the process that wandb itself started ends with it
            process.wait()
        said.seek(0)
        output = said.read().decode(errors="replace")
    if _uploaded(runs) < len(runs):
        raise UploadError(_reason(output) if in_time else f"{server_address()} stopped answering")


def _wait(process: subprocess.Popen, runs: Sequence[Path], seconds: float) -> bool:
    """Wait for the end of the process; return whether it came, and every run before it, within `seconds` each."""
    count, deadline = 0, time.monotonic() + seconds
    while process.poll() is None:
        if _uploaded(runs) > count:
            count, deadline = _uploaded(runs), time.monotonic() + seconds
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def is_uploaded(run: Path) -> bool:
    """Return whether wandb has marked a run's folder as uploaded."""
    return any(run.glob("*.synced"))


def _uploaded(runs: Sequence[Path]) -> int:
    return sum(map(is_uploaded, runs))


def _reason(output: str) -> str:
    """Return wandb's own line about an error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return " ".join((errors or lines or ["wandb sync failed without a word"])[-1].split())[:200]
