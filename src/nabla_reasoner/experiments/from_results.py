"""Tables and figures made from the results of other targets, without running a model."""

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from ..reporting.figures import write_figure
from .command import Command, Recording, refusing


def write_result_table(
    command: Command, settings: Mapping[str, str], make: Callable[[Path, str, str], dict[str, str]]
) -> int:
    """Write the texts that `make(results, scale, command line)` returns by file name; returns the exit status."""
    results, scale = Path(settings["results_dir"], settings["scale"]), settings["scale"]
    with refusing():
        texts = make(results, scale, command.line)
    with Recording(command, settings, scale=scale, varied={"seed": []}) as recording:
        for name, text in texts.items():
            (recording.folder / name).write_text(text, encoding="utf-8")
        print(texts["table.md"])
        return recording.finish(tables=("table",))


def write_result_figure(
    command: Command, settings: Mapping[str, str], draw: Callable[[Path, str, str], tuple[Figure, str, str]]
) -> int:
    """Draw the figure that `draw(results, scale, command line)` returns with caption and rows; returns the status."""
    results, scale, target = Path(settings["results_dir"], settings["scale"]), settings["scale"], command.target.name
    with refusing():
        drawn = draw(results, scale, command.line)
    with Recording(command, settings, scale=scale, varied={"seed": []}) as recording:
        caption = write_figure(target, lambda *_: drawn, results, scale, command.line, recording.gallery())
        print(caption.read_text(encoding="utf-8"))
        return recording.finish(tables=(caption.stem,))
