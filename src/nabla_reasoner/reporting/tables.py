"""Tables as CSV, Markdown and LaTeX text."""

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..evaluation.outcomes import Row


def table_texts(rows: str, header: Sequence[str], body: list[list[str]], notes: list[str]) -> dict[str, str]:
    text = markdown(header, body) + "".join(f"\n{note}\n" for note in notes)
    return {"table.csv": rows, "table.md": text, "table.tex": latex(header, body, notes)}


def csv_text(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Rows as CSV; floats with six digits, None as nothing."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([f"{row[c]:.6g}" if isinstance(row[c], float) else row[c] for c in columns])
    return stream.getvalue()


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up, so that it reads in a terminal too."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    padded.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """A LaTeX tabular (package booktabs), the notes as paragraphs below it."""
    lines = ["% needs \\usepackage{booktabs}", f"\\begin{{tabular}}{{lll{'r' * (len(header) - 4)}l}}", "\\toprule"]
    body = [" & ".join(map(_escaped, line)) + r" \\" for line in [header, *rows]]
    lines += [body[0], "\\midrule", *body[1:], "\\bottomrule", "\\end{tabular}"]
    return "\n".join([*lines, *(f"\n{_escaped(note)}" for note in notes)]) + "\n"


def _escaped(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))


def replace_file(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
