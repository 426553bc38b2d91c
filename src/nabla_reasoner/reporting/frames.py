"""Our result tables as data frames."""

from pathlib import Path

import pandas as pd

from .tables import text_columns


def read_frame(path: Path) -> pd.DataFrame:
    """Read a CSV file that a command wrote: names and words as text, the other columns as pandas types them.

    Nothing but an empty field is a missing value, and in a column of numbers "nan": a policy may be called NA or 007.
    """
    columns = list(pd.read_csv(path, nrows=0))
    texts = text_columns(columns)
    missing = {name: [""] if name in texts else ["", "nan"] for name in columns}
    return pd.read_csv(path, dtype=dict.fromkeys(texts, str), keep_default_na=False, na_values=missing)
