"""Caches of the hub that tests write, and Python code that reads them in a process of its own."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def write(cache: Path, commits: Mapping[str, Path]) -> None:
    """Write the model owner/toy into a cache; the last commit is that of `main`.

    Args:
        commits: folder of each commit.
    """
    repository = cache / "models--owner--toy"
    for commit, folder in commits.items():
        shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(list(commits)[-1], encoding="utf-8")


def in_own_process(code: str, cache: Path) -> str:
    """Return what Python code prints with this cache of the hub."""
    variables = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout
