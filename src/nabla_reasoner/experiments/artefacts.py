"""`./reproduce.sh table3|table4|table5|figure3|figure4 [scale=NAME] [results_dir=DIR]`: made from what Table 1 left.

Tables 3 and 5 and both figures read `results/<scale>/table1/`; Table 4 reads configs/ only. No model runs but one:
Figure 4 searches the judge of scale=tiny by beams, once, and keeps the rows in `table1/ceiling/`. Each writes
`results/<scale>/TARGET/`: table.csv, table.md (Tables 3 and 5 also table.tex), or figureN.png, .pdf, .md and .csv.
Figures of the default results folder are copied to figures/ (rows to figures/data/), under their own name at scale=tiny
and as figureN-SCALE otherwise. Exit status: 0 done; 2 a wrong setting or no records, nothing written.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..config.schema import DEFAULTS, ROOT, read_settings
from ..reporting.figures import write_figure
from .figure3 import figure3
from .figure4 import figure4
from .table3 import table3
from .table4 import table4
from .table5 import table5

WRONG = 2
TABLES = {"table3": table3, "table4": table4, "table5": table5}
FIGURES = {"figure3": figure3, "figure4": figure4}


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
            gallery = ROOT / "figures" if chosen["results_dir"] == DEFAULTS["results_dir"] else None
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
    print(
        f"{shown.read_text(encoding='utf-8')}\nResults in {shown.parent}: "
        f"{', '.join(sorted(path.name for path in shown.parent.iterdir()))}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
