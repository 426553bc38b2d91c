"""The parts of a report, and their two local forms: one self-contained HTML page, and Markdown."""

import base64
import html
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mistune


class Heading(NamedTuple):
    """A heading; level 1 is the title."""

    level: int
    text: str


class Markdown(NamedTuple):
    """Markdown text: paragraphs, lists, tables."""

    text: str


class Table(NamedTuple):
    """A table of text cells."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Figure(NamedTuple):
    """A PNG file with its caption in Markdown."""

    path: Path
    caption: str


class Code(NamedTuple):
    """Lines shown as they are."""

    text: str


Block = Heading | Markdown | Table | Figure | Code
STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff; max-width: 1320px;
       margin: 2rem auto; padding: 0 1.2rem }
h1 { font-size: 1.7rem; line-height: 1.2 } h2 { font-size: 1.3rem; border-bottom: 1px solid #bbb; margin-top: 2.4rem }
h3 { font-size: 1.08rem; margin-top: 1.6rem } p, li { max-width: 80ch }
nav ul { columns: 3; padding-left: 1.1rem; font-size: .93rem }
.scroll { overflow-x: auto; margin: .8rem 0; border: 1px solid #ddd } .tall { max-height: 38rem; overflow-y: auto }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.35; width: 100% }
th, td { padding: .26rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid #e4e4e4 }
th { background: #f1f3f5; position: sticky; top: 0; white-space: nowrap }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
th.number { text-align: right } td.short { white-space: nowrap } td.long { min-width: 20rem }
th span { cursor: pointer } th span:focus-visible { outline: 2px solid #0072B2 }
th[aria-sort=ascending] span::after { content: " \\25B2" }
th[aria-sort=descending] span::after { content: " \\25BC" }
td.good { background: #dcefe6 } td.middle { background: #fbf1d9 } td.bad { background: #f7dfd6 }
td.none { background: #eee }
figure { margin: 1.2rem 0 } figure img { max-width: 100%; height: auto }
figcaption { font-size: .88rem; color: #444; max-width: 95ch }
pre, code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .85em }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto; white-space: pre-wrap }
@page { size: A4 landscape; margin: 12mm }
@media print {
  body { margin: 0; max-width: none; font-size: 10px } nav { display: none }
  .tall { max-height: none } .scroll { overflow: visible; border: 0 } th { position: static; white-space: normal }
  td.number, td.short { white-space: normal } td.long { min-width: 0 } table { font-size: 9px }
  figcaption { font-size: 10px } tr, figure { break-inside: avoid }
  thead { display: table-header-group }
}
"""
# Sorting: a click on a column's name; numbers by value, the rest as text, empty and unknown cells last.
SCRIPT = """
const value = text => {
  const plain = text.trim().replace(/\\u2212/g, '-').replace(/,(?=\\d{3})/g, '');
  return /^[+-]?(\\d|\\.\\d)/.test(plain) ? parseFloat(plain) : NaN;
};
const unknown = text => ['', '?', '-', '–'].includes(text.trim());
let sortable = 0;
for (const table of document.querySelectorAll('table')) {
  if (!table.tHead || !table.tBodies.length) continue;
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const cells = [...body.rows].map(row => row.cells[column]).filter(cell => cell);
    const known = cells.map(cell => cell.textContent).filter(text => !unknown(text));
    if (known.length && known.every(text => !isNaN(value(text)) && text.length < 26)) {
      [head, ...cells].forEach(cell => cell.classList.add('number'));
    }
    cells.filter(cell => cell.textContent.length < 26).forEach(cell => cell.classList.add('short'));
    cells.filter(cell => cell.textContent.length > 40).forEach(cell => cell.classList.add('long'));
    const button = document.createElement('span');  // a button would not be printed again on the next page
    button.tabIndex = 0;
    button.setAttribute('role', 'button');
    button.title = 'sort by this column';
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('keydown', event => event.key === 'Enter' && button.click());
    button.addEventListener('click', () => {
      const down = head.getAttribute('aria-sort') === 'ascending';
      heads.forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const rows = [...body.rows].map(row => [row.cells[column] ? row.cells[column].textContent.trim() : '', row]);
      rows.sort(([a], [b]) => {
        if (unknown(a) || unknown(b)) return unknown(a) - unknown(b);
        const x = value(a), y = value(b);
        const order = isNaN(x) || isNaN(y) ? a.localeCompare(b) : x - y;
        return down ? -order : order;
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
  sortable += 1;
}
document.documentElement.dataset.sortable = sortable;
"""
MARKS = {"reproduced": "good", "partly": "middle", "not reproduced": "bad", "not run": "none"}  # cells shown in colour


def anchor(text: str) -> str:
    """The id of a heading."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def to_html(blocks: Sequence[Block]) -> str:
    """One page with everything in it: no file and no address is loaded when it is opened.

    Args:
        blocks: the first heading of level 1 is the page's title.
    """
    title = next(block.text for block in blocks if isinstance(block, Heading) and block.level == 1)
    links = "".join(
        f'<li><a href="#{anchor(block.text)}">{html.escape(block.text)}</a></li>'
        for block in blocks
        if isinstance(block, Heading) and block.level == 2
    )
    first, *rest = (_html(block) for block in blocks)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n<body>\n{first}\n'
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n'
        + "\n".join(rest)
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f'<h{level} id="{anchor(text)}">{html.escape(text)}</h{level}>'
        case Markdown(text):
            return _rendered(text)
        case Table(columns, rows):
            head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
            body = "".join(f"<tr>{''.join(_html_cell(cell) for cell in row)}</tr>\n" for row in rows)
            return _scrolled(f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>")
        case Figure(path, caption):
            data = base64.b64encode(path.read_bytes()).decode()
            image = f'<img src="data:image/png;base64,{data}" alt="{html.escape(path.stem)}">'
            return f"<figure>{image}<figcaption>{_rendered(caption)}</figcaption></figure>"
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"


def _html_cell(cell: str) -> str:
    mark = f' class="{MARKS[cell]}"' if cell in MARKS else ""
    return f"<td{mark}>{html.escape(cell)}</td>"


def _rendered(text: str) -> str:
    """Markdown as HTML; tags in it are shown as text, images and links to files are left out."""
    page = mistune.create_markdown(escape=True, plugins=["table"])(_without_images(text))
    page = re.sub(r'<a href="(?!https?:|#)[^"]*">(.*?)</a>', r"\1", page)
    return re.sub(r"<table>.*?</table>", lambda found: _scrolled(found[0]), page, flags=re.DOTALL)


def _scrolled(table: str) -> str:
    """A table in a box of its own: a wide one does not widen the page, a long one does not bury what follows."""
    return f'<div class="scroll{" tall" if table.count("<tr>") > 24 else ""}">{table}</div>'


def _without_images(text: str) -> str:
    return re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)


def to_markdown(blocks: Sequence[Block], folder: Path) -> str:
    """The same as Markdown; figures are linked from `folder`."""
    return "\n".join(f"{markdown(block, folder)}\n" for block in blocks)


def markdown(block: Block, folder: Path | None = None) -> str:
    """One block as Markdown; a figure is its caption only where no folder is given."""
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Markdown(text):
            return _without_images(text).strip()
        case Table(columns, rows):
            lines = [columns, ["---"] * len(columns), *rows]
            return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
        case Figure(path, caption):
            link = f"![{path.stem}]({os.path.relpath(path, folder)})\n\n" if folder else ""
            return link + _without_images(caption).strip()
        case Code(text):
            return f"```\n{text}\n```"


def demoted(text: str, levels: int) -> str:
    """Markdown whose headings stand that many levels lower; outside of code."""
    return re.sub(r"^(#+) ", lambda found: "#" * (len(found[1]) + levels) + " ", text, flags=re.MULTILINE)


def sections(text: str) -> dict[str, str]:
    """The sections of level 2 of a Markdown file, by heading; what stands in them, sub-headings included."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return {heading.strip(): body.strip() for heading, body in zip(parts[1::2], parts[2::2], strict=True)}
