"""`./reproduce.sh report [scale=NAME] [results_dir=DIR] [wandb=online]`: everything that was run, on one page.

Reads what the other commands left (and README.md, for deviations and open questions), runs nothing, and writes
`results/<scale>/report/report.html` (self-contained: it opens from disk and loads nothing) and `report.md`.
`wandb=online` also publishes it as a W&B Report; `readme=true` keeps the rows that the verdicts come from in
figures/data/ and writes README's claims table from them. Exit status: 0 done; 1 publishing was asked for and failed
(the files are kept); 2 a wrong setting or nothing to report, nothing written.
"""

import csv
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from ..config.schema import ROOT
from ..reporting import wandb_report
from ..reporting.claims import judge
from ..reporting.evidence import Claim, Evidence
from ..reporting.figures import save
from ..reporting.html_report import Block, sections, to_html, to_markdown
from ..reporting.report_sections import CAPTIONED, EXPERIMENTS, SAID, ReportInputs, Row, report_blocks
from .command import Command, Recording, refusing
from .figures import keep_rows
from .table1 import accuracy_against_flops

CLAIMS_HEADER = "| | claim | verdict | evidence | scale | from |"


def read_rows(path: Path) -> list[Row]:
    """Rows of a CSV file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def gather(results: Path, scale: str) -> ReportInputs:
    """Read what the commands of a scale left.

    Args:
        results: folder of all results.
        scale: the theory's checks do not depend on it and lie beside the scales.

    Raises:
        ValueError: nothing lies there.
    """
    own, theory = results / scale, results / "theory"
    suffix = "" if scale == "tiny" else f"-{scale}"
    read = {
        "comparisons": own / "table1/comparisons.csv",
        "rewards": own / "table2/table.csv",
        "rejections": own / "table3/table.csv",
        "expenses": own / "table5/table.csv",
        "calls": own / f"figure3/figure3{suffix}.csv",
        "budgets": own / f"figure4/figure4{suffix}.csv",
        "checks": theory / "checks.csv",
        "terms": theory / "terms.csv",
        "ppo": own / "ppo/ppo.csv",
        "bench": own / "bench/bench.csv",
        "ablations": own / "ablations/table.csv",
    }
    evidence = Evidence(**{name: read_rows(path) for name, path in read.items()})
    table1 = read_rows(own / "table1/table.csv")
    if not table1 and not any(evidence):
        raise ValueError(f"{own} or {theory} must hold results; got none. Run ./reproduce.sh table1 first.")
    places = {name: own / path for name, (_, path, _) in SAID.items()}
    places |= {name: own / name / f"{name}{suffix}.md" for name in CAPTIONED}
    drawn = {name: own / name / f"{name}{suffix}.png" for name in CAPTIONED}
    drawn |= {name: theory / f"{name}.png" for name in ("theorem", "gradients")}
    drawn |= {name: own / name / f"{name}.png" for name in ("ppo", "bench")}
    drawn |= {f"ablations/{path.stem}": path for path in sorted((own / "ablations").glob("*.png"))}
    summaries = {name: (theory if name == "theory" else own / name) / "summary.json" for name in EXPERIMENTS}
    return ReportInputs(
        scale,
        evidence,
        table1,
        {name: path.read_text(encoding="utf-8") for name, path in places.items() if path.exists()},
        {name: path for name, path in drawn.items() if path.exists()},
        {name: json.loads(path.read_text(encoding="utf-8")) for name, path in summaries.items() if path.exists()},
        sections((ROOT / "README.md").read_text(encoding="utf-8")),
    )


def committed_evidence(data: Path) -> Evidence:
    """The rows of `figures/data/`, from which README's claims are judged; made at scale=tiny."""
    names = {
        "comparisons": "comparisons",
        "rewards": "table2",
        "rejections": "table3",
        "expenses": "table5",
        "calls": "figure3",
        "budgets": "figure4",
        "checks": "theorem_checks",
        "terms": "theorem_terms",
        "ppo": "ppo",
        "bench": "bench",
        "ablations": "ablations",
    }
    return Evidence(**{name: read_rows(data / f"{file}.csv") for name, file in names.items()})


def claims_markdown(claims: Sequence[Claim], scale: str) -> str:
    """The claims as README's table."""
    lines = [CLAIMS_HEADER, "|---|---|---|---|---|---|"]
    for one in claims:
        lines.append(f"| {one.name} | {one.text} | {one.verdict} | {one.evidence} | {scale} | {one.source} |")
    return "\n".join(lines) + "\n"


def write_readme(results: Path) -> None:
    """Keep the rows of a scale=tiny run in figures/data/ and write README's claims table from what then lies there."""
    data, readme = ROOT / "figures" / "data", ROOT / "README.md"
    keep_rows(results, data)
    text = readme.read_text(encoding="utf-8")
    start = text.index(CLAIMS_HEADER)
    end = text.index("\n\n", start)
    table = claims_markdown(judge(committed_evidence(data)), "tiny")
    readme.write_text(text[:start] + table.rstrip("\n") + text[end:], encoding="utf-8")


def draw_table1(results: Path, folder: Path) -> Path | None:
    """Accuracy against FLOPs from Table 1's rows, into the report's folder; None without a finished row."""
    path = results / "table1/table.csv"
    if not path.exists():
        return None
    table = pd.read_csv(path)
    if table.dropna(subset=["accuracy", "flops"]).empty:
        return None
    figure = accuracy_against_flops(table)
    save(figure, folder, "table1")
    plt.close(figure)
    return folder / "table1.png"


def run(command: Command, settings: dict[str, Any]) -> int:
    """Write the page, and publish it if wandb=online; returns the exit status."""
    results, scale = Path(settings["results_dir"]), settings["scale"]
    with refusing():
        inputs = gather(results, scale)
    with Recording(command, settings, scale=scale, varied={"seed": []}) as recording:
        folder = recording.folder
        if drawing := draw_table1(results / scale, folder):
            inputs = inputs._replace(figures={**inputs.figures, "table1": drawing})
        claims = judge(inputs.evidence)
        blocks = report_blocks(inputs, claims)
        (folder / "report.html").write_text(to_html(blocks), encoding="utf-8")
        (folder / "report.md").write_text(to_markdown(blocks, folder), encoding="utf-8")
        if settings["docs"]:
            write_readme(results)
        print(claims_markdown(claims, scale))
        return recording.finish(failed=not _published(blocks, folder, settings))


def _published(blocks: Sequence[Block], folder: Path, settings: dict[str, Any]) -> bool:
    """Publish the page as a W&B Report if that is asked for; returns whether nothing went wrong."""
    if os.environ.get("WANDB_MODE", settings["wandb"]) != "online":
        return True
    try:
        print(f"W&B Report: {wandb_report.publish(blocks, folder, scale=settings['scale'])}")
    except wandb_report.PublishingError as error:
        print(f"error: not published: {error} The files in {folder} are kept.", file=sys.stderr)
        return False
    return True
