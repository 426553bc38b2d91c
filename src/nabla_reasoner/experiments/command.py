"""One command line, its refusal, and its exit status."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..config.data_folder import SCRIPT, spelled
from ..config.targets import Target

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


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
        arguments = [self.target.name, *([self.argument] if self.argument else []), *self.overrides]
        return f"{spelled(SCRIPT)} {shlex.join(arguments)}"
