"""Numerical checks of Theorem 4.1 and of the gradient's parts (arXiv 2603.04948).

The tables are rewritten after each group, so that an interrupted first run keeps what it finished; a later run that
does not finish leaves the earlier results as they were:

    checks.csv   name, value, tolerance, noise_floor, passed   passes if value <= tolerance, without exception;
                                                               `passed` is True, False, or "skipped: REASON"
    terms.csv    norms and shares of the three gradient terms, by position of every response (`TermRow`)
    curves.csv   curve, series, x, y, floor                    further points that the figures draw

In rows ending in `_seen` a difference must exist: value is the noise floor over it, tolerance a third. The exit status
is 1 if any check fails; a skipped check neither fails nor passes.
"""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
import transformers

from ..config.theorem_settings import TheoremSettings
from ..reporting import figures
from ..reporting.evidence import BROKE_OFF
from ..reporting.frames import read_frame
from ..theory import figures as theory_figures
from ..theory import gradient_figure
from ..theory.check import Check, Point, describe
from ..theory.context import Findings, TheoryContext
from ..theory.gradient_checks import TermRow
from ..theory.suite import GROUPS
from .command import Command
from .recording import Progress, Recording

COLUMNS = ["name", "value", "tolerance", "noise_floor", "passed"]
FILES = (  # of earlier runs, replaced
    *(f"{name}.csv" for name in ("checks", "terms", "curves")),
    *(f"{name}.{kind}" for name in ("theorem", "gradients") for kind in ("png", "pdf")),
    "summary.json",
)


def checks_table(checks: Sequence[Check]) -> pd.DataFrame:
    """Return the rows of checks.csv."""
    rows = [(*check[:4], f"skipped: {check.skipped}" if check.skipped else str(check.passed)) for check in checks]
    return pd.DataFrame(rows, columns=COLUMNS)


def write(folder: Path, findings: Findings) -> None:
    """Write the three tables."""
    tables = {
        "checks": checks_table(findings.checks),
        "terms": pd.DataFrame(findings.terms, columns=TermRow._fields),
        "curves": pd.DataFrame(findings.points, columns=Point._fields),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")


def draw(folder: Path) -> None:
    """Draw the figures of the tables in a folder."""
    curves, terms = (read_frame(folder / f"{name}.csv") for name in ("curves", "terms"))
    for name, figure in (
        ("theorem", theory_figures.theorem(curves)),
        ("gradients", gradient_figure.gradients(curves, terms)),
    ):
        if figure is not None:
            figures.save(figure, folder, name)
            plt.close(figure)


def run(command: Command, settings: TheoremSettings) -> int:
    """Make the selected groups of checks; return the exit status."""
    torch.set_num_threads(1)  # a second thread gains nothing on tiny tensors; particle runs have threads of their own
    transformers.logging.disable_progress_bar()
    groups = [name for name in GROUPS if settings.checks is None or name in settings.checks]
    settings = settings.model_copy(update={"checks": groups})
    context, results = TheoryContext(settings), Findings([], [], [])
    varied = {"seed": [settings.seed], "checks": groups}
    with (
        Recording(command, settings.model_dump(), scale="tiny", varied=varied, replaces=FILES) as recording,
        Progress(sum(GROUPS[name].weight for name in groups), len(groups)) as progress,
    ):
        for name in groups:
            with progress.part(name, GROUPS[name].weight) as part:
                group = _make(name, context)
                results = Findings(*([*before, *new] for before, new in zip(results, group, strict=True)))
                write(recording.folder, results)
                part.note = "\n".join(["", *(describe(check) for check in group.checks), "done"])
        draw(recording.folder)
        failed = [check.name for check in results.checks if not check.passed and not check.skipped]
        skipped = [check.name for check in results.checks if check.skipped]
        passed = len(results.checks) - len(failed) - len(skipped)
        print(f"\n{passed} checks passed, {len(failed)} failed, {len(skipped)} skipped")
        if failed:
            print(f"FAILED: {', '.join(failed)}", file=sys.stderr)
        return recording.finish(
            failed=bool(failed),
            tables=("checks", "terms", "curves"),
            metrics={"passed": passed, "failed": len(failed), "skipped": len(skipped)},
            facts={"threads": settings.threads, "failed": failed, "skipped": skipped},
        )


def _make(name: str, context: TheoryContext) -> Findings:
    """Make one group of checks; a group that raises an error becomes a failed check, and the others continue."""
    try:
        return GROUPS[name].make(context)
    except Exception as error:
        traceback.print_exc()
        return Findings([Check(f"{name}{BROKE_OFF}{type(error).__name__}", float("nan"), 0.0)])
