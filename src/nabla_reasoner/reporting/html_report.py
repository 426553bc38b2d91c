"""Report blocks, and their two local formats: one self-contained HTML page, and Markdown."""

import base64
import html
import importlib.resources
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mistune

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


class Code(NamedTuple):
    """Preformatted lines."""

    text: str


Block = Heading | Markdown | Table | Figure | Code
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
    style, script = (
        importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
        for name in ("report.css", "report.js")
    )
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
        f'<link rel="icon" href="data:,">\n<style>\n{style}</style>\n</head>\n<body>\n{first}\n'
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n'
        + "\n".join(rest)
        + f"\n<script>\n{script}</script>\n</body>\n</html>\n"
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
    """Return Markdown as HTML; tags in it are shown as text, images and links to files are left out."""
    page = mistune.create_markdown(escape=True, plugins=["table"])(_without_images(text))
    page = re.sub(r'<a href="(?!https?:|#)[^"]*">(.*?)</a>', r"\1", page)
    return re.sub(r"<table>.*?</table>", lambda match: _scrolled(match[0]), page, flags=re.DOTALL)


def _scrolled(table: str) -> str:
    """Put a table into a scrolling box, so that a wide one does not widen the page, nor a long one fill it."""
    return f'<div class="scroll{" tall" if table.count("<tr>") > 24 else ""}">{table}</div>'


def _without_images(text: str) -> str:
    return re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)


def to_markdown(blocks: Sequence[Block], folder: Path) -> str:
    """Return the report as Markdown; figures are linked from `folder`."""
    return "\n".join(f"{markdown(block, folder)}\n" for block in blocks)


def markdown(block: Block, folder: Path | None = None) -> str:
    """Return one block as Markdown; without a folder a figure is only its caption."""
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
        case Code(text):
            return f"```\n{text}\n```"


def demoted(text: str, levels: int) -> str:
    """Return Markdown with its headings that many levels lower; indented code is not changed."""
    return re.sub(r"^(#+) ", lambda match: "#" * (len(match[1]) + levels) + " ", text, flags=re.MULTILINE)


def page_blocks(text: str) -> list[Block]:
    """Return a Markdown page, whose first line is its title, as a section of the report."""
    title, _, body = text.partition("\n")
    return [Heading(2, title.removeprefix("# ")), Markdown(demoted(body.strip(), 1))]
