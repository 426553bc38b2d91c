"""Figures, drawn from the small rows that tables write: functions from a table to a matplotlib Figure."""

import shutil
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as PNG and PDF, byte for byte the same on every run."""
    figure.savefig(folder / f"{name}.png", dpi=150)
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})


def exhibit(folder: Path, name: str, gallery: Path) -> None:
    """Copy what a folder holds of a figure to `gallery`: NAME*.png, .pdf and .md there, rows NAME*.csv to its data/."""
    (gallery / "data").mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{name}*"):
        shutil.copyfile(path, (gallery / "data" if path.suffix == ".csv" else gallery) / path.name)


def write_figure(
    target: str,
    draw: Callable[[Path, str, str], tuple[Figure, str, str]],
    results: Path,
    scale: str,
    command: str,
    gallery: Path | None,
) -> Path:
    """Draw into the results folder, and copy to `gallery` unless that is None; returns the caption's file."""
    figure, caption, rows = draw(results, scale, command)
    folder = results / target
    folder.mkdir(parents=True, exist_ok=True)
    name = target if scale == "tiny" else f"{target}-{scale}"
    caption = caption.replace(f"{target}.", f"{name}.")
    save(figure, folder, name)
    plt.close(figure)
    (folder / f"{name}.csv").write_text(rows, encoding="utf-8")
    (folder / f"{name}.md").write_text(caption, encoding="utf-8")
    if gallery is not None:
        exhibit(folder, name, gallery)
    return folder / f"{name}.md"


# Tokens are text, also where they look like numbers.
TEXT = dict.fromkeys(("own", "best", "dto", "one_by_one", "first", "second", "tokens", "token", "old", "new"), str)
BLUE, ORANGE, GREEN, GREY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#999999", "#F0E442"


def without_marks(axis: Axes) -> tuple[list, list[str]]:
    """Legend entries that the other panel does not have."""
    found = [
        (handle, label) for handle, label in zip(*axis.get_legend_handles_labels(), strict=True) if "pair" not in label
    ]
    return [handle for handle, _ in found], [label for _, label in found]
