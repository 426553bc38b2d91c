"""The run summary (`summary.json`): command, settings, commit, versions, hardware and time."""

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .. import cost
from ..config.data_folder import repository
from .json_files import StoredSummary, read_object, warn_once

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "jinja2",
    "lightning",
    "hydra-core",
    "reasoning-gym",
    "math-verify",
    "latex2sympy2_extended",
    "sympy",
    "numpy",
    "scipy",
    "pandas",
    "wandb",
)


def commit() -> dict[str, Any]:
    """Return the git commit of this copy and whether tracked files differ from it; nulls outside a repository.

    A repository in which the package is only installed does not count. figures/ is not compared, because commands
    draw it again.
    """
    folder = repository()
    if folder is None:
        return {"commit": None, "dirty": None}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
        status = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!figures")
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": head, "dirty": bool(status)}


def device_facts(device: str) -> dict[str, Any]:
    """Return name and number of the devices that a run used."""
    if device != "cpu":
        return {"device": torch.cuda.get_device_name(device), "count": torch.cuda.device_count()}
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return {"device": names[0] if names else platform.processor() or platform.machine(), "count": os.cpu_count()}


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Return the summary of a folder; None if there is none, or a damaged one, which is named in a line."""
    path = folder / "summary.json"
    summary = read_object(path, StoredSummary)
    if summary is None and path.exists():
        warn_once(f"{path} is damaged and is treated as missing; the next command writes a new one.")
    return summary


def mixed_versions(folder: Path) -> list[str]:
    """Return a sentence if several commits, package versions or kinds of device made a folder's results.

    Args:
        folder: of an experiment, or of a part of one.
    """
    summary = read_summary(folder) or read_summary(folder.parent)
    runs = summary["invocations"] if summary else []
    commits = [f"{run['commit'][:8]}{'-dirty' if run.get('dirty') else ''}" for run in runs if run.get("commit")]
    parts = [f"commits {', '.join(dict.fromkeys(commits))}"] if len(set(commits)) > 1 else []
    for name in PACKAGES:
        versions = [run["packages"].get(name) for run in runs if isinstance(run.get("packages"), dict)]
        if len(set(versions)) > 1:
            parts.append(f"{name} {', '.join(map(str, dict.fromkeys(versions)))}")
    pythons = list(dict.fromkeys(run["python"] for run in runs if run.get("python")))
    parts += [f"Python {', '.join(pythons)}"] if len(pythons) > 1 else []
    devices = list(dict.fromkeys(run["device"] for run in runs if run.get("device")))
    parts += [f"devices {', '.join(devices)}"] if len(devices) > 1 else []
    return [f"Commands of different versions or devices worked on these results: {'; '.join(parts)}."] if parts else []


class Summary:
    """The summary of one command, written when it starts and again when it ends.

    Args:
        facts: further facts of this command.

    A command that resumes an earlier one keeps its entry under `invocations`, so that their times can be added up.
    """

    def __init__(
        self, folder: Path, command: str, config: dict[str, Any], sweep: dict[str, list], device: str, **facts: Any
    ):
        self.path, self.started, self.device = folder / "summary.json", time.time(), device
        earlier = read_summary(folder) or {}
        self.entry = {
            "command": command,
            **commit(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **device_facts(device),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
            **facts,
            "status": "running",
        }
        self.content = {
            "config": config,
            "seed": sweep["seed"],
            "sweep": sweep,
            "settings_of_each_cell": "records/*.settings.json",
            "platform": platform.platform(),
        }
        self.invocations = [*earlier.get("invocations", []), self.entry]
        if changed := _changes(earlier, {**self.entry, **self.content}):
            print(f"note: {folder} holds results of an earlier run with {'; '.join(changed)}.", file=sys.stderr)
        self._write()

    def close(self, status: str, *, peak_bytes: int = 0, **facts: Any) -> None:
        """Write the final status ("finished", "failures" or "interrupted"), wall-clock, peak memory and `facts`.

        Args:
            peak_bytes: largest memory of another process that did the work, if there was one.
        """
        seconds = round(time.time() - self.started, 1)
        peak = max(cost.peak_bytes(torch.device(self.device)), peak_bytes)
        self.entry.update(status=status, wall_clock_seconds=seconds, peak_bytes=peak, **facts)
        self._write()

    def _write(self) -> None:
        content = {**self.entry, **self.content, "invocations": self.invocations}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, self.path)


def _changes(earlier: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what differs from an earlier run: commit, uncommitted changes, device, Python, package versions."""
    if not earlier:
        return []
    names = {"commit": "commit", "uncommitted changes": "dirty", "device": "device", "Python": "python"}
    pairs = [(name, earlier.get(key), now[key]) for name, key in names.items()]
    pairs += [(name, earlier["packages"].get(name), value) for name, value in now["packages"].items()]
    return [f"{name} {before} (now {after})" for name, before, after in pairs if before != after]
