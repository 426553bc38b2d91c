"""Sections of the report: turns gathered results into blocks; does no I/O."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config.data_folder import spelled
from ..config.targets import find, targets
from . import accuracy_table
from .claims import Decision
from .enough_evidence import MIN_PROBLEMS, TOO_LITTLE, Grid, counted
from .evidence import Evidence, Row
from .html_report import Block, Code, Figure, Heading, Links, Markdown, Table, demoted, page_blocks
from .method_names import NABLA_REASONER, PREFIX, label

TABLES = ("table2", "table3", "table4", "table5")
FIGURES = ("figure1", "figure2", "figure3", "figure4")
STUDIES = ("ppo", "bench", "ablations", "ablations-classifier", "fidelity")
SECTIONS = {"table1", *TABLES, *FIGURES, "theorem", *STUDIES}  # that the report has even where nothing was run
CAPTIONS = {
    "theorem": "Theorem 4.1: distribution of noisy particles, of the exact flow, and of descent without noise.",
    "gradients": "Properties of the gradient: Eq. 25, estimators, shares of the terms of Prop. C.1.",
    "ppo": "Distance to the optimum of Eq. 3, reward and KL, weight of the reward, and break-even.",
    "bench": "Ratios to the baselines, and seconds by length and batch.",
    "fidelity": "Rank correlation of predicted and exact changes, right choices, and gain against the reward's AUC.",
    "figure4_flops": "The same curves against FLOPs, of policy and reward together.",
    "figure4_seconds": "The same curves against seconds.",
    "ablations/ablations": "Each part of the method against the default on the same problems: accuracy, and FLOPs.",
}


class ReportInputs(NamedTuple):
    """Results of a scale; those that no command has written are missing.

    Attributes:
        scale: name.
        evidence: rows that claims are decided from.
        table1: rows of `table1/table.csv`.
        checks: rows of `theory/checks.csv`, as text.
        texts: Markdown tables and captions, by target.
        figures: PNG files by name.
        summaries: summary.json by target.
        grid: what a complete run of the scale covers.
        pages: text of docs/deviations.md and docs/outputs.md, by name.
        traces: pages of problems step by step: address from the report, and text.
    """

    scale: str
    evidence: Evidence
    table1: Sequence[Row]
    checks: Sequence[dict[str, str]]
    texts: dict[str, str]
    figures: dict[str, Path]
    summaries: dict[str, dict[str, Any]]
    pages: dict[str, str]
    grid: Grid
    traces: Sequence[tuple[str, str]] = ()


def report_blocks(inputs: ReportInputs, decisions: Sequence[Decision]) -> list[Block]:
    """Return the report; a section whose command was not run says so.

    A target of one's own, or for a GPU, has a section once it has written a text, if its file gives a heading.
    """
    further = [name for name in inputs.texts if name not in SECTIONS and find(name).heading]
    return [
        Heading(1, f"∇-Reasoner, replicated: results at scale={inputs.scale}"),
        *_opening(inputs),
        Heading(2, "Claims and verdicts"),
        *_claims(decisions, inputs),
        Heading(2, "What was run"),
        _runs(inputs.summaries),
        Heading(2, find("table1").heading),
        *_table1(inputs),
        Heading(2, "Paired comparisons"),
        *_comparisons(inputs.evidence.comparisons),
        *_results(inputs, *TABLES),
        *_figures(inputs),
        Heading(2, find("theorem").heading),
        *_theory(inputs),
        *_results(inputs, *STUDIES, *further),
        *page_blocks(inputs.pages["deviations"]),
        Heading(2, "Hardware, versions, commands"),
        *_circumstances(inputs.summaries),
        *page_blocks(inputs.pages["outputs"]),
    ]


def _opening(inputs: ReportInputs) -> list[Block]:
    text = (
        "An open replication of *∇-Reasoner: LLM Reasoning via Test-Time Gradient Descent in Latent Space* (ICLR 2026, "
        "arXiv 2603.04948). Every number here was computed by the commands named beside it. Numbers of the paper are "
        "for other models and tasks; they are in columns of their own and never replace ours. Click a column's name to "
        "sort by it."
    )
    blocks: list[Block] = [Markdown(text), *_partial(inputs)]
    if inputs.traces:
        sentence = "Problems of Table 1, step by step (pages in the folder traces beside this one):"
        blocks.append(Links(sentence, inputs.traces))
    return blocks


def _runs(summaries: dict[str, dict[str, Any]]) -> Table:
    """Return a row for every target that leaves a summary.json."""
    rows = []
    for target in targets().values():
        if "summary.json" not in target.writes:
            continue
        summary = summaries.get(target.name)
        if summary is None:
            rows.append([target.name, "not run", "", "", "", ""])
            continue
        minutes = sum(run.get("wall_clock_seconds", 0) for run in summary["invocations"]) / 60
        cells = [summary["status"], summary["command"], f"{minutes:.1f}", _commit(summary), summary["started"]]
        rows.append([target.name, *cells])
    return Table(["target", "status", "command", "minutes", "commit", "started"], rows)


def _partial(inputs: ReportInputs) -> list[Block]:
    """Return a sentence on how much of Table 1 there is, if it is not complete."""
    complete, total = inputs.grid.complete_rows(inputs.table1)
    if complete == total:
        return []
    seeds = max(inputs.grid.seeds.values())
    return [
        Markdown(
            f"**Partial run:** {complete} of {total} cells of Table 1 (policy, task and method) are complete, with "
            f"all problems of scale={inputs.scale} and {'up to ' if seeds > 1 else ''}{seeds} "
            f"seed{'s' if seeds > 1 else ''}."
        )
    ]


def _commit(summary: dict[str, Any]) -> str:
    return f"{summary['commit'][:10]}{'-dirty' if summary['dirty'] else ''}" if summary.get("commit") else "unknown"


def _claims(decisions: Sequence[Decision], inputs: ReportInputs) -> list[Block]:
    rows = [
        [claim.name, verdict, claim.text, evidence, inputs.scale, ", ".join(claim.targets)]
        for claim, verdict, evidence in decisions
    ]
    rules = "\n".join(f"- **{claim.name}.** {claim.rule}" for claim, _, _ in decisions)
    note = (
        "Verdicts on the paper's claims, for our models and tasks, by the rules below. They say nothing about the "
        "paper's own models. ∇-Reasoner is the one-pass method; a cell is a policy and a task. A verdict needs every "
        f"cell of the scale, with {MIN_PROBLEMS} problems (or a whole benchmark); otherwise it is “{TOO_LITTLE}”."
    )
    _, left_out = counted(inputs.evidence.of_test_problems(), inputs.grid)
    if left_out:
        cells = ", ".join(f"{policy} on {task} ({number})" for (policy, task), number in left_out.items())
        note += f" Rows of further cells with fewer problems do not count: {cells}."
    columns = ["", "verdict", "claim", "evidence", "scale", "from"]
    return [Markdown(note), Table(columns, rows), Heading(3, "Rules of the verdicts"), Markdown(rules)]


def _not_run(target: str) -> Markdown:
    return Markdown(spelled(f"Not run: `./reproduce.sh {target}`."))


def _number(value: float | int | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _table1(inputs: ReportInputs) -> list[Block]:
    if not inputs.table1:
        return [_not_run("table1")]
    sources = list(dict.fromkeys(row["paper_source"] for row in inputs.table1 if row["paper_value"] is not None))
    rows = []
    for row in inputs.table1:
        texts = accuracy_table.format_row(row, sources)
        costs = [_number(row[name], ",.4g" if name != "flops" else ".3g") for name in accuracy_table.COSTS]
        rows.append([*texts[:2], label(row["method"]), *texts[3:7], *costs, *texts[11:]])
    columns = ["ours, %" if name == "accuracy, %" else name for name in accuracy_table.HEADER]
    notes = [accuracy_table.NOTE, *(f"[{number}] {source}" for number, source in enumerate(sources, start=1))]
    blocks: list[Block] = [Table(columns, rows), Markdown("\n\n".join(notes))]
    if "table1" in inputs.figures:
        caption = "Accuracy with its 95 % interval against mean FLOPs per problem, policy and reward together."
        blocks.append(Figure(inputs.figures["table1"], caption))
    return blocks


def _comparisons(comparisons: Sequence[Row]) -> list[Block]:
    """Return both one-pass forms of ∇-Reasoner against each method, as run and at matched FLOPs."""
    pairs: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in comparisons:
        if row["method"] in (NABLA_REASONER, PREFIX) and row["verdict"] != "not run":
            key = (row["method"], row["policy"], row["task"], row["baseline"])
            pairs.setdefault(key, {})[row["matched_on"]] = row
    if not pairs:
        return [_not_run("table1")]
    rows = []
    for (method, policy, task, baseline), matched in pairs.items():
        cells = []
        for matched_on in ("rollouts", "flops"):
            if (row := matched.get(matched_on)) is None:  # e.g. the baseline's pool has other seeds
                cells += ["not run", "", "", ""]
                continue
            interval = f"{row['ci_low']:+.1f} to {row['ci_high']:+.1f}"
            cells += [row["verdict"], f"{row['difference']:+.1f}", interval, f"{row['p_adjusted']:.2g}"]
        problems = f"{next(iter(matched.values()))['num_problems']:.0f}"
        names = [label(method), label(baseline), policy, task, problems]
        rows.append([cells[0], *names, *cells[1:], matched["flops"]["note"] if "flops" in matched else ""])
    names = ["verdict", "difference", "95 % interval", "p"]
    columns = ["verdict, as run", "method", "minus", "policy", "task", "problems"]
    columns += [*(f"{name}, as run" for name in names[1:]), *(f"{name}, equal FLOPs" for name in names), "how matched"]
    note = (
        "Points of accuracy on the same problems. Equal FLOPs: the baseline's pool cut at the smallest size that costs "
        "at least as much, so that it never gets less, or its largest pool where that costs less. p: adjusted by "
        "Holm's method over all comparisons of one form."
    )
    return [Markdown(note), Table(columns, rows)]


def _results(inputs: ReportInputs, *names: str) -> Iterable[Block]:
    """Yield the results that have a text."""
    for name in names:
        heading = find(name).heading
        yield Heading(2, heading)
        if name not in inputs.texts:
            yield _not_run(name)
            continue
        text = inputs.texts[name].split("\nOne reward at a time")[0]  # of Table 2, the joint table only
        yield Markdown(demoted(text, 2))
        figures = [key for key in inputs.figures if key.split("/")[0] == name]
        yield from (Figure(inputs.figures[key], CAPTIONS.get(key, key)) for key in figures)


def _figures(inputs: ReportInputs) -> Iterable[Block]:
    for name in FIGURES:
        heading = find(name).heading
        yield Heading(2, heading)
        if name not in inputs.figures:
            yield _not_run(name)
            continue
        caption = inputs.texts.get(name, "").partition("\n")[2]  # the first line is the file's name
        yield Figure(inputs.figures[name], caption.strip())
        parts = [key for key in inputs.figures if key.startswith(f"{name}_")]
        yield from (Figure(inputs.figures[key], CAPTIONS.get(key, key)) for key in parts)


def _theory(inputs: ReportInputs) -> Iterable[Block]:
    checks = inputs.checks
    if not checks:
        yield _not_run("theorem")
        return
    passed, failed = (sum(row["passed"] == value for row in checks) for value in ("True", "False"))
    skipped = len(checks) - passed - failed
    yield Markdown(
        f"{passed} checks passed, {failed} failed, {skipped} skipped. A check passes when its value is at most its "
        "tolerance. Rows ending in `_seen` need a difference (value: noise floor over difference)."
    )
    columns = list(checks[0])
    yield Table(columns, [[row[name] for name in columns] for row in checks])
    names = [name for name in ("theorem", "gradients") if name in inputs.figures]
    yield from (Figure(inputs.figures[name], CAPTIONS[name]) for name in names)


def _circumstances(summaries: dict[str, dict[str, Any]]) -> Iterable[Block]:
    if not summaries:
        yield Markdown("There is no summary.json.")
        return
    rows, experiments = [], {}
    for name, summary in summaries.items():
        peak = f"{summary['peak_bytes'] / 2**20:,.0f}" if summary.get("peak_bytes") else ""
        threads = summary.get("threads", summary["config"].get("threads")) or "torch's choice"
        rows.append([name, summary["device"], str(summary["count"]), str(threads), peak, summary["platform"]])
        packages = [f"Python {summary['python']}", *(" ".join(package) for package in summary["packages"].items())]
        experiments.setdefault(", ".join(packages), []).append(name)
    yield Table(["experiment", "device", "count", "threads", "peak memory, MiB", "platform"], rows)
    yield from (Markdown(f"{', '.join(names)}: {packages}.") for packages, names in experiments.items())
    commands = (run["command"] for summary in summaries.values() for run in summary["invocations"])
    yield Code("\n".join(dict.fromkeys(commands)))
