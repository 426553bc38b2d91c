"""Report of all results, on one page.

Reads the results of the other targets, docs/deviations.md and docs/outputs.md. The HTML page is self-contained: it
opens from disk and loads nothing. It links to a few problems, step by step, which the shipped models solve again.
`wandb=online` also publishes a W&B Report. `keep=true` copies rows and figures of complete default runs to figures/.
`docs=true` writes the claims tables of docs/claims.md and README.md from the rows in figures/data/.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..config.data_folder import data_folder, needs_repository, spelled
from ..config.settings import ReportSettings
from ..config.targets import find, how_to_make, kept_rows, targets
from ..config.wandb_mode import chosen_mode
from ..evaluation.json_files import warn_once
from ..evaluation.provenance import read_summary
from ..reporting import wandb_report
from ..reporting.claims import Decision, decide_claims, evidence_table, verdict_table
from ..reporting.enough_evidence import read_grid
from ..reporting.evidence import Evidence, typed_rows
from ..reporting.html_report import Block, to_html, to_markdown
from ..reporting.report_sections import ReportInputs, report_blocks
from ..reporting.tables import read_csv
from . import keep, report_traces
from .command import Command, refusing
from .recording import Recording, has_set_aside
from .table1 import draw_table

ROOT = data_folder()
KEPT = {  # field of the evidence: name of its rows in figures/data/, if it is another
    "rewards": "table2",
    "rejections": "table3",
    "expenses": "table5",
    "calls": "figure3",
    "budgets": "figure4",
    "checks": "theorem_checks",
    "terms": "theorem_terms",
    "movement": "ablations_row_movement",
}
PAGES = ("deviations", "outputs")  # of docs/; a wheel has them too
README_START = "<!-- claims: written by ./reproduce.sh report docs=true -->\n"
README_END = "<!-- end of claims -->"
CLAIMS_PAGE = """# Claims of the paper, and verdicts

`./reproduce.sh report docs=true` writes this page: verdicts and evidence come from the rows in `figures/data/`, by the
rules in `reporting/claims.py`, which the report prints beside them. The claims
are tested at `scale=tiny` on our models and tasks, and at `scale=small` on SmolLM2-135M-Instruct; `scale=paper` was not
run, so nothing here confirms or refutes the paper's own numbers.

"""
COMMITTED = ("tiny", "small")  # scales with rows in figures/data/, by which the docs decide the claims


def gather(results: Path, scale: str) -> ReportInputs:
    """Read the results of a scale.

    Args:
        results: folder of all results; the theory's checks, which do not depend on the scale, are beside the scales.

    Raises:
        ValueError: there are no results.
    """
    sources = kept_rows()
    evidence = read_evidence(lambda name: keep.result_file(results, scale, *sources[name]))
    table1 = typed_rows(keep.result_file(results, scale, find("table1"), "table.csv"))
    if not table1 and not any(evidence):
        raise ValueError(
            f"{results} must hold results of scale={scale}; got none. {how_to_make('table1', results / scale)}"
        )
    files = [
        (name, keep.result_file(results, scale, target, file))
        for name, target in targets().items()
        for file in target.writes
    ]
    for name, folder in dict.fromkeys((name, path.parent) for name, path in files):
        if has_set_aside(folder):
            warn_once(
                f"{folder} holds what a killed {name} had written; its earlier results are set aside, and put back "
                "when the command is started again."
            )
    figures = {_figure_name(name, path, scale): path for name, path in files if path.suffix == ".png"}
    summaries = {name: read_summary(path.parent) for name, path in files if path.name == "summary.json"}
    checks = keep.result_file(results, scale, find("theorem"), "checks.csv")
    return ReportInputs(
        scale=scale,
        evidence=evidence,
        table1=table1,
        checks=read_csv(checks),
        texts=_texts(files),
        figures={name: path for name, path in figures.items() if path.exists()},
        summaries={name: summary for name, summary in summaries.items() if summary is not None},
        grid=read_grid(scale),
        pages={name: spelled((ROOT / f"docs/{name}.md").read_text(encoding="utf-8")) for name in PAGES},
    )


def _texts(files: Sequence[tuple[str, Path]]) -> dict[str, str]:
    """Return the Markdown files of each target as one text; those after the first have their names as headings.

    Args:
        files: by the target that writes them.
    """
    texts: dict[str, str] = {}
    for name, path in files:
        if path.suffix == ".md" and path.exists():
            text = path.read_text(encoding="utf-8")
            heading = f"## {path.stem.replace('_', ' ').capitalize()}\n\n"
            texts[name] = f"{texts[name]}\n{heading}{text}" if name in texts else text
    return texts


def _figure_name(target: str, path: Path, scale: str) -> str:
    name = path.stem.replace(f"-{scale}", "", 1)  # before what a figure's name adds to the target's
    return f"{target}/{name}" if target == "ablations" else name


def read_evidence(locate: Callable[[str], Path]) -> Evidence:
    """Read the rows that the claims are decided from.

    Args:
        locate: path of the rows, by their name in figures/data/.
    """
    return Evidence(**{field: typed_rows(locate(KEPT.get(field, field))) for field in Evidence._fields})


def committed_evidence(data: Path, scale: str = "tiny") -> Evidence:
    """Read the rows of `figures/data/` that were made at a scale."""
    return read_evidence(lambda name: data / f"{name}{keep.row_suffix(scale)}.csv")


def committed_decisions(data: Path) -> dict[str, list[Decision]]:
    """Decide the claims of the docs from the rows of `figures/data/`, for each scale that has some."""
    return {scale: decide_claims(committed_evidence(data, scale), read_grid(scale)) for scale in COMMITTED}


def claims_page(decided: Mapping[str, Sequence[Decision]]) -> str:
    """Return the text of docs/claims.md."""
    tables = (f"## `scale={scale}`\n\n{evidence_table(decisions, scale)}" for scale, decisions in decided.items())
    return CLAIMS_PAGE + "\n".join(tables)


def with_claims(readme: str, decided: Mapping[str, Sequence[Decision]]) -> str:
    """Return README's text with its claims table replaced.

    Raises:
        ValueError: the markers around the table are missing.
    """
    before, start, rest = readme.partition(README_START)
    _, end, after = rest.partition(README_END)
    if not end:
        raise ValueError(f"README.md must have the lines {README_START.strip()!r} and {README_END!r}. Add them.")
    return before + start + verdict_table(decided) + end + after


def write_docs() -> None:
    """Write the claims of the docs from the rows in figures/data/."""
    readme = ROOT / "README.md"
    decided = committed_decisions(ROOT / "figures" / "data")
    text = with_claims(readme.read_text(encoding="utf-8"), decided)
    (ROOT / "docs" / "claims.md").write_text(claims_page(decided), encoding="utf-8")
    readme.write_text(text, encoding="utf-8")


def run(command: Command, settings: ReportSettings) -> int:
    """Write the page, and publish it if wandb=online; return the exit status."""
    results, scale = Path(settings.results_dir), settings.scale
    with refusing():
        if settings.docs:
            needs_repository("docs=true")
        if settings.docs and scale != "tiny":
            raise ValueError(f"docs=true needs scale=tiny, which the docs are about; got scale={scale}.")
        inputs = gather(results, scale)
    with Recording(command, settings.model_dump(), scale=scale, varied={"seed": []}) as recording:
        folder = recording.folder
        if drawing := draw_table(results / scale / "table1" / "table.csv", folder):
            inputs = inputs._replace(figures={**inputs.figures, "table1": drawing})
        inputs = inputs._replace(traces=report_traces.write_pages(results, scale, folder))
        decisions = decide_claims(inputs.evidence, inputs.grid)
        blocks = report_blocks(inputs, decisions)
        (folder / "report.html").write_text(to_html(blocks), encoding="utf-8")
        (folder / "report.md").write_text(to_markdown(blocks, folder), encoding="utf-8")
        if settings.keep:
            sources = [find(name) for name in command.target.reads if find(name).keeps]
            reasons = keep.keep_complete(results, sources, scale)
            print("".join(f"Not kept in figures/: {reason}.\n" for reason in reasons), end="")
        if settings.docs:
            write_docs()
        print(evidence_table(decisions, scale))
        return recording.finish(failed=not _published(blocks, folder, settings))


def _published(blocks: Sequence[Block], folder: Path, settings: ReportSettings) -> bool:
    """Publish the page as a W&B Report if that is asked for; returns whether nothing went wrong."""
    if chosen_mode(settings.wandb) != "online":
        return True
    try:
        print(f"W&B Report: {wandb_report.publish(blocks, folder, scale=settings.scale)}")
    except wandb_report.PublishingError as error:
        print(f"error: not published: {error} The files in {folder} are kept.", file=sys.stderr)
        return False
    return True
