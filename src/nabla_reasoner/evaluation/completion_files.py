"""Rows of a file that another program wrote: JSONL, CSV or Parquet, each with the place it was read from."""

import csv
import importlib.util
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..json_text import parse_json
from ..tasks.problem_rows import at_own_precision

FIELD_BYTES = 2**31 - 1  # of a CSV field; the library's own limit is shorter than long completions
EXTRA = "Install the extra `data`: pip install -e '.[data]' in the repository, or pip install pyarrow datasets."


class FileRow(NamedTuple):
    """One row.

    Attributes:
        place: where it stands, e.g. "line 3".
        values: its fields by column; None where it has none.
    """

    place: str
    values: dict[str, object]


def read_rows(path: Path) -> list[FileRow]:
    """Return the rows of a file; its name ends in .jsonl, .csv or .parquet.

    Blank lines are left out. JSONL and CSV must be UTF-8; the first row of a CSV file names its columns.

    Raises:
        ValueError: a file that is missing, empty, of another kind or cannot be read; the message names the line.
    """
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"a file of completions must end in {', '.join(readers)}; got {str(path)!r}. Convert it.")
    if not path.is_file():
        raise ValueError(f"a file of completions must exist; got {str(path)!r}. Check the path.")
    try:
        rows = list(readers[path.suffix.lower()](path))
    except OSError as error:
        raise ValueError(f"{path} must be readable; {error.strerror}. Check its permissions.") from error
    if not rows:
        raise ValueError(f"{path} must have at least one row; it has none. Check that it was written to its end.")
    return rows


def check_columns(path: Path, rows: Sequence[FileRow], wanted: dict[str, str]) -> None:
    """Raise ValueError if no row has one of the columns.

    Args:
        wanted: column by the setting that names it, e.g. {"answer": "gold"}.
    """
    known = list(dict.fromkeys(name for row in rows for name in row.values))
    for setting, column in wanted.items():
        if not any(_has(row.values, column) for row in rows):
            raise ValueError(
                f"{path} must have the column {column!r}; its columns: {', '.join(known)}. Write {setting}=COLUMN."
            )


def has_column(rows: Sequence[FileRow], column: str) -> bool:
    """Return whether any row has the column."""
    return any(_has(row.values, column) for row in rows)


def field(row: FileRow, column: str) -> object:
    """Return a field of a row; None if it has none. Without a column `a.b`, that is field b of the object in a."""
    value: object = row.values
    for name in [column] if column in row.values else column.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _has(values: dict[str, object], column: str) -> bool:
    first, _, rest = column.partition(".")
    inner = values.get(first)
    return column in values or (bool(rest) and isinstance(inner, dict) and _has(inner, rest))


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise ValueError(
            f"{path}, line {line}: the file must be UTF-8; got byte 0x{byte:02x}. Save it as UTF-8."
        ) from error


def _jsonl_rows(path: Path) -> Iterator[FileRow]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = parse_json(line, names_once=True)
        except ValueError as error:
            values = error
        if not isinstance(values, dict):
            reason = f" ({values})" if isinstance(values, ValueError) else ""
            raise ValueError(
                f"{path}, line {number}: every line must be one JSON object; got {shortened(line)}{reason}. "
                "Correct the line; if it is the last one, the file may have been cut off."
            )
        yield FileRow(f"line {number}", values)


def _csv_rows(path: Path) -> Iterator[FileRow]:
    csv.field_size_limit(FIELD_BYTES)
    lines = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    start, header = 1, None
    try:
        for fields in lines:
            number, start = start, lines.line_num + 1  # a quoted field may hold line breaks
            if not fields:
                continue
            if header is None:
                header = fields
                _check_columns(f"{path}, line {number}", header)
            elif len(fields) != len(header):
                raise ValueError(
                    f"{path}, line {number}: every row must have {len(header)} fields, as the first line has; got "
                    f"{len(fields)}. Quote fields that hold commas or line breaks."
                )
            else:
                yield FileRow(f"line {number}", dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise ValueError(f"{path}, line {start}: the row must be CSV; {error}. Check its quotes.") from error


def _check_columns(place: str, names: Sequence[str]) -> None:
    """Raise ValueError on two columns of one name."""
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(f"{place}: columns must have different names; {repeated[0]!r} occurs twice. Rename one.")


def _parquet_rows(path: Path) -> Iterator[FileRow]:
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"{path} can be read only with the package pyarrow, which is not installed. {EXTRA}")
    import pyarrow
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(path)
        _check_columns(str(path), schema.names)
        rows = parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} must be a Parquet file; {reason}. Was it written to its end?") from error
    precisions = {"halffloat": "float16", "float": "float32"}  # as pyarrow calls them
    types = {field.name: precisions.get(str(field.type), "") for field in schema}
    for number, values in enumerate(rows, start=1):
        converted = {name: at_own_precision(value, types[name]) for name, value in values.items()}
        yield FileRow(f"row {number}", converted)


def shortened(value: object) -> str:
    """Return a value for an error message, in ASCII and at most 60 characters long."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
