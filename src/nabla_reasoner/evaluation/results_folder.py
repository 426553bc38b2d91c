"""A results folder: whether it can be written, and the lock that lets one command at a time write to it."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..config.targets import FILE_ENDS
from .file_locks import open_locked

LOCK = ".lock"
# Errors of the file system, not of the program: no space, no right to write, a file or name that is too long.
UNWRITABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.EIO,
    errno.EFBIG,
)
REMEDY = "choose another results_dir=DIR"


@contextmanager
def locked(folder: Path, remedy: str = REMEDY) -> Iterator[None]:
    """Make the folder if it is missing, and hold its lock while the block runs.

    The lock belongs to the process and ends with it, however it ends. A folder in which nothing was written is removed.

    Args:
        remedy: what else the user may do where the folder cannot be had.

    Raises:
        ValueError: the folder cannot be written, holds a folder where a file belongs, or another command holds the
            lock.
    """
    created = _missing(folder, remedy)
    descriptor = None
    try:
        descriptor = _open_lock(folder, remedy)
        check_files(folder)
        yield
    finally:
        if descriptor is not None:
            if os.listdir(folder) == [LOCK]:
                (folder / LOCK).unlink()
            os.close(descriptor)
        _remove_empty(created)


def check_files(folder: Path) -> None:
    """Raise ValueError if a folder of results holds a folder where a file belongs."""
    for path in (*folder.iterdir(), *folder.glob("wandb/*.json")):
        if path.suffix in FILE_ENDS and path.is_dir():
            raise ValueError(f"{path} must be a file; got a folder. Move it, or choose results_dir=DIR.")


def _missing(folder: Path, remedy: str) -> list[Path]:
    """Return the folders that are to be made, the deepest first; raises as `locked`."""
    try:
        return [path for path in (folder, *folder.parents) if not path.exists()]
    except OSError as error:  # a name that is too long
        raise _refusal(folder, error, remedy) from error


def _refusal(folder: Path, error: OSError, remedy: str) -> ValueError:
    return ValueError(f"results cannot be written to {folder}: {reason(error)}. {remedy[0].upper()}{remedy[1:]}.")


def _open_lock(folder: Path, remedy: str) -> int:
    """Return a file descriptor that holds the folder's lock; raises as `locked`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = open_locked(folder / LOCK)
    except BlockingIOError as error:
        holder = _text(folder / LOCK)
        raise ValueError(
            f"another command writes to {folder} (process {holder or 'unknown'}). Wait for its end, or {remedy}."
        ) from error
    except OSError as error:
        raise _refusal(folder, error, remedy) from error
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise _refusal(folder, error, remedy) from error
    return descriptor


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:  # its holder has just ended
        return ""


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the deepest first, until one is not empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def reason(error: OSError) -> str:
    """Return what the file system said, e.g. "No space left on device"."""
    return error.strerror or type(error).__name__


def written_files(folder: Path) -> list[str]:
    """Return the names of a folder's files, hidden ones left out."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
