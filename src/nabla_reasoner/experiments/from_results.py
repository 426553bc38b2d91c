"""Tables and figures made from the results of other targets, without running a model."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ..reporting.figures import Drawing, write_figure
from .command import Command, refusing
from .recording import Recording


def write_result_table(
    command: Command, settings: Mapping[str, str], make: Callable[[Path, str, str], dict[str, str]]
) -> int:
    """Write the table files of a target and print table.md; return the exit status.

    Args:
        make: text by file name, from the scale's results folder, the scale and the command line.
    """
    scale = settings["scale"]
    results = Path(settings["results_dir"], scale)
    with refusing():
        texts = make(results, scale, command.recipe)
    with Recording(command, settings, scale=scale, varied={"seed": []}) as recording:
        for name, text in texts.items():
            (recording.folder / name).write_text(text, encoding="utf-8")
        print(texts["table.md"])
        return recording.finish(tables=("table",))


def write_result_figure(
    command: Command, settings: Mapping[str, str], draw: Callable[[Path, str, str], Drawing]
) -> int:
    """Write the figures of a target with their caption and rows, and print the caption; return the exit status.

    Args:
        draw: figures, caption and rows, from the scale's results folder, the scale and the command line.
    """
    scale = settings["scale"]
    results = Path(settings["results_dir"], scale)
    with refusing():
        drawing = draw(results, scale, command.recipe)
    with Recording(command, settings, scale=scale, varied={"seed": []}) as recording:
        path = write_figure(command.target.name, drawing, results, scale)
        print(path.read_text(encoding="utf-8"))
        return recording.finish(tables=(path.stem,))
