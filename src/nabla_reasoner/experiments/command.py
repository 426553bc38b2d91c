"""One command line, its refusal, and its exit status."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..config.data_folder import SCRIPT, spelled
from ..config.targets import Target

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
HOW = ("results_dir", "wandb", "workers", "overwrite", "recompute")  # settings that change no result


class Refused(Exception):
    """A command that cannot run as asked; nothing was computed or changed."""


@contextmanager
def refusing() -> Iterator[None]:
    """Turn a ValueError of the block into a refusal."""
    try:
        yield
    except ValueError as error:
        raise Refused(str(error)) from error


@dataclass(frozen=True)
class Command:
    """One command line.

    Attributes:
        target: the requested target.
        overrides: settings as typed.
        argument: the positional argument, for targets that take one.
    """

    target: Target
    overrides: tuple[str, ...] = ()
    argument: str = ""

    @property
    def line(self) -> str:
        """The command as typed."""
        return self._spelled(self.overrides)

    @property
    def recipe(self) -> str:
        """The command for a caption: without settings that change no result, such as where it is written."""
        return self._spelled([word for word in self.overrides if word.split("=")[0] not in HOW])

    def _spelled(self, overrides: Sequence[str]) -> str:
        arguments = [self.target.name, *([self.argument] if self.argument else []), *overrides]
        return f"{spelled(SCRIPT)} {shlex.join(arguments)}"
