"""A lock of a file, which ends with the process that holds it."""

import fcntl
import os
from pathlib import Path


def open_locked(path: Path) -> int:
    """Open a file, made if it is missing, and take its lock; return the descriptor, which holds it until it is closed.

    A holder may remove the file before it lets go. Another process that opened it before would then have the lock of
    a file that is no longer there, so it opens the path again.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file cannot be opened.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is the one at this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
