"""`./reproduce.sh report [scale=NAME] [results_dir=DIR] [wandb=online]`: everything that was run, on one page.

Reads what the other commands left (and README.md, for deviations and open questions), runs nothing, and writes
`results/<scale>/report/report.html` (self-contained: it opens from disk and loads nothing) and `report.md`.
`wandb=online` also publishes it as a W&B Report. Exit status: 0 done; 1 publishing was asked for and failed (the files
are kept); 2 a wrong setting or nothing to report, nothing written.
"""

import csv
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd

from . import artefacts, figures, grid, publishing, tables
from .blocks import Block, Code, Figure, Heading, Markdown, Table, demoted, sections, to_html, to_markdown
from .claims import Claim, Evidence, judge

WRONG, FAILED = 2, 1
Row = dict[str, str]
NAMES = {name: label for name, (label, _, _) in figures.STYLES.items()}
EXPERIMENTS = ("table1", "table2", "theory", "ppo", "bench", "ablations")  # those that leave a summary.json
CAPTIONED = {  # figure: its heading
    "figure1": "Figure 1: sampling and descent on a reward landscape", "figure2": "Figure 2: the framework",
    "figure3": "Figure 3: model calls by method", "figure4": "Figure 4: accuracy against compute",
}  # fmt: skip
SAID = {  # result with a text of its own: heading, file in the scale's folder, the command, what stands before it
    "table2": ("Table 2: the reward model", "table2/table.md", "table2"),
    "table3": ("Table 3: rejected candidates", "table3/table.md", "table3"),
    "table4": ("Table 4: settings", "table4/table.md", "table4"),
    "table5": ("Table 5: what it costs", "table5/table.md", "table5"),
    "ppo": ("Deamortised against amortised PPO", "ppo/ppo.md", "ppo"),
    "bench": ("Benchmark", "bench/bench.md", "bench"),
    "ablations": ("Ablations", "ablations/table.md", "ablations"),
}
DRAWINGS = {
    "theorem": "Theorem 4.1: law of noisy particles, of the exact flow, and of descent without noise.",
    "gradients": "Facts about the gradient: Eq. 25, estimators, shares of the terms of Prop. C.1.",
    "ppo": "Distance to the optimum of Eq. 3, reward and KL, weight of the reward, and break-even.",
    "bench": "Ratios to the yardsticks, and seconds by length and batch.",
}


class Gathered(NamedTuple):
    """What lies on disk; what a command did not leave is missing.

    Attributes:
        scale: name.
        evidence: rows that claims are judged from.
        table1: rows of `table1/table.csv`.
        texts: Markdown by result, see SAID, and captions by figure.
        figures: PNG files by name.
        summaries: summary.json by experiment.
        readme: sections of README.md.
    """

    scale: str
    evidence: Evidence
    table1: Sequence[Row]
    texts: dict[str, str]
    figures: dict[str, Path]
    summaries: dict[str, dict[str, Any]]
    readme: dict[str, str]


def read_rows(path: Path) -> list[Row]:
    """Rows of a CSV file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def gather(results: Path, scale: str) -> Gathered:
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
        "comparisons": own / "table1/comparisons.csv", "rewards": own / "table2/table.csv",
        "rejections": own / "table3/table.csv", "expenses": own / "table5/table.csv",
        "calls": own / f"figure3/figure3{suffix}.csv", "budgets": own / f"figure4/figure4{suffix}.csv",
        "checks": theory / "checks.csv", "terms": theory / "terms.csv", "ppo": own / "ppo/ppo.csv",
        "bench": own / "bench/bench.csv", "ablations": own / "ablations/table.csv",
    }  # fmt: skip
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
    return Gathered(
        scale, evidence, table1,
        {name: path.read_text(encoding="utf-8") for name, path in places.items() if path.exists()},
        {name: path for name, path in drawn.items() if path.exists()},
        {name: json.loads(path.read_text(encoding="utf-8")) for name, path in summaries.items() if path.exists()},
        sections((grid.ROOT / "README.md").read_text(encoding="utf-8")),
    )  # fmt: skip


def committed_evidence(data: Path) -> Evidence:
    """The rows of `figures/data/`, from which README's claims are judged; made at scale=tiny."""
    names = {
        "comparisons": "comparisons", "rewards": "table2", "rejections": "table3", "expenses": "table5",
        "calls": "figure3", "budgets": "figure4", "checks": "theorem_checks", "terms": "theorem_terms", "ppo": "ppo",
        "bench": "bench", "ablations": "ablations",
    }  # fmt: skip
    return Evidence(**{name: read_rows(data / f"{file}.csv") for name, file in names.items()})


def report_blocks(found: Gathered, claims: Sequence[Claim]) -> list[Block]:
    """The report, part by part; a part whose command was not run says so."""
    return [
        Heading(1, f"∇-Reasoner, replicated: results at scale={found.scale}"),
        *_opening(found),
        Heading(2, "Claims and verdicts"),
        *_claims(claims, found.scale),
        Heading(2, "Table 1: accuracy and cost"),
        *_table1(found),
        Heading(2, "Paired comparisons"),
        *_comparisons(found.evidence.comparisons),
        *_said(found, "table2", "table3", "table4", "table5"),
        *_figures(found),
        Heading(2, "Theorem 4.1 and the gradient, numerically"),
        *_theory(found),
        *_said(found, "ppo", "bench", "ablations"),
        *_from_readme(found, "Deviations from the paper"),
        *_from_readme(found, "Open questions in the paper, and what is assumed here"),
        Heading(2, "Hardware, versions, commands"),
        *_circumstances(found.summaries),
        Heading(2, "Glossary"),
        Markdown(demoted(found.readme["What a run writes"], 1)),
    ]


def _opening(found: Gathered) -> list[Block]:
    text = (
        "An open replication of *∇-Reasoner: LLM Reasoning via Test-Time Gradient Descent in Latent Space* (ICLR 2026, "
        "arXiv 2603.04948). Every number here was computed by the commands named beside it; numbers of the paper are "
        "in columns of their own, are of other models and tasks, and never stand in for ours. Tables sort by a click "
        "on a column's name."
    )
    rows = []
    for name in EXPERIMENTS:
        target = "theorem" if name == "theory" else name
        one = found.summaries.get(name)
        if one is None:
            rows.append([target, "not run", "", "", "", ""])
            continue
        seconds = sum(part.get("wall_clock_seconds", 0) for part in one["invocations"])
        rows.append([target, one["status"], one["command"], f"{seconds / 60:.1f}", _commit(one), one["started"]])
    columns = ["target", "status", "command", "minutes", "commit", "started"]
    return [Markdown(text), Heading(2, "What was run"), Table(columns, rows)]


def _commit(one: dict[str, Any]) -> str:
    return f"{one['commit'][:10]}{'-dirty' if one['dirty'] else ''}" if one.get("commit") else "unknown"


def _claims(claims: Sequence[Claim], scale: str) -> list[Block]:
    rows = [[one.name, one.text, one.verdict, one.evidence, scale, one.source] for one in claims]
    rules = "\n".join(f"- **{one.name}.** {one.rule}" for one in claims)
    note = (
        "The paper's claims, judged on our models and tasks by the rules below; a verdict says nothing about the "
        "paper's own models. ∇-Reasoner is the one-pass method; a cell is a policy and a task."
    )
    columns = ["", "claim", "verdict", "evidence", "scale", "from"]
    return [Markdown(note), Table(columns, rows), Heading(3, "Rules of the verdicts"), Markdown(rules)]


def claims_markdown(claims: Sequence[Claim], scale: str) -> str:
    """The claims as README's table."""
    lines = ["| | claim | verdict | evidence | scale | from |", "|---|---|---|---|---|---|"]
    for one in claims:
        lines.append(f"| {one.name} | {one.text} | {one.verdict} | {one.evidence} | {scale} | {one.source} |")
    return "\n".join(lines) + "\n"


def _not_run(target: str) -> Markdown:
    return Markdown(f"Not run: `./reproduce.sh {target}`.")


def _number(text: str, form: str) -> str:
    return format(float(text), form) if text else ""


def _table1(found: Gathered) -> list[Block]:
    if not found.table1:
        return [_not_run("table1")]
    sources = list(dict.fromkeys(row["paper_source"] for row in found.table1 if row["paper_value"]))
    rows = []
    for row in found.table1:
        paper = "-" if row["paper_source"] == "not in the paper" else "?"
        if row["paper_value"]:
            paper = f"{float(row['paper_value']):.1f} [{sources.index(row['paper_source']) + 1}]"
        interval = f"{float(row['ci_low']):.1f} to {float(row['ci_high']):.1f}" if row["ci_low"] else ""
        counts = f"{row['num_problems']} x {row['num_seeds']}" if row["num_problems"] else ""
        costs = [_number(row[name], ",.4g" if name != "flops" else ".3g") for name in tables.COSTS]
        rows.append([
            row["policy"], row["task"], NAMES[row["method"]], _number(row["accuracy"], ".1f"), interval, paper, *costs,
            row["num_failed"], counts, row["status"],
        ])  # fmt: skip
    columns = [
        "policy", "task", "method", "ours, %", "95 % interval", "paper, %", "model calls", "decoded tokens", "FLOPs",
        "seconds", "failed", "problems x seeds", "status",
    ]  # fmt: skip
    notes = [tables.NOTE, *(f"[{number}] {source}" for number, source in enumerate(sources, start=1))]
    blocks: list[Block] = [Table(columns, rows), Markdown("\n\n".join(notes))]
    if "table1" in found.figures:
        caption = "Accuracy with its 95 % interval against mean FLOPs per problem, policy and reward together."
        blocks.append(Figure(found.figures["table1"], caption))
    return blocks


def _comparisons(comparisons: Sequence[Row]) -> list[Block]:
    """∇-Reasoner (one pass) against each method, as run and at matched FLOPs."""
    pairs: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in comparisons:
        if row["method"] == "nabla_reasoner" and row["verdict"] != "not run":
            pairs.setdefault((row["policy"], row["task"], row["baseline"]), {})[row["matched_on"]] = row
    if not pairs:
        return [_not_run("table1")]
    rows = []
    for (policy, task, baseline), own in pairs.items():
        cells = []
        for name in ("rollouts", "flops"):
            one = own[name]
            cells += [
                f"{float(one['difference']):+.1f}", f"{float(one['ci_low']):+.1f} to {float(one['ci_high']):+.1f}",
                f"{float(one['p_value']):.2g}", one["verdict"],
            ]  # fmt: skip
        rows.append([policy, task, NAMES[baseline], *cells, own["flops"]["note"]])
    each = ["difference", "95 % interval", "p", "verdict"]
    columns = ["policy", "task", "∇-Reasoner minus", *(f"{name}, as run" for name in each)]
    columns += [f"{name}, equal FLOPs" for name in each] + ["how matched"]
    note = (
        "Points of accuracy on the same problems. Equal FLOPs: the baseline's pool cut at the smallest size that costs "
        "at least as much, so that it never gets less, or its largest pool where that costs less."
    )
    return [Markdown(note), Table(columns, rows)]


def _said(found: Gathered, *names: str) -> Iterable[Block]:
    """Results whose command wrote a text of its own."""
    for name in names:
        heading, _, target = SAID[name]
        yield Heading(2, heading)
        if name not in found.texts:
            yield _not_run(target)
            continue
        text = found.texts[name].split("\nOne reward at a time")[0]  # of Table 2's text, the combined table
        yield Markdown(demoted(text, 2))
        drawn = [key for key in found.figures if key.split("/")[0] == name]
        yield from (Figure(found.figures[key], DRAWINGS.get(key, key)) for key in drawn)


def _figures(found: Gathered) -> Iterable[Block]:
    for name, heading in CAPTIONED.items():
        yield Heading(2, heading)
        if name in found.figures:
            caption = found.texts.get(name, "").partition("\n")[2]  # the first line is the file's name
            yield Figure(found.figures[name], caption.strip())
        else:
            yield _not_run(name)


def _theory(found: Gathered) -> Iterable[Block]:
    checks = found.evidence.checks
    if not checks:
        yield _not_run("theorem")
        return
    passed, failed = (sum(row["passed"] == word for row in checks) for word in ("True", "False"))
    skipped = len(checks) - passed - failed
    yield Markdown(
        f"{passed} checks passed, {failed} failed, {skipped} skipped. A check passes when its value is at most its "
        "tolerance; in rows ending in `_seen` a difference has to be there (value: noise floor over difference)."
    )
    columns = list(checks[0])
    yield Table(columns, [[row[name] for name in columns] for row in checks])
    yield from (Figure(found.figures[k], DRAWINGS[k]) for k in ("theorem", "gradients") if k in found.figures)


def _from_readme(found: Gathered, heading: str) -> list[Block]:
    return [Heading(2, heading), Markdown(found.readme[heading])]


def _circumstances(summaries: dict[str, dict[str, Any]]) -> Iterable[Block]:
    if not summaries:
        yield Markdown("No command left a summary.json.")
        return
    rows, packages = [], {}
    for name, one in summaries.items():
        peak = f"{one['peak_bytes'] / 2**20:,.0f}" if one.get("peak_bytes") else ""
        threads = one.get("threads", one["config"].get("threads"))
        rows.append([name, one["device"], str(one["count"]), str(threads or "torch's choice"), peak, one["platform"]])
        listed = ", ".join([f"Python {one['python']}", *(f"{key} {value}" for key, value in one["packages"].items())])
        packages.setdefault(listed, []).append(name)
    yield Table(["experiment", "device", "count", "threads", "peak memory, MiB", "platform"], rows)
    yield from (Markdown(f"{', '.join(names)}: {listed}.") for listed, names in packages.items())
    yield Code("\n".join(dict.fromkeys(part["command"] for one in summaries.values() for part in one["invocations"])))


def draw_table1(results: Path, folder: Path) -> Path | None:
    """Accuracy against FLOPs from Table 1's rows, into the report's folder; None without a finished row."""
    path = results / "table1/table.csv"
    if not path.exists():
        return None
    table = pd.read_csv(path)
    if table.dropna(subset=["accuracy", "flops"]).empty:
        return None
    figure = figures.accuracy_against_flops(table)
    figures.save(figure, folder, "table1")
    plt.close(figure)
    return folder / "table1.png"


def read_settings(words: Sequence[str]) -> dict[str, str]:
    """scale, results_dir and wandb.

    Raises:
        ValueError: another setting, or a value that there is not.
    """
    given = [word for word in words if word.startswith("wandb=")]
    try:
        chosen = artefacts.read_settings([word for word in words if word not in given])
    except ValueError as error:
        raise ValueError(f"{error} Or wandb=online.") from error
    mode = given[-1].partition("=")[2] if given else "offline"
    publishing.check_mode(mode)
    return {**chosen, "wandb": os.environ.get("WANDB_MODE", mode)}


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    try:
        chosen = read_settings(arguments)
        results = Path(chosen["results_dir"])
        found = gather(results, chosen["scale"])
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return WRONG
    folder = results / chosen["scale"] / "report"
    folder.mkdir(parents=True, exist_ok=True)
    if drawn := draw_table1(results / chosen["scale"], folder):
        found = found._replace(figures={**found.figures, "table1": drawn})
    claims = judge(found.evidence)
    blocks = report_blocks(found, claims)
    (folder / "report.html").write_text(to_html(blocks), encoding="utf-8")
    (folder / "report.md").write_text(to_markdown(blocks, folder), encoding="utf-8")
    print(claims_markdown(claims, chosen["scale"]))
    print(f"Made by {shlex.join(['./reproduce.sh', 'report', *arguments])}: {folder}/report.html, report.md")
    if chosen["wandb"] != "online":
        return 0
    try:
        print(f"W&B Report: {publishing.publish(blocks, folder, scale=chosen['scale'])}")
    except publishing.PublishingError as error:
        print(f"error: not published: {error} The files in {folder} are kept.", file=sys.stderr)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
