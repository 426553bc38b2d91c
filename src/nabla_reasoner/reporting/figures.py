"""Figures: colours, axes and legends that they share, and how they are saved."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import Container
from matplotlib.figure import Figure


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as PNG and PDF; the bytes are the same on every run."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=150)
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})


def write_figure(target: str, drawing: tuple[Figure, str, str], results: Path, scale: str) -> Path:
    """Write a target's figure, caption and rows (CSV text) into its results folder; returns the caption's file.

    Args:
        drawing: figure, caption and rows.
        results: folder of a scale's results.
    """
    figure, caption, rows = drawing
    folder = results / target
    folder.mkdir(parents=True, exist_ok=True)
    name = target if scale == "tiny" else f"{target}-{scale}"
    save(figure, folder, name)
    plt.close(figure)
    (folder / f"{name}.csv").write_text(rows, encoding="utf-8")
    (folder / f"{name}.md").write_text(caption.replace(f"{target}.", f"{name}."), encoding="utf-8")
    return folder / f"{name}.md"


# Columns of tokens, which are text even if they look like numbers.
TEXT = dict.fromkeys(("own", "best", "dto", "one_by_one", "first", "second", "tokens", "token", "old", "new"), str)
BLUE, ORANGE, GREEN, GREY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#999999", "#F0E442"


def paragraphs(sentences: Iterable[str]) -> str:
    """Return sentences as paragraphs that follow a caption; nothing if there are none."""
    return "".join(f"\n{sentence}\n" for sentence in sentences)


Entries = dict[str, Artist | Container]  # handles of a legend by label


def legend_entries(panels: Iterable[Axes]) -> Entries:
    """Return every label of the panels once, with the first handle it has."""
    entries: Entries = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    return entries


def legend_below(figure: Figure, *, ncol: int, inches: float | None = None) -> None:
    """Draw one legend of all panels below them.

    Args:
        ncol: columns of the legend.
        inches: height kept free for it; None gives each line of the legend 0.28.
    """
    entries = legend_entries(figure.axes)
    figure.legend(entries.values(), entries.keys(), ncol=ncol, loc="lower center", fontsize=8, frameon=False)
    if inches is None:
        inches = 0.28 * -(-len(entries) // ncol)
    figure.tight_layout(rect=(0, inches / figure.get_figheight(), 1, 1))


def log_ticks(axis: Axis, labelsize: int | None = None) -> None:
    """Label a logarithmic axis at 1, 2 and 5 times the powers of ten, in plain numbers."""
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.set_minor_formatter(ticker.NullFormatter())
    if labelsize is not None:
        axis.set_tick_params(labelsize=labelsize)


def without_marks(axis: Axes) -> tuple[list[Artist | Container], list[str]]:
    """Return handles and labels of the legend entries that the other panel does not have."""
    entries = {label: handle for label, handle in legend_entries([axis]).items() if "pair" not in label}
    return list(entries.values()), list(entries)
