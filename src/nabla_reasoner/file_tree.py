"""Files below a folder, those of linked folders too."""

import os
from pathlib import Path


def files_below(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted; links to folders are followed, but not back to a folder above them.

    `Path.rglob` leaves linked folders out, through which models and records are read.
    """
    return sorted(_walk(Path(folder), frozenset()))


def _walk(folder: Path, above: frozenset[str]) -> list[Path]:
    place = os.path.realpath(folder)
    if place in above or not folder.is_dir():
        return []
    files: list[Path] = []
    for path in folder.iterdir():
        files += _walk(path, above | {place}) if path.is_dir() else [path] if path.is_file() else []
    return files
