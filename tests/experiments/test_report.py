"""Report: a self-contained page with sortable tables, and its publishing to a local W&B server."""

import contextlib
import csv
import html.parser
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import command_processes
import installing
import pytest
import wandb_server
from wandb_server import Server

from nabla_reasoner.__main__ import WRONG, main
from nabla_reasoner.config.targets import find
from nabla_reasoner.evaluation import record_files
from nabla_reasoner.experiments import keep, report
from nabla_reasoner.experiments.command import FAILED
from nabla_reasoner.experiments.table1 import draw_table
from nabla_reasoner.reporting import claims, evidence, html_report, report_sections, wandb_report
from nabla_reasoner.reporting.evidence import NOT_RUN

ROOT = Path(__file__).resolve().parents[2]
BROWSER = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
COMMITTED = {  # files of a complete run: path below the results, name in figures/
    "tiny/table1/table.csv": "data/table1.csv",
    "tiny/table1/comparisons.csv": "data/comparisons.csv",
    "tiny/figure4/figure4.csv": "data/figure4.csv",
    "tiny/figure4/figure4.png": "figure4.png",
    "tiny/figure4/figure4.md": "figure4.md",
    "theory/checks.csv": "data/theorem_checks.csv",
    "theory/theorem.png": "theorem.png",
    "tiny/ppo/ppo.csv": "data/ppo.csv",
    "tiny/ppo/ppo.md": "ppo.md",
}


def copy_results(folder: Path) -> Path:
    for place, source in COMMITTED.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / "figures" / source, folder / place)
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return copy_results(tmp_path)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Results with a report, which tests only read, and what the command printed."""
    folder = copy_results(tmp_path_factory.mktemp("reported"))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["report", f"results_dir={folder}"]) == 0
    return folder, printed.getvalue()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def without_column(path: Path, column: str) -> str:
    """Return the text of a CSV file without one column."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    lines = io.StringIO()
    writer = csv.DictWriter(lines, [name for name in rows[0] if name != column], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: value for name, value in row.items() if name != column} for row in rows)
    return lines.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "column"),
    [("comparisons", "verdict"), ("table3", "rejected"), ("figure3", "method"), ("theorem_terms", "weights")],
)
def test_column_missing_from_evidence_is_named_with_its_file(tmp_path: Path, name: str, column: str):
    source = ROOT / "figures" / "data"
    (tmp_path / f"{name}.csv").write_text(without_column(source / f"{name}.csv", column), encoding="utf-8")
    found = report.read_evidence(lambda other: (tmp_path if other == name else source) / f"{other}.csv")
    with pytest.raises(ValueError, match=f"{name}.csv must have the column '{column}'; it has "):
        claims.decide_claims(found)


@pytest.mark.slow
def test_report_of_a_table_without_a_column_is_refused_in_one_line(results: Path, capsys):
    path = results / "tiny/table1/table.csv"
    path.write_text(without_column(path, "flops"), encoding="utf-8")
    assert main(["report", f"results_dir={results}"]) == WRONG
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line.startswith(f"error: {path} must have the column 'flops'; it has policy, task, ")


@pytest.mark.slow
def test_report_of_a_policy_whose_name_looks_like_a_number(results: Path):
    for name in ("table", "comparisons"):
        path = results / f"tiny/table1/{name}.csv"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        named = [line.replace("tiny-base,", "007,") for line in lines if line.startswith(("policy,", "tiny-base,"))]
        path.write_text("".join(named), encoding="utf-8")
    assert main(["report", f"results_dir={results}"]) == 0
    assert "| 007 " in (results / "tiny/report/report.md").read_text(encoding="utf-8")


class Page(html.parser.HTMLParser):
    """Contents of a page: tags with attributes, whether they nest, and text."""

    VOID = ("meta", "link", "img", "br", "hr")

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.slow
def test_page_loads_nothing_and_names_missing_targets(reported: tuple[Path, str]):
    results, printed = reported
    text = (results / "tiny/report/report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "video", "audio", "source", "base")
        assert "srcset" not in attributes
        assert attributes.get("src", "data:").startswith("data:")
        if tag == "link":
            assert attributes["href"].startswith("data:")
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", text)
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link[1:] for link in links if link.startswith("#")} <= ids
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 3, "Table 1, Figure 4 and the theorem"
    assert all(image.startswith("data:image/png;base64,iVBOR") for image in images)
    for target in ("table2", "table3", "table4", "table5", "figure1", "figure2", "figure3", "bench"):
        assert f"Not run: ./reproduce.sh {target}." in page.text
    for text in ("Deviations from the paper", "Step size at scale=tiny", "Open questions", "What a run writes"):
        assert text in page.text
    assert "matched_on" in page.text
    assert {"deviations-from-the-paper-and-open-questions", "what-a-run-writes-and-how-to-share-it"} <= ids
    assert "| C10 |" in printed
    assert (results / "tiny/report/report.md").read_text(encoding="utf-8").startswith("# ∇-Reasoner, replicated")


@pytest.mark.slow
def test_target_with_a_heading_has_a_section_once_it_was_run(results: Path):
    """What `bench-gpu` and targets of a user wrote stood nowhere in the report."""

    def headings() -> list[str]:
        found = report.gather(results, "tiny")
        blocks = report_sections.report_blocks(found, claims.decide_claims(found.evidence, found.grid))
        return [block.text for block in blocks if isinstance(block, html_report.Heading)]

    assert "Benchmark on a GPU" not in headings()
    folder = results / find("bench-gpu").path("tiny")
    folder.mkdir(parents=True)
    (folder / "bench-gpu.md").write_text("# Benchmark\n\nText.\n", encoding="utf-8")
    assert headings().count("Benchmark on a GPU") == 1


@pytest.mark.slow
def test_partial_run_says_how_much_there_is(results: Path):
    path = results / "tiny/table1/table.csv"

    def opening() -> str:
        found = report.gather(results, "tiny")
        made = report_sections.report_blocks(found, claims.decide_claims(found.evidence, found.grid))
        return "\n".join(html_report.markdown(block) for block in made[:3])

    assert "Partial run" not in opening()
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(",300,3,", ",20,3,", 1), encoding="utf-8")
    assert "**Partial run:** 95 of 96 cells of Table 1" in opening()
    header, *rows = text.splitlines(keepends=True)
    path.write_text(header + rows[0].removesuffix("ok\n") + "partial: 5 of 900\n", encoding="utf-8")
    assert "**Partial run:** 0 of 96 cells of Table 1" in opening()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("table.csv", ""),
        ("comparisons.csv", "policy,task\ntiny-base"),
        ("summary.json", "{}"),
        ("summary.json", "null"),
    ],
)
def test_damaged_files_are_named_and_left_out(results: Path, file: str, content: str, capsys):
    record_files.warn_once.cache_clear()
    (results / "tiny/table1" / file).write_text(content, encoding="utf-8")
    found = report.gather(results, "tiny")
    report_sections.report_blocks(found, claims.decide_claims(found.evidence, found.grid))
    if file == "table.csv":  # the only one that the figure is drawn from
        draw_table(results / "tiny/table1/table.csv", results)
    assert f"{file} is damaged" in capsys.readouterr().err


def test_text_in_a_column_of_numbers_is_named(results: Path):
    path = results / "tiny/table1/table.csv"
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    rows[1]["accuracy"] = "abc"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ValueError, match=r"table.csv: accuracy of row 2 must be a number; got 'abc'"):
        draw_table(path, results)


def test_paper_value_never_replaces_ours(results: Path):
    rows = [
        {**row, "accuracy": None, "ci_low": None, "ci_high": None, "status": "not run"}
        for row in evidence.typed_rows(results / "tiny/table1/table.csv")
        if row["method"] == "best_of_n"
    ]
    found = report.gather(results, "tiny")._replace(table1=rows)
    table = next(block for block in report_sections._table1(found) if isinstance(block, html_report.Table))
    ours, paper, status = (table.columns.index(name) for name in ("ours, %", "paper, %", "status"))
    assert {(row[ours], row[status]) for row in table.rows} == {("", "not run")}
    assert table.rows[0][paper] == "70.2 [1]"


def test_paired_comparisons_lead_with_the_verdict_and_say_on_how_many_problems(results: Path):
    found = report.gather(results, "tiny")
    few = [{**row, "num_problems": 30 if row["task"] == "products" else 300} for row in found.evidence.comparisons]
    table = next(block for block in report_sections._comparisons(few) if isinstance(block, html_report.Table))
    assert table.columns[0] == "verdict, as run"
    task, problems = table.columns.index("task"), table.columns.index("problems")
    assert {(row[task] == "products", row[problems]) for row in table.rows} == {(True, "30"), (False, "300")}
    verdicts = {row["verdict"] for row in few if row["matched_on"] == "rollouts"} - {NOT_RUN}
    assert {row[0] for row in table.rows} <= verdicts


def test_links_stand_in_every_format():
    links = html_report.Links("Pages:", [("traces/1.html", "a < b")])
    page = html_report.to_html([html_report.Heading(1, "t"), links])
    assert '<li><a href="traces/1.html">a &lt; b</a></li>' in page
    assert html_report.markdown(links, Path()) == "Pages:\n\n- [a < b](traces/1.html)"
    assert html_report.markdown(links) == "Pages:\n\n- a < b"


@pytest.mark.parametrize("beside", [("right_token", "row_movement"), ()])
def test_ablations_show_their_table_and_what_was_measured_beside_it(results: Path, beside: tuple[str, ...]):
    folder = results / "tiny/ablations"
    folder.mkdir()
    for name in ("table", *beside):
        (folder / f"{name}.md").write_text(f"| {name} of this run |\n", encoding="utf-8")
    found = report.gather(results, "tiny")
    made = list(report_sections._results(found, "ablations"))
    text = "".join(block.text for block in made if isinstance(block, html_report.Markdown))
    assert "| table of this run |" in text
    assert "Not run" not in text
    for name, heading in (("right_token", "Right token"), ("row_movement", "Row movement")):
        assert (f"## {heading}\n\n| {name} of this run |" in text) == (name in beside)


def test_figure_of_another_scale_is_shown(results: Path):
    (results / "unseen/figure1").mkdir(parents=True)
    shutil.copytree(results / "tiny/table1", results / "unseen/table1")
    for kind in ("png", "md"):
        shutil.copyfile(ROOT / f"figures/figure1.{kind}", results / f"unseen/figure1/figure1.{kind}")
    found = report.gather(results, "unseen")
    assert "figure1" in found.figures
    assert found.texts["figure1"].startswith("# figure1.png")


def test_figures_of_one_target_stand_together(results: Path):
    shutil.copyfile(ROOT / "figures/figure4_flops.png", results / "tiny/figure4/figure4_flops.png")
    found = report.gather(results, "tiny")
    names = [block.path.stem for block in report_sections._figures(found) if isinstance(block, html_report.Figure)]
    assert names == ["figure4", "figure4_flops"]
    assert report._figure_name("figure4", Path("figure4-small_flops.png"), "small") == "figure4_flops"


@pytest.mark.slow
def test_report_shows_verdicts_of_claim_rules(results: Path):
    found = report.gather(results, "tiny")
    decisions = claims.decide_claims(found.evidence)
    made = report_sections.report_blocks(found, decisions)
    table = next(block for block in made if isinstance(block, html_report.Table) and "verdict" in block.columns)
    assert [row[1] for row in table.rows] == [decision.verdict for decision in decisions]
    changed = found.evidence._replace(comparisons=[])
    assert claims.decide_claims(changed)[0].verdict == NOT_RUN != decisions[0].verdict


def test_html_escapes_tags_and_drops_local_links():
    page = html_report.to_html(
        [
            html_report.Heading(1, "a < b"),
            html_report.Markdown("<script>alert(1)</script>\n\n[file](other.md) ![x](y.png)"),
            html_report.Table(["<i>"], [["partly"], ["<b>"]]),
        ]
    )
    assert "<h1" in page
    assert "a &lt; b" in page
    assert "<script>alert" not in page
    assert "other.md" not in page
    assert "y.png" not in page
    assert '<td class="middle">partly</td>' in page
    assert "<td>&lt;b&gt;</td>" in page


@pytest.mark.slow
def test_docs_are_written_from_the_kept_rows(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "root"
    keep.keep_rows(results, root / "figures" / "data")
    shutil.copyfile(ROOT / "README.md", root / "README.md")
    shutil.copytree(ROOT / "docs", root / "docs")
    monkeypatch.setattr(report, "ROOT", root)
    monkeypatch.setattr(report, "draw_table", lambda *_: None)  # takes as long as all else
    assert main(["report", f"results_dir={results}", "docs=true"]) == 0
    kept = {path.name for path in (root / "figures" / "data").iterdir()}
    assert kept == {"table1.csv", "comparisons.csv", "figure4.csv", "ppo.csv", "theorem_checks.csv"}
    before, after = (path.read_text(encoding="utf-8") for path in (ROOT / "README.md", root / "README.md"))
    decided = report.committed_decisions(root / "figures/data")
    page = (root / "docs" / "claims.md").read_text(encoding="utf-8")
    assert page == report.claims_page(decided)
    assert claims.evidence_table(decided["tiny"], "tiny") in page
    assert claims.verdict_table(decided) in after
    assert "| C2 | 10 to 40 % fewer model calls than strong baselines | not run | not run |" in after
    assert before.split("| C1 |")[0] == after.split("| C1 |")[0]
    assert before.split(report.README_END)[1] == after.split(report.README_END)[1]


def test_readme_without_markers_is_refused():
    with pytest.raises(ValueError, match="must have the lines"):
        report.with_claims("# a\n\n| C1 |\n", {})


def test_page_blocks_and_demoted_headings():
    assert html_report.page_blocks("# t, u\n\n## One\n\nx\n") == [
        html_report.Heading(2, "t, u"),
        html_report.Markdown("### One\n\nx"),
    ]
    assert html_report.demoted("# a\n\nx # y\n## b", 2) == "### a\n\nx # y\n#### b"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scale=huge"], "paper, single_gpu, small, tiny, unseen"),
        (["wandb=on"], "'offline', 'online', 'disabled'"),
        (["seed=1"], "results_dir"),
        (["scale=small", "docs=true"], "docs=true needs scale=tiny"),
        ([], "Run ./reproduce.sh table1 results_dir="),
    ],
)
def test_wrong_settings_and_empty_results_are_refused(tmp_path: Path, words: list[str], said: str, capsys):
    assert main(["report", f"results_dir={tmp_path}", *words]) == WRONG
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_wandb_blocks_keep_order_and_carry_every_part(results: Path):
    found = report.gather(results, "tiny")
    made = wandb_report.wandb_blocks(
        report_sections.report_blocks(found, claims.decide_claims(found.evidence)), "reader"
    )
    kinds = [type(block).__name__ for block in made]
    assert kinds[:3] == ["TableOfContents", "MarkdownBlock", "H1"]
    assert kinds.count("PanelGrid") == len(found.figures)
    assert kinds.count("H1") == sum(
        isinstance(b, html_report.Heading) and b.level == 2
        for b in report_sections.report_blocks(found, claims.decide_claims(found.evidence))
    )


def publish(results: Path, server: Server, **environment: str) -> subprocess.CompletedProcess:
    """Run the command in a separate process: wandb keeps the server and the key of its first use."""
    own = {"NETRC": str(results / "netrc")}
    words = ["report", f"results_dir={results}", "wandb=online"]
    return command_processes.shared().run_command(words, wandb_server.environment(server.url) | own | environment)


@pytest.mark.slow
def test_publishing_saves_a_report_and_its_figures(results: Path, server: Server):
    done = publish(results, server)
    assert done.returncode == 0, done.stderr
    assert f"W&B Report: {server.url}/{wandb_server.ENTITY}/nabla-reasoner/reports/" in done.stdout
    (sent,) = server.reports
    assert (sent["entityName"], sent["projectName"], sent["type"]) == (wandb_server.ENTITY, "nabla-reasoner", "runs")
    found = report.gather(results, "tiny")
    verdict = claims.decide_claims(found.evidence, found.grid)[0].verdict
    row = f"| C1 | {verdict} | accuracy up by more than 20 % |"
    assert row in json.dumps(json.loads(sent["spec"]), ensure_ascii=False)
    (run,) = server.runs.values()
    assert (run["groupName"], run["displayName"]) == ("report", "report-tiny")
    media = [data for path, data in server.files.items() if "/media/images/figures/" in path]
    assert (ROOT / "figures/figure4.png").read_bytes() in media
    assert len(media) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "refused the key"),
        ({"WANDB_BASE_URL": "http://127.0.0.1:9"}, "cannot be reached"),
        ({"WANDB_API_KEY": ""}, "no W&B key. Run `wandb login`"),
    ],
)
def test_failed_publishing_gives_reason_and_keeps_files(
    results: Path, server: Server, changed: dict[str, str], said: str
):
    server.rejects_keys = True
    shutil.rmtree(results / "tiny/table1")  # its figure takes as long as all else
    done = publish(results, server, **changed)
    assert done.returncode == FAILED
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: not published: ")
    assert said in line
    assert (results / "tiny/report/report.html").exists()
    assert not server.reports


@pytest.mark.slow
def test_nothing_is_published_unless_requested(results: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(wandb_report, "publish", None)
    shutil.rmtree(results / "tiny/table1")  # its figure takes as long as all else
    assert main(["report", f"results_dir={results}"]) == 0


PHONE = """<!DOCTYPE html><meta charset="utf-8"><body><script>
const frame = document.createElement('iframe');
frame.style.cssText = 'width:400px;height:900px;border:0';
frame.srcdoc = PAGE;
frame.onload = () => {
  const page = frame.contentDocument, whole = page.documentElement;
  const table = page.querySelector('#claims-and-verdicts ~ .scroll table');
  const visible = [...table.querySelectorAll('td[data-name=verdict]')].filter(cell => {
    const box = cell.getBoundingClientRect();
    return box.width > 100 && box.left >= 0 && box.right <= 400;
  });
  document.documentElement.dataset.seen = JSON.stringify({
    fits: whole.clientWidth > 380 && whole.scrollWidth <= whole.clientWidth,
    cards: table.scrollWidth <= table.parentElement.clientWidth,
    verdicts: visible.length,
  });
};
document.body.append(frame);
</script></body>
"""


@pytest.mark.slow
def test_page_opens_and_sorts_in_a_browser(reported: tuple[Path, str], tmp_path: Path):
    installing.needed("chromium", BROWSER, "install Debian's package chromium")
    results, _ = reported
    source = results / "tiny/report/report.html"
    text = source.read_text(encoding="utf-8")
    clicks = (  # Table 1: twice on the column of our accuracy, so that the largest is first
        "<script>const head = [...document.querySelectorAll('#table-1-accuracy-and-cost ~ div th')]"
        ".find(th => th.textContent === 'ours, %'); for (const _ of [1, 2]) head.firstChild.click();"
        "document.documentElement.dataset.first = head.closest('table').tBodies[0].rows[0].cells[3].textContent;"
        "</script></body>"
    )
    page = tmp_path / "clicked.html"
    page.write_text(text.replace("</body>", clicks), encoding="utf-8")

    def browse(address: Path, *words: str) -> str:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        done = subprocess.run(
            [str(BROWSER), *FLAGS, profile, *words, address.as_uri()], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    dom = browse(page, "--dump-dom")
    assert int(re.search(r'data-sortable="(\d+)"', dom)[1]) == text.count("</thead>")
    rows = evidence.typed_rows(results / "tiny/table1/table.csv")
    largest = max(row["accuracy"] for row in rows if row["accuracy"] is not None)
    assert float(re.search(r'data-first="([^"]+)"', dom)[1]) == pytest.approx(largest, abs=0.05)
    phone = tmp_path / "phone.html"
    phone.write_text(PHONE.replace("PAGE", json.dumps(text).replace("</", "<\\/")), encoding="utf-8")
    seen = json.loads(re.search(r'data-seen="([^"]+)"', browse(phone, "--dump-dom"))[1].replace("&quot;", '"'))
    assert seen == {"fits": True, "cards": True, "verdicts": len(claims.CLAIMS)}
    shot = tmp_path / "shot.png"
    browse(source, "--window-size=1400,3000", f"--screenshot={shot}")
    assert shot.stat().st_size > 50_000


def test_results_that_a_kill_has_set_aside_are_said(results: Path, capsys):
    (results / "theory" / ".replaced").mkdir(parents=True)
    report.gather(results, "tiny")
    assert "holds what a killed theorem had written; its earlier results are set aside" in capsys.readouterr().err
