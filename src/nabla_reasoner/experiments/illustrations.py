"""`./reproduce.sh figure1|figure2 [settings]`: the landscape of two tokens, and one problem's decoding, as they are.

Runs the shipped models for seconds. Settings are those of a cell (policy, task, seed, num_problems, method.NAME, …);
the results lie in `results/<scale>/TARGET/`: TARGET.png, .pdf, .md and its rows, TARGET_NAME.csv. With no settings they
are copied to figures/ (rows to figures/data/). Exit status: 0 done; 2 a wrong setting or no case found.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..config import compose
from ..config.schema import ROOT, Cell
from ..reporting import figures, tables
from . import figure1, figure2
from .figure1 import landscape_caption, landscape_rows
from .figure2 import trace_caption, trace_rows

WRONG = 2
DEFAULTS = {
    "figure1": ["policy=tiny-base", "task=products", "split=validation", "num_problems=60", "threads=1"],
    "figure2": ["policy=tiny-base", "task=products", "num_problems=150", "threads=1"],
}
TARGETS: dict[str, tuple[Callable, Callable, Callable[..., Figure]]] = {
    "figure1": (landscape_rows, landscape_caption, figure1.landscape),
    "figure2": (trace_rows, trace_caption, figure2.framework),
}


def write(target: str, words: Sequence[str]) -> tuple[Path, Cell]:
    """Make one figure; returns its caption's file and the cell that it shows.

    Raises:
        ValueError: settings that do not go together or name several cells, or no case found.
    """
    cells = compose.compose_cells(["method=nabla_reasoner", *DEFAULTS[target], *words])
    if len(cells) != 1:
        raise ValueError(f"{target} shows one policy and task; got {len(cells)} choices. Give one value per setting.")
    (cell,) = cells
    make, describe, draw = TARGETS[target]
    rows = make(cell)
    folder = Path(cell["results_dir"], cell["scale_name"], target)
    folder.mkdir(parents=True, exist_ok=True)
    for name, own in rows.items():
        (folder / f"{target}_{name}.csv").write_text(tables.csv_text(list(own[0]), own), encoding="utf-8")
    figure = draw(*figure2.read(folder, target))
    figures.save(figure, folder, target)
    plt.close(figure)
    text = describe(rows, shlex.join(["./reproduce.sh", target, *words]), cell)
    (folder / f"{target}.md").write_text(text, encoding="utf-8")
    return folder / f"{target}.md", cell


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    target, words = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    try:
        if target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}; got {target!r}.")
        caption, _ = write(target, words)
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return WRONG
    if not words:
        figures.exhibit(caption.parent, target, ROOT / "figures")
    print(f"{caption.read_text(encoding='utf-8')}\nResults in {caption.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
