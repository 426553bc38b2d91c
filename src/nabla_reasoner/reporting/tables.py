"""Tables as CSV, Markdown and LaTeX text, and reading CSV back."""

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..evaluation.outcomes import Row


def table_texts(rows: str, header: Sequence[str], body: list[list[str]], notes: list[str]) -> dict[str, str]:
    """Return a table's files by name: its rows (CSV text) as they are, and its body and notes in two formats."""
    text = markdown(header, body) + "".join(f"\n{note}\n" for note in notes)
    return {"table.csv": rows, "table.md": text, "table.tex": latex(header, body, notes)}


def csv_text(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Format rows as CSV: floats with six digits, None as an empty cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([f"{row[c]:.6g}" if isinstance(row[c], float) else row[c] for c in columns])
    return stream.getvalue()


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table whose columns line up, so that it can be read in a terminal too."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    padded.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """Format a LaTeX tabular (package booktabs), with the notes as paragraphs below it."""
    lines = ["% needs \\usepackage{booktabs}", f"\\begin{{tabular}}{{lll{'r' * (len(header) - 4)}l}}", "\\toprule"]
    body = [" & ".join(map(_escaped, line)) + r" \\" for line in [header, *rows]]
    lines += [body[0], "\\midrule", *body[1:], "\\bottomrule", "\\end{tabular}"]
    return "\n".join([*lines, *(f"\n{_escaped(note)}" for note in notes)]) + "\n"


def _escaped(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file; every value is text."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def replace_file(path: Path, text: str) -> None:
    """Write a file so that readers see the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
