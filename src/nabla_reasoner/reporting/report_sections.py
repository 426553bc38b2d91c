"""The chapters of a report: from what lies on disk to blocks, without reading anything."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import accuracy_table
from .evidence import Claim, Evidence
from .html_report import Block, Code, Figure, Heading, Markdown, Table, demoted
from .method_names import NAMES

Row = dict[str, str]
EXPERIMENTS = ("table1", "table2", "theory", "ppo", "bench", "ablations")  # those that leave a summary.json
CAPTIONED = {  # figure: its heading
    "figure1": "Figure 1: sampling and descent on a reward landscape",
    "figure2": "Figure 2: the framework",
    "figure3": "Figure 3: model calls by method",
    "figure4": "Figure 4: accuracy against compute",
}
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
    "ablations/ablations": "Each part of the method against the default on the same problems: accuracy, and FLOPs.",
}


class ReportInputs(NamedTuple):
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


def report_blocks(found: ReportInputs, claims: Sequence[Claim]) -> list[Block]:
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


def _opening(found: ReportInputs) -> list[Block]:
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


def _not_run(target: str) -> Markdown:
    return Markdown(f"Not run: `./reproduce.sh {target}`.")


def _number(text: str, form: str) -> str:
    return format(float(text), form) if text else ""


def _table1(found: ReportInputs) -> list[Block]:
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
        costs = [_number(row[name], ",.4g" if name != "flops" else ".3g") for name in accuracy_table.COSTS]
        rows.append(
            [
                row["policy"],
                row["task"],
                NAMES[row["method"]],
                _number(row["accuracy"], ".1f"),
                interval,
                paper,
                *costs,
                row["num_failed"],
                counts,
                row["status"],
            ]
        )
    columns = [
        "policy",
        "task",
        "method",
        "ours, %",
        "95 % interval",
        "paper, %",
        "model calls",
        "decoded tokens",
        "FLOPs",
        "seconds",
        "failed",
        "problems x seeds",
        "status",
    ]
    notes = [accuracy_table.NOTE, *(f"[{number}] {source}" for number, source in enumerate(sources, start=1))]
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
                f"{float(one['difference']):+.1f}",
                f"{float(one['ci_low']):+.1f} to {float(one['ci_high']):+.1f}",
                f"{float(one['p_value']):.2g}",
                one["verdict"],
            ]
        rows.append([policy, task, NAMES[baseline], *cells, own["flops"]["note"]])
    each = ["difference", "95 % interval", "p", "verdict"]
    columns = ["policy", "task", "∇-Reasoner minus", *(f"{name}, as run" for name in each)]
    columns += [f"{name}, equal FLOPs" for name in each] + ["how matched"]
    note = (
        "Points of accuracy on the same problems. Equal FLOPs: the baseline's pool cut at the smallest size that costs "
        "at least as much, so that it never gets less, or its largest pool where that costs less."
    )
    return [Markdown(note), Table(columns, rows)]


def _said(found: ReportInputs, *names: str) -> Iterable[Block]:
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


def _figures(found: ReportInputs) -> Iterable[Block]:
    for name, heading in CAPTIONED.items():
        yield Heading(2, heading)
        if name in found.figures:
            caption = found.texts.get(name, "").partition("\n")[2]  # the first line is the file's name
            yield Figure(found.figures[name], caption.strip())
        else:
            yield _not_run(name)


def _theory(found: ReportInputs) -> Iterable[Block]:
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


def _from_readme(found: ReportInputs, heading: str) -> list[Block]:
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
