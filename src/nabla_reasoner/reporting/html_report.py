"""Report blocks, and their two local formats: one self-contained HTML page, and Markdown."""

import base64
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mistune
from markupsafe import Markup

from . import templates
from .tables import markdown_cell


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


class Links(NamedTuple):
    """Pages beside the report, in its folder: a sentence, then the address and the text of each."""

    sentence: str
    pages: Sequence[tuple[str, str]]


class Code(NamedTuple):
    """Preformatted lines."""

    text: str


Block = Heading | Markdown | Table | Figure | Links | Code
MARKS = {
    "reproduced": "good",
    "partly": "middle",
    "not reproduced": "bad",
    "not run": "none",
    "too little was run": "none",
}  # CSS classes of cells


def anchor(text: str) -> str:
    """Return the id of a heading."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def to_html(blocks: Sequence[Block]) -> str:
    """Return one page with everything in it: opening it loads no other file and no address.

    Args:
        blocks: the first is the page's title, a heading of level 1.
    """
    pages = templates.environment()
    pages.filters |= {"anchor": anchor, "rendered": _rendered, "scrolled": _scrolled}
    headings = [block for block in blocks if isinstance(block, Heading)]
    page = pages.get_template("report.html").render(
        title=next(heading.text for heading in headings if heading.level == 1),
        sections=[heading.text for heading in headings if heading.level == 2],
        blocks=[_content(block) for block in blocks],
        marks=MARKS,
        style=templates.read("report.css"),
        script=templates.read("report.js"),
    )
    return f"{page}\n"


def _content(block: Block) -> dict[str, object]:
    """Return what the template reads of a block: its kind, and its fields."""
    kind = type(block).__name__.lower()
    if isinstance(block, Figure):
        data = base64.b64encode(block.path.read_bytes()).decode()
        return {"kind": kind, "data": data, "name": block.path.stem, "caption": block.caption}
    return {"kind": kind, **block._asdict()}


def _rendered(text: str) -> Markup:
    """Return Markdown as HTML; tags in it are shown as text, images and links to files are left out."""
    page = mistune.create_markdown(escape=True, plugins=["table"])(_without_images(text))
    page = re.sub(r'<a href="(?!https?:|#)[^"]*">(.*?)</a>', r"\1", page)
    return Markup(re.sub(r"<table>.*?</table>", lambda match: _scrolled(match[0]), page, flags=re.DOTALL))


def _scrolled(table: str) -> Markup:
    """Put a table into a scrolling box, so that a wide one does not widen the page, nor a long one fill it."""
    return Markup(f'<div class="scroll{" tall" if table.count("<tr>") > 24 else ""}">{table}</div>')


def _without_images(text: str) -> str:
    return re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)


def to_markdown(blocks: Sequence[Block], folder: Path) -> str:
    """Return the report as Markdown; figures are linked from `folder`."""
    return "\n".join(f"{markdown(block, folder)}\n" for block in blocks)


def markdown(block: Block, folder: Path | None = None) -> str:
    """Return one block as Markdown; without a folder a figure is only its caption, and a link only its text."""
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Markdown(text):
            return _without_images(text).strip()
        case Table(columns, rows):
            lines = [columns, ["---"] * len(columns), *rows]
            return "\n".join(f"| {' | '.join(map(markdown_cell, line))} |" for line in lines)
        case Figure(path, caption):
            link = f"![{path.stem}]({os.path.relpath(path, folder)})\n\n" if folder else ""
            return link + _without_images(caption).strip()
        case Links(sentence, pages):
            items = [f"- [{text}]({address})" if folder else f"- {text}" for address, text in pages]
            return "\n".join([sentence, "", *items])
        case Code(text):
            return f"```\n{text}\n```"


def demoted(text: str, levels: int) -> str:
    """Return Markdown with its headings that many levels lower; indented code is not changed."""
    return re.sub(r"^(#+) ", lambda match: "#" * (len(match[1]) + levels) + " ", text, flags=re.MULTILINE)


def page_blocks(text: str) -> list[Block]:
    """Return a Markdown page, whose first line is its title, as a section of the report."""
    title, _, body = text.partition("\n")
    return [Heading(2, title.removeprefix("# ")), Markdown(demoted(body.strip(), 1))]
