"""Target `all`: every target that makes results, one after the other.

Each stage is a command of its own; a stage that fails is reported and the others run. Finished stages are noted in
`results/<scale>/all/stages.json`: the same command resumes after them, unless the code has changed or all had finished.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config.data_folder import PACKAGE, SCRIPT, data_folder, repository, spelled
from ..config.overrides import quoted
from ..config.settings import SETTINGS, ResultsSettings
from ..config.targets import Target, targets
from ..evaluation import provenance
from ..evaluation.json_files import read_object, warn_once
from .command import DONE, FAILED, INTERRUPTED, Command

ROOT = data_folder()
DEFAULT_WANDB = "offline"  # of configs/config.yaml
PLAIN = re.compile(r"[\w./~-]+")  # a path that Hydra reads without quotes
CODE = (".py", ".yaml", ".toml", ".sh", ".json", ".safetensors")


def stage_arguments(target: Target, settings: ResultsSettings) -> list[str]:
    """Return the arguments of ./reproduce.sh for a stage; default settings are left out.

    Args:
        settings: scale, results_dir and wandb.
    """
    scale, results, wandb = settings.scale, settings.results_dir, settings.wandb
    if target.settings == "figures":  # rows of other folders are not those that are committed
        return [target.name, *([f"results_dir={results}"] if (scale, results) == ("tiny", "results") else [])]
    arguments = [f"scale={scale}"] if target.scales and scale != "tiny" else []
    if results != "results":
        arguments.append(f"results_dir={results if PLAIN.fullmatch(results) else quoted(results)}")
    if wandb != DEFAULT_WANDB and "wandb" in SETTINGS[target.settings].model_fields:
        arguments.append(f"wandb={wandb}")
    return [target.name, *arguments]


def code() -> str:
    """Return a digest of everything that decides results; figures/ is left out, since the stages write it."""
    folders = [*([] if repository() else [PACKAGE]), *(ROOT / name for name in ("src", "configs", "assets"))]
    files = [ROOT / name for name in ("pyproject.toml", "reproduce.sh")]
    files += [path for folder in folders for path in folder.rglob("*")]
    digest = hashlib.sha256()
    for path in sorted(files):
        if path.suffix in CODE and path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _program() -> list[str]:
    """Return the words that begin a command line: reproduce.sh, which installs what is missing, or this Python."""
    folder = repository()
    return ["bash", str(folder / "reproduce.sh")] if folder else [sys.executable, "-m", "nabla_reasoner"]


class Stages:
    """Finished stages on disk; those of an earlier command count if the code is the same and some were missing."""

    def __init__(self, path: Path, names: Sequence[str]):
        self.path = path
        self.state = {"code": code(), **provenance.commit()}
        self.stages: dict[str, dict[str, Any]] = {}
        earlier = read_object(path) or {}
        stages = earlier.get("stages")
        if isinstance(stages, dict) and all(isinstance(entry, dict) and "status" in entry for entry in stages.values()):
            done = {name for name, entry in stages.items() if entry["status"] == "finished"}
            if earlier.get("code") == self.state["code"] and not done.issuperset(names):
                self.stages = stages
        elif path.exists():
            warn_once(f"{path} is damaged: every stage runs again.")

    def finished(self, name: str) -> bool:
        return self.stages.get(name, {}).get("status") == "finished"

    def note(self, name: str, status: str, seconds: float) -> None:
        """Record the status and duration of a stage in stages.json."""
        self.stages[name] = {"status": status, "seconds": round(seconds, 1)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        text = json.dumps({**self.state, "stages": self.stages}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, self.path)


def run(command: Command, settings: ResultsSettings) -> int:
    """Run every target that has not finished; return the exit status."""
    scale = settings.scale
    known = [target for target in targets().values() if target.in_all]
    selected = [target for target in known if not target.scales or scale in target.scales]
    if repository() is None:
        left_out = [target.name for target in selected if target.repository]
        print(f"Left out, because it needs a checkout of the repository: {', '.join(left_out)}.")
        selected = [target for target in selected if not target.repository]
    return run_stages(selected, settings)


def run_stages(selected: Sequence[Target], settings: ResultsSettings) -> int:
    """Run these targets in order, with the scale, results_dir and wandb of the settings; return the exit status."""
    commands = {" ".join(stage_arguments(target, settings)): target for target in selected}
    stages = Stages(Path(settings.results_dir, settings.scale, "all", "stages.json"), list(commands))
    for number, (name, target) in enumerate(commands.items(), start=1):
        title = f"[{number}/{len(commands)}] {spelled(SCRIPT)} {name}"
        if stages.finished(name):
            print(f"{title}: finished before", flush=True)
            continue
        left = sum(other.minutes for line, other in commands.items() if not stages.finished(line))
        print(f"{title}   (all that is left: about {left:.0f} min)", flush=True)
        begin = time.monotonic()
        status = subprocess.run([*_program(), *stage_arguments(target, settings)], check=False).returncode
        if status in (INTERRUPTED, -2):
            raise KeyboardInterrupt
        stages.note(name, "finished" if status == 0 else f"exit status {status}", time.monotonic() - begin)
    print(f"\nStages, in {stages.path}:")
    for name in commands:
        entry = stages.stages[name]
        print(f"  {entry['seconds'] / 60:5.1f} min  {entry['status']:16}  {spelled(SCRIPT)} {name}")
    print(f"  {sum(stages.stages[name]['seconds'] for name in commands) / 60:5.1f} min  in all")
    return DONE if all(stages.finished(name) for name in commands) else FAILED
