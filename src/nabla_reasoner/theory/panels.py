"""Panels of the figures of the theory checks: arrangement, axis labels, colours and markers."""

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours for colour-blind readers, with different markers for print.
SERIES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999"]
MARKERS = "os^DvP*X"
Panel = tuple[Callable[[Axes, pd.DataFrame], None], pd.DataFrame]


def arranged(panels: Sequence[Panel], *, columns: int) -> Figure | None:
    """Draw each panel from its table, row by row."""
    if not panels:
        return None
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.9 * columns, 3.9 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    with plt.rc_context({"legend.fontsize": 7}):
        for axis, (draw, table) in zip(axes.flat, panels, strict=False):
            draw(axis, table)
            axis.title.set_fontsize(10)
    figure.tight_layout()
    return figure


def label(axis: Axes, title: str, x: str, y: str | None = None) -> None:
    """Set a panel's title and axis labels."""
    axis.set_title(title)
    axis.set_xlabel(x)
    if y is not None:
        axis.set_ylabel(y)


def log_log(axis: Axes) -> None:
    """Make both axes logarithmic, with a grid."""
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.grid(alpha=0.3)
