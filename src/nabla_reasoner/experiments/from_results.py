"""Tables and figures made from the results of other targets, without running a model."""

from collections.abc import Callable
from pathlib import Path

from ..config.settings import ResultsSettings
from ..evaluation.outcomes import Experiment, read_records_of
from ..reporting.figures import Drawing, write_figure
from .command import Command, refusing
from .recording import Recording


def read_table1(results: Path) -> Experiment:
    """Read Table 1's records from a scale's results folder; raises ValueError if there are none."""
    return read_records_of("table1", results)


def write_result_table(
    command: Command, settings: ResultsSettings, make: Callable[[Path, str, str], dict[str, str]]
) -> int:
    """Write the table files of a target and print table.md; return the exit status.

    Args:
        make: text by file name, from the scale's results folder, the scale and the command line.
    """
    scale = settings.scale
    results = Path(settings.results_dir, scale)
    with refusing():
        texts = make(results, scale, command.recipe)
    with Recording(command, settings.model_dump(), scale=scale, varied={"seed": []}) as recording:
        for name, text in texts.items():
            (recording.folder / name).write_text(text, encoding="utf-8")
        print(texts["table.md"])
        return recording.finish(tables=("table",))


def write_result_figure(command: Command, settings: ResultsSettings, draw: Callable[[Path, str, str], Drawing]) -> int:
    """Write the figures of a target with their caption and rows, and print the caption; return the exit status.

    Args:
        draw: figures, caption and rows, from the scale's results folder, the scale and the command line.
    """
    scale = settings.scale
    results = Path(settings.results_dir, scale)
    with refusing():
        drawing = draw(results, scale, command.recipe)
    with Recording(command, settings.model_dump(), scale=scale, varied={"seed": []}) as recording:
        path = write_figure(command.target.name, drawing, results, scale)
        print(path.read_text(encoding="utf-8"))
        return recording.finish(tables=(path.stem,))
