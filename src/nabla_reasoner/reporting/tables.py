"""Tables as CSV, Markdown and LaTeX text, and reading CSV back."""

import csv
import io
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..evaluation.json_files import warn_once
from ..evaluation.outcomes import Row

Cell = str | float | int | None  # value of a row
TOKENS = ("own", "best", "dto", "one_by_one", "first", "second", "tokens", "token", "old", "new")
# Columns of our tables that hold names and words, and stay text even if they look like numbers or missing values.
TEXT = {
    *TOKENS,
    *("policy", "task", "method", "baseline", "reward", "kind", "group", "setting", "changes", "arm", "greedy_is"),
    *("form", "part", "matched_on", "measured_on", "quantity", "variant", "verdict", "status", "note", "source"),
    *("paper_source", "case", "curve", "series", "name", "passed", "side", "space", "weights", "problem", "question"),
    *("problem_id", "last", "policy_draw", "dto_draw", "draw_without_reward"),
}


def table_texts(rows: str, header: Sequence[str], body: list[list[str]], notes: list[str]) -> dict[str, str]:
    """Return a table's files by name: its rows (CSV text) as they are, and its body and notes in two formats."""
    text = markdown(header, body) + "".join(f"\n{one_line(note)}\n" for note in notes)
    return {"table.csv": rows, "table.md": text, "table.tex": latex(header, body, notes)}


def csv_text(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Format rows as CSV: floats with six digits, None as an empty cell."""
    cells = ([f"{row[c]:.6g}" if isinstance(row[c], float) else row[c] for c in columns] for row in rows)
    return "".join(map(_csv_line, (columns, *cells)))


def _csv_line(cells: Sequence[object]) -> str:
    stream = io.StringIO()
    csv.writer(stream).writerow(cells)  # only characters of the line end are quoted: both of "\r\n"
    return stream.getvalue().removesuffix("\r\n") + "\n"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table whose columns line up, so that it can be read in a terminal too."""
    lines = [[markdown_cell(text) for text in line] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    padded.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


# What Markdown would change: escapes, entities, tags, links, and pairs of marks; an underscore within a word is none.
SPECIAL = re.compile(r"\\(?=[!-/:-@[-`{-~])|&(?=#?\w+;)|<(?=[A-Za-z/!?])|\](?=[(\[])")
PAIRED = (re.compile(r"\*"), re.compile(r"`"), re.compile(r"(?<![^\W_])_|_(?![^\W_])"))


def _literal(text: str) -> str:
    """Return a text that Markdown shows as it stands."""
    escaped = SPECIAL.sub(r"\\\g<0>", text)
    for mark in PAIRED:
        if len(mark.findall(text)) > 1:
            escaped = mark.sub(r"\\\g<0>", escaped)
    return escaped


def markdown_cell(text: str) -> str:
    """Return a text that stays within one cell of a Markdown table, and is shown there as it stands."""
    return one_line(_literal(text)).replace("|", "\\|")


def one_line(text: str) -> str:
    """Return a text with its line breaks as spaces."""
    return " ".join(text.splitlines())


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """Format a LaTeX tabular (package booktabs), with the notes as paragraphs below it."""
    lines = ["% needs \\usepackage{booktabs}", f"\\begin{{tabular}}{{lll{'r' * (len(header) - 4)}l}}", "\\toprule"]
    body = [" & ".join(map(_escaped, line)) + r" \\" for line in [header, *rows]]
    lines += [body[0], "\\midrule", *body[1:], "\\bottomrule", "\\end{tabular}"]
    return "\n".join([*lines, *(f"\n{_escaped(note)}" for note in notes)]) + "\n"


LATEX = str.maketrans(  # characters with a meaning in LaTeX, and symbols that its text fonts lack
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "|": r"\textbar{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "−": "$-$", "≥": r"$\ge$", "≤": r"$\le$", "×": r"$\times$"}
    | {"∇": r"$\nabla$", "∂": r"$\partial$", "√": r"$\surd$", "δ": r"$\delta$", "λ": r"$\lambda$", "ρ": r"$\rho$"}
)


def _escaped(text: str) -> str:
    """Return a text for LaTeX; braces part a "*" or "[" at its beginning from the command before it."""
    escaped = one_line(text).translate(LATEX)
    return f"{{}}{escaped}" if escaped.startswith(("*", "[")) else escaped


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a CSV file as text; both empty, with a line, if the file is missing or damaged.

    Damaged is a file that is empty or cut: its last line has no end, or a row is not as long as the header.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""
    columns, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    if text.endswith("\n") and columns and all(len(row) == len(columns) for row in rows):
        return columns, rows
    if path.exists():
        warn_once(f"{path} is damaged and is treated as missing. Run its command again.")
    return [], []


class FileRow(dict[str, Cell]):
    """A row of a CSV file, by column; asking for a column that the file lacks names both.

    Args:
        path: the file.
        values: the row.

    Raises:
        ValueError: on a column that is missing, at `row[column]`.
    """

    def __init__(self, path: Path, values: Mapping[str, Cell]):
        super().__init__(values)
        self.path = path

    def __missing__(self, column: str) -> Cell:
        raise ValueError(
            f"{self.path} must have the column {column!r}; it has {', '.join(self)}. Run the command again that "
            "writes it, or restore the file."
        )


def read_csv(path: Path) -> list[FileRow]:
    """Read the rows of a CSV file; every value is text; none if the file is missing or damaged."""
    columns, rows = read_rows(path)
    return [FileRow(path, dict(zip(columns, row, strict=True))) for row in rows]


def text_columns(columns: Collection[str]) -> set[str]:
    """Return which columns of a table hold text. `reward` is a name beside a policy, otherwise a number."""
    return TEXT.intersection(columns) - (set() if "policy" in columns else {"reward"})


def replace_file(path: Path, text: str) -> None:
    """Write a file so that readers see the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
