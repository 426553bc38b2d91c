"""Finished stages of a recipe, so that an interrupted one goes on with the stage that was running."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


class Stages:
    """Stages that an interrupted command finished; the file is deleted when all are finished.

    A stage runs again if its settings changed, or if a stage before it ran: it may have started from that one's model.

    Args:
        path: JSON file with the digest of the settings of each finished stage.
        shared: settings that decide the result of every stage.
    """

    def __init__(self, path: Path, shared: dict[str, Any]):
        self.path = path
        self.shared = shared
        self.has_run = False
        self.finished: dict[str, str] = {}
        try:
            self.finished = {str(name): str(digest) for name, digest in json.loads(path.read_text("utf-8")).items()}
        except FileNotFoundError:
            pass
        except (ValueError, AttributeError):
            print(f"{path} is damaged; all stages run again.")

    def should_run(self, name: str, settings: Any) -> bool:
        """Return whether a stage is still to be run, and print its title."""
        if not self.has_run and self.finished.get(name) == self._digest(settings):
            print(f"{name}: finished before the interruption", flush=True)
            return False
        print(f"{name}: begins", flush=True)
        self.has_run = True
        return True

    def note_finished(self, name: str, settings: Any) -> None:
        """Write down that a stage is finished."""
        self.finished[name] = self._digest(settings)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.finished) + "\n", encoding="utf-8")
        os.replace(temporary, self.path)

    def end(self) -> None:
        """Delete the file: the next command runs every stage."""
        self.path.unlink(missing_ok=True)

    def _digest(self, settings: Any) -> str:
        return hashlib.sha256(json.dumps([self.shared, settings], sort_keys=True).encode()).hexdigest()
