"""Programs that .ci/run installs while the tests run: the browser, and the environment of vLLM."""

import os
import time
from pathlib import Path

import pytest

FOLDER = "NABLA_INSTALLING"  # holds a file for each program that is still being installed
LONGEST = 600  # seconds


def needed(name: str, path: Path, how: str) -> None:
    """Wait while a program is being installed; skip the test if it is not there then.

    Args:
        name: of the file in the folder, e.g. "chromium".
        path: what must exist.
        how: what to do where it does not.
    """
    marker = Path(os.environ.get(FOLDER, "/nowhere"), name)
    end = time.monotonic() + LONGEST
    while marker.exists() and time.monotonic() < end:
        time.sleep(0.5)
    if not path.exists():
        pytest.skip(f"{path} does not exist: {how}")
