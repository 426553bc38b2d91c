"""All records of a scale as one Parquet file, and as a folder that `datasets.load_from_disk` reads."""

import importlib.util
import os
import shutil
from pathlib import Path

from ..config.settings import ExportSettings
from ..config.targets import how_to_make
from ..evaluation.completion_files import EXTRA
from .command import Command, refusing
from .recording import Recording

PACKAGES = ("pyarrow", "datasets")


def run(command: Command, settings: ExportSettings) -> int:
    """Write the table in both forms; return the exit status."""
    with refusing():
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise ValueError(
                f"export needs {' and '.join(PACKAGES)}; {' and '.join(missing)} is not installed. {EXTRA}"
            )
        from ..evaluation.record_table import record_table

        results = Path(settings.results_dir, settings.scale)
        table = record_table(results)
        if not table.num_rows:
            raise ValueError(f"{results} must hold records; got none. {how_to_make('table1', results)}")
    import datasets
    from pyarrow import parquet

    with Recording(command, settings.model_dump(), scale=settings.scale, varied={"seed": []}) as recording:
        file, folder = recording.folder / "records.parquet", recording.folder / "dataset"
        unfinished = recording.folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        parquet.write_table(table, unfinished / file.name)
        datasets.disable_progress_bars()
        datasets.Dataset(table).save_to_disk(unfinished / folder.name)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished / folder.name, folder)
        os.replace(unfinished / file.name, file)
        unfinished.rmdir()
        print(f"{table.num_rows} records, {table.num_columns} columns")
        print(f"  pandas.read_parquet({str(file)!r})\n  datasets.load_from_disk({str(folder)!r})")
        return recording.finish()
