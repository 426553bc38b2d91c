"""`./reproduce.sh all [scale=tiny] [results_dir=DIR]`: every target of this workspace, one after the other.

Each stage is a command that may also be typed alone; this module only calls them. A stage that fails is reported and
the others go on. What finished is noted in `results/<scale>/all/stages.json`: the same command goes on behind it,
unless the code has changed since, or everything had finished. Exit status: 0 all done; 1 some stage failed; 2 a wrong
setting, nothing was started; 130 interrupted.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config.schema import DEFAULTS, ROOT, read_settings
from ..evaluation import provenance

FAILED, WRONG, INTERRUPTED = 1, 2, 130
SCRIPT = ROOT / "reproduce.sh"


class Stage(NamedTuple):
    """One command.

    Attributes:
        words: target and the settings that belong to the stage.
        minutes: about how long it takes at scale=tiny on two idle cores; for the time left only.
        scaled: whether the target takes `scale=`; the others are of one scale and run in every `all`.
    """

    words: tuple[str, ...]
    minutes: float
    scaled: bool = True


RELEASE = ("table1", "variant=release", "method=nabla_reasoner", "seed=0", "experiment_name=table1-release")
STAGES = (
    Stage(("table1",), 24),
    Stage(RELEASE, 0.7),  # Table 3 measures the released acceptance test
    Stage(("table2",), 7),
    Stage(("ablations",), 10),
    Stage(("theorem",), 2.5, scaled=False),
    Stage(("ppo",), 2.5, scaled=False),
    Stage(("bench",), 6),
    Stage(("table3",), 0.2),
    Stage(("table4",), 0.2),
    Stage(("table5",), 0.2),
    Stage(("figure1",), 0.5),
    Stage(("figure2",), 0.5),
    Stage(("figure3",), 0.2),
    Stage(("figure4",), 1),
    Stage(("figures",), 2, scaled=False),
    Stage(("report",), 0.5),
)


def command(stage: Stage, scale: str, results: str) -> list[str]:
    """The words after ./reproduce.sh for a stage; settings that are the default are left out."""
    words = list(stage.words)
    if stage.scaled and scale != DEFAULTS["scale"]:
        words.append(f"scale={scale}")
    if stage.words[0] == "figures":  # the rows of other folders are not those that are committed
        return [*words, f"results_dir={results}"] if (scale, results) == tuple(DEFAULTS.values()) else words
    if results != DEFAULTS["results_dir"]:
        words.append(f"results_dir={results}")
    return words


def code() -> str:
    """A digest of everything that decides results; not of figures/, which the stages themselves draw anew."""
    files = [ROOT / name for name in ("pyproject.toml", "reproduce.sh")]
    files += [path for folder in ("src", "configs", "assets") for path in (ROOT / folder).rglob("*")]
    kept = (path for path in sorted(files) if path.suffix in (".py", ".yaml", ".toml", ".sh", ".json", ".safetensors"))
    digest = hashlib.sha256()
    for path in kept:
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Progress:
    """What of a sequence of stages has finished, on disk.

    A list that an earlier command left is gone on with if it was made by the same code and is not complete.
    """

    def __init__(self, path: Path, names: Sequence[str]):
        self.path, self.state = path, {"code": code(), **provenance.commit()}
        self.stages: dict[str, dict[str, Any]] = {}
        if path.exists():
            old = json.loads(path.read_text(encoding="utf-8"))
            done = {name for name, entry in old["stages"].items() if entry["status"] == "finished"}
            if old.get("code") == self.state["code"] and not done.issuperset(names):
                self.stages = old["stages"]

    def finished(self, name: str) -> bool:
        return self.stages.get(name, {}).get("status") == "finished"

    def note(self, name: str, status: str, seconds: float) -> None:
        """Write down how a stage ended."""
        self.stages[name] = {"status": status, "seconds": round(seconds, 1)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        text = json.dumps({**self.state, "stages": self.stages}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, self.path)


def run(scale: str, results: str, stages: Sequence[Stage] = STAGES) -> int:
    """Run every stage that has not finished; returns the exit status."""
    commands = [command(stage, scale, results) for stage in stages]
    names = [" ".join(words) for words in commands]
    progress = Progress(Path(results, scale, "all", "stages.json"), names)
    for number, (words, name) in enumerate(zip(commands, names, strict=True), start=1):
        if progress.finished(name):
            print(f"[{number}/{len(stages)}] {name}: finished before", flush=True)
            continue
        left = sum(s.minutes for s, n in zip(stages, names, strict=True) if not progress.finished(n))
        print(f"[{number}/{len(stages)}] ./reproduce.sh {name}   (all that is left: about {left:.0f} min)", flush=True)
        begin = time.monotonic()
        status = subprocess.run(["bash", str(SCRIPT), *words], check=False).returncode
        if status in (INTERRUPTED, -2):
            raise KeyboardInterrupt
        progress.note(name, "finished" if status == 0 else f"exit status {status}", time.monotonic() - begin)
    print(f"\nWhat ran, in {progress.path}:")
    for name in names:
        entry = progress.stages[name]
        print(f"  {entry['seconds'] / 60:5.1f} min  {entry['status']:16}  ./reproduce.sh {name}")
    print(f"  {sum(progress.stages[name]['seconds'] for name in names) / 60:5.1f} min  in all")
    return 0 if all(progress.finished(name) for name in names) else FAILED


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    try:
        chosen = read_settings(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    try:
        return run(chosen["scale"], chosen["results_dir"])
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped.", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the stage is stopped too
    sys.exit(main(sys.argv[1:]))
