"""All records of a results folder as one Arrow table, a row per problem and repeat.

Needs pyarrow, which is optional: this module is imported when it is used.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow

from ..cost import Cost
from ..file_tree import files_below
from .record_files import NAME, record_files
from .records import read_records

TEXTS = ("policy", "task", "method", "problem_id", "response", "extracted", "answer", "status", "error")
SCHEMA = pyarrow.schema(
    [
        ("experiment", pyarrow.string()),  # folder below the scale's, e.g. "table1" or "table1/budget"
        *((name, pyarrow.string()) for name in TEXTS),
        ("seed", pyarrow.int64()),
        ("repeat", pyarrow.int64()),
        ("correct", pyarrow.bool_()),
        ("reward", pyarrow.float64()),
        *((name, pyarrow.float64()) for name in Cost._fields),  # counts too: those of an own method may be fractions
        ("search", pyarrow.string()),  # JSON text: its fields depend on the method
        ("settings", pyarrow.string()),  # JSON text: what made the record; null if unknown
    ]
)


def record_table(results: Path) -> pyarrow.Table:
    """Return the records below a scale's results folder, ordered by file and line; costs are columns of their own.

    Raises:
        ValueError: a file that cannot be read.
    """
    return pyarrow.Table.from_pylist(list(_rows(results)), schema=SCHEMA)


def _rows(results: Path) -> Iterator[dict[str, Any]]:
    folders = [path.parent for path in files_below(results) if NAME.fullmatch(path.name)]
    folders = {folder.resolve(): folder for folder in reversed(folders)}  # one that is linked too counts once
    for folder in sorted(folder for folder in folders.values() if "wandb" not in folder.relative_to(results).parts):
        experiment = folder.parent if folder.name == "records" else folder
        for file in record_files(folder):
            settings = None if file.settings is None else json.dumps(file.settings, ensure_ascii=False)
            for record in read_records(file.path):
                yield {
                    "experiment": experiment.relative_to(results).as_posix(),
                    **{key: value for key, value in record.items() if key not in ("cost", "search")},
                    **record["cost"],
                    "search": json.dumps(record["search"], ensure_ascii=False),
                    "settings": settings,
                }
