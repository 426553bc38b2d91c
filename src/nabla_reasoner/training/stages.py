"""Finished stages of a recipe, so that an interrupted one goes on with the stage that was running."""

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ..json_text import parse_json


class Stages:
    """Stages that an interrupted command finished.

    A command that ends forgets its own, so that the next one runs them again. A stage runs again if its settings
    changed, or if a stage before it ran: it may have started from that one's model.

    Args:
        path: JSON file with the digest of the settings of each finished stage.
        shared: settings that decide the result of every stage.
    """

    def __init__(self, path: Path, shared: dict[str, Any]):
        self.path = path
        self.shared = shared
        self.ran: list[str] = []  # by this command
        self.finished: dict[str, str] = {}
        try:
            self.finished = {str(name): str(digest) for name, digest in parse_json(path.read_text("utf-8")).items()}
        except FileNotFoundError:
            pass
        except (ValueError, AttributeError):
            print(f"{path} is damaged; all stages run again.")

    def should_run(self, name: str, settings: object) -> bool:
        """Return whether a stage is still to be run, and print its title."""
        if not self.ran and self.finished.get(name) == self._digest(settings):
            print(f"{name}: finished before the interruption", flush=True)
            return False
        print(f"{name}: begins", flush=True)
        self.ran.append(name)
        return True

    def note_finished(self, name: str, settings: object) -> None:
        """Write down that a stage is finished."""
        self.finished[name] = self._digest(settings)
        self._write()

    def end(self, order: Sequence[str], only: Collection[str]) -> None:
        """Forget the stages of a command that has ended, and those that come after the first one that it ran.

        What an earlier, interrupted command finished before it stays: `only=[manifest]` in between loses no training.

        Args:
            order: all stages of the recipe.
            only: those of this command.
        """
        first = min((order.index(name) for name in self.ran), default=len(order))
        kept = [name for name in order[:first] if name not in only]
        self.finished = {name: digest for name, digest in self.finished.items() if name in kept}
        if self.finished:
            self._write()
        else:
            self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.finished) + "\n", encoding="utf-8")
        os.replace(temporary, self.path)

    def _digest(self, settings: object) -> str:
        return hashlib.sha256(json.dumps([self.shared, settings], sort_keys=True).encode()).hexdigest()
