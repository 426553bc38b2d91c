"""`./reproduce.sh table3|table4|table5|figure3|figure4 [scale=NAME] [results_dir=DIR]`: made from what Table 1 left.

Tables 3 and 5 and both figures read `results/<scale>/table1/`; Table 4 reads configs/ only. No model runs but one:
Figure 4 searches the judge of scale=tiny by beams, once, and keeps the rows in `table1/ceiling/`. Each writes
`results/<scale>/TARGET/`: table.csv, table.md (Tables 3 and 5 also table.tex), or figureN.png, .pdf, .md and .csv.
Figures of the default results folder are copied to figures/ (rows to figures/data/), under their own name at scale=tiny
and as figureN-SCALE otherwise. Exit status: 0 done; 2 a wrong setting or no records, nothing written.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from . import budget_figures, ceiling, curves, expenses, figures, grid, rejections, settings, tables

WRONG = 2
DEFAULTS = {"scale": "tiny", "results_dir": "results"}


def read_settings(words: Sequence[str]) -> dict[str, str]:
    """The two settings that these targets take.

    Raises:
        ValueError: another setting, or an unknown scale.
    """
    chosen = dict(DEFAULTS)
    for word in words:
        key, _, value = word.partition("=")
        if key not in DEFAULTS or not value:
            raise ValueError(f"settings of this target are scale=NAME and results_dir=DIR; got {word!r}.")
        chosen[key] = value
    if chosen["scale"] not in grid.choices("scale"):
        raise ValueError(f"scale must be one of {', '.join(grid.choices('scale'))}; got {chosen['scale']!r}.")
    return chosen


def table3(results: Path, scale: str, command: str) -> dict[str, str]:
    """Rejection rates; the files' texts by name."""
    rows = rejections.table_rows(results)
    body, notes = [rejections.shown(row) for row in rows], rejections.notes(rows, scale)
    return _table(tables.csv_text(rejections.COLUMNS, rows), rejections.HEADER, body, [*notes, f"Made by {command}"])


def table4(results: Path, scale: str, command: str) -> dict[str, str]:
    """Settings beside the paper's."""
    rows = {name: settings.table_rows(name) for name in dict.fromkeys(("paper", scale))}
    merged = [row for own in rows.values() for row in own]
    text = settings.markdown(scale, rows) + f"\nMade by {command}\n"
    return {"table.csv": tables.csv_text(settings.COLUMNS, merged), "table.md": text}


def table5(results: Path, scale: str, command: str) -> dict[str, str]:
    """Seconds, FLOPs, decoded tokens and memory."""
    rows = expenses.table_rows(results)
    body, notes = [expenses.shown(row) for row in rows], expenses.notes(results)
    return _table(tables.csv_text(expenses.COLUMNS, rows), expenses.HEADER, body, [*notes, f"Made by {command}"])


def _table(rows: str, header: Sequence[str], body: list[list[str]], notes: list[str]) -> dict[str, str]:
    text = tables.markdown(header, body) + "".join(f"\n{note}\n" for note in notes)
    return {"table.csv": rows, "table.md": text, "table.tex": tables.latex(header, body, notes)}


def figure3(results: Path, scale: str, command: str) -> tuple[Figure, str, str]:
    """Model calls by method: figure, caption, rows."""
    rows = expenses.cost_rows(results)
    figure = budget_figures.costs(pd.DataFrame(rows))
    return figure, expenses.cost_caption(rows, command), tables.csv_text(expenses.COST_COLUMNS, rows)


def figure4(results: Path, scale: str, command: str) -> tuple[Figure, str, str]:
    """Accuracy against compute: figure, caption, rows."""
    rows = curves.curve_rows(results, ceiling.rows(results, scale))
    figure = budget_figures.curves(pd.DataFrame(rows))
    return figure, curves.caption(rows, command), tables.csv_text(curves.COLUMNS, rows)


TABLES = {"table3": table3, "table4": table4, "table5": table5}
FIGURES = {"figure3": figure3, "figure4": figure4}


def write_figure(
    target: str, draw: Callable[[Path, str, str], tuple[Figure, str, str]], results: Path, scale: str, command: str,
    gallery: Path | None,
) -> Path:  # fmt: skip
    """Draw into the results folder, and copy to `gallery` unless that is None; returns the caption's file."""
    figure, caption, rows = draw(results, scale, command)
    folder = results / target
    folder.mkdir(parents=True, exist_ok=True)
    name = target if scale == "tiny" else f"{target}-{scale}"
    caption = caption.replace(f"{target}.", f"{name}.")
    figures.save(figure, folder, name)
    plt.close(figure)
    (folder / f"{name}.csv").write_text(rows, encoding="utf-8")
    (folder / f"{name}.md").write_text(caption, encoding="utf-8")
    if gallery is not None:
        figures.exhibit(folder, name, gallery)
    return folder / f"{name}.md"


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    target, words = (arguments[0], arguments[1:]) if arguments else ("", [])
    try:
        if target not in {**TABLES, **FIGURES}:
            raise ValueError(f"target must be one of {', '.join({**TABLES, **FIGURES})}; got {target!r}.")
        chosen = read_settings(words)
        results, scale = Path(chosen["results_dir"], chosen["scale"]), chosen["scale"]
        command = shlex.join(["./reproduce.sh", target, *words])
        if target in FIGURES:
            gallery = grid.ROOT / "figures" if chosen["results_dir"] == DEFAULTS["results_dir"] else None
            shown = write_figure(target, FIGURES[target], results, scale, command, gallery)
        else:
            texts, folder = TABLES[target](results, scale, command), results / target
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                (folder / name).write_text(text, encoding="utf-8")
            shown = folder / "table.md"
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return WRONG
    print(f"{shown.read_text(encoding='utf-8')}\nResults in {shown.parent}: "
          f"{', '.join(sorted(path.name for path in shown.parent.iterdir()))}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
