"""Figures: colours, axes and legends that they share, and how they are saved."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import Container
from matplotlib.figure import Figure

from .tables import TOKENS

# Settings of a figure that shows names, tokens or questions: their "$" is no formula. Used as `@plt.rc_context(PLAIN)`.
PLAIN = {"text.parse_math": False}


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as PNG and PDF; the bytes are the same on every run."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.set_layout_engine(None)  # what `tight_layout` leaves behind would draw every file twice
    figure.savefig(folder / f"{name}.png", dpi=150)
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})


class Drawing(NamedTuple):
    """What a target draws.

    Attributes:
        figures: by what their files' names add to the target's, such as "" and "_flops".
        caption: in Markdown.
        rows: CSV text.
    """

    figures: dict[str, Figure]
    caption: str
    rows: str


def write_figure(target: str, drawing: Drawing, results: Path, scale: str) -> Path:
    """Write a target's figures, caption and rows into its results folder; returns the caption's file.

    Args:
        results: folder of a scale's results.
    """
    folder = results / target
    folder.mkdir(parents=True, exist_ok=True)
    name = target if scale == "tiny" else f"{target}-{scale}"
    for part, figure in drawing.figures.items():
        save(figure, folder, f"{name}{part}")
        plt.close(figure)
    (folder / f"{name}.csv").write_text(drawing.rows, encoding="utf-8")
    rows = target if scale == "tiny" else f"{target}_{scale}"  # as `keep=true` names them
    caption = drawing.caption.replace(f"figures/data/{target}.csv", f"figures/data/{rows}.csv")
    caption = re.sub(rf"\b{target}(?=\.|_\w+\.png)", name, caption)
    (folder / f"{name}.md").write_text(caption, encoding="utf-8")
    return folder / f"{name}.md"


# Columns of tokens, which are text even if they look like numbers.
TEXT = dict.fromkeys(TOKENS, str)
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


def legend_below(figure: Figure, *, ncol: int) -> None:
    """Draw one legend of all panels below them; the figure grows by its height, the panels keep theirs.

    Args:
        ncol: columns of the legend; fewer where the figure is too narrow for them.
    """
    entries = legend_entries(figure.axes)
    style = {"loc": "lower center", "fontsize": 8, "frameon": False}
    for columns in range(ncol, 0, -1):
        legend = figure.legend(entries.values(), entries.keys(), ncol=columns, **style)
        width, below = (size / figure.dpi for size in legend.get_window_extent().size)
        if width <= figure.get_figwidth() or columns == 1:
            break
        legend.remove()
    height = figure.get_figheight() + below
    figure.set_size_inches(max(width, figure.get_figwidth()), height)
    figure.tight_layout(rect=(0, below / height, 1, 1))


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
