"""Targets of the command line: what each file of `configs/experiment/` says about itself."""

import functools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from .schema import CONFIGS, read_yaml

FOLDER = CONFIGS / "experiment"
STAGES = "stages.json"  # of a target that runs others: those that are done
FILE_ENDS = {".json", ".jsonl", ".csv", ".md", ".tex", ".png", ".pdf"}  # of names of files of results
RECORDS = ("records", "budget")  # names of the folders of records


@dataclass(frozen=True)
class Target:
    """One command: `./reproduce.sh NAME` and `configs/experiment/NAME.yaml`.

    Attributes:
        name: name of the command and of its file.
        run: dotted path of the function that runs it.
        summary: what it makes, in a line.
        settings: which settings it takes: a name of `settings.SETTINGS`, `cells` (a sweep), `cell` (one cell), `train`
            (a recipe) or `plan`.
        cell: settings of its cells: a name of `settings.SETTINGS`.
        groups: whether it takes choices, such as `task=NAME`; otherwise its own file has all settings.
        example: a typical command line.
        argument: name of the positional argument, if there is one.
        scales: valid values of `scale`; empty if the target takes no scale.
        reads: targets whose results it needs.
        writes: files that it leaves in its folder.
        folder: its folder below `results_dir`; `{scale}` stands for the scale.
        place: where it writes, if that is no folder below `results_dir`; for its help.
        fixed: settings that its tables count on, and so cannot be changed; each with the reason.
        keeps: rows for `figures/data/`: name there, file in the folder.
        condensed: those of `keeps` that are kept in a shorter form: name there, dotted path of the function.
        side_rows: files of `keeps` that are measured beside the records: file, module with `TABLE` and `wanted(sweep)`.
        kept_figure: dotted path of a function that draws `table.csv` in `figures/`, where it writes no figure itself.
        keeps_itself: whether `keep=true` is its own matter: it keeps what other targets made.
        scale_in_names: whether its figures and their rows have the scale in their names, unless it is tiny.
        heading: its heading in the report; empty if it has no section of its own.
        minutes: duration at scale=tiny on two idle cores.
        in_all: whether `./reproduce.sh all` runs it.
        repository: whether it needs a checkout: it reads or writes files that no wheel has.
    """

    name: str
    run: str
    summary: str
    settings: str
    example: str
    cell: str = "cell"
    groups: bool = True
    argument: str = ""
    scales: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    folder: str = ""
    place: str = ""
    fixed: dict[str, str] = field(default_factory=dict)
    keeps: dict[str, str] = field(default_factory=dict)
    condensed: dict[str, str] = field(default_factory=dict)
    side_rows: dict[str, str] = field(default_factory=dict)
    kept_figure: str = ""
    keeps_itself: bool = False
    scale_in_names: bool = False
    heading: str = ""
    minutes: float | int = 0
    in_all: bool = True
    repository: bool = False

    @property
    def has_records(self) -> bool:
        """Whether it runs a sweep of cells and writes their records."""
        return any(PurePath(name).name in RECORDS for name in self.writes)

    @property
    def resumes(self) -> bool:
        """Whether a command that was interrupted goes on where it stopped when it is typed again."""
        return self.has_records or self.settings == "train" or STAGES in self.writes

    def path(self, scale: str) -> str:
        """Return the folder below `results_dir`."""
        return self.folder.format(scale=scale)


@functools.cache
def targets() -> dict[str, Target]:
    """Return every target by name, ordered so that each stands after those it reads."""
    loaded = {path.stem: _load(path.stem, path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yaml"))}
    ordered: dict[str, Target] = {}

    def add(name: str, readers: tuple[str, ...]) -> None:
        if name in readers:
            raise ValueError(f"targets must not read each other in a circle; got {' -> '.join([*readers, name])}.")
        for source in loaded[name].reads:
            add(source, (*readers, name))
        ordered.setdefault(name, loaded[name])

    for name in sorted(loaded, key=lambda name: (*(not name.startswith(kind) for kind in ("table", "figure")), name)):
        add(name, ())
    return ordered


def _load(name: str, text: str) -> Target:
    values = read_yaml(text)["target"]
    values |= {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    return Target(name=name, **{"folder": f"{{scale}}/{name}", **values})


def how_to_make(name: str, results: Path) -> str:
    """Return the command that makes a target's results.

    Args:
        results: folder of a scale's results, `results_dir/<scale>`.
    """
    scale = "" if results.name == "tiny" else f" scale={results.name}"
    place = "" if results.parent == Path("results") else f" {shlex.quote(f'results_dir={results.parent}')}"
    return f"Run ./reproduce.sh {name}{scale}{place} first."


def kept_rows() -> dict[str, tuple[Target, str]]:
    """Return the rows in `figures/data/` by name: the target that makes them, and the file in its folder."""
    return {name: (target, file) for target in targets().values() for name, file in target.keeps.items()}


def find(name: str, others: Sequence[str] = ("test", "help")) -> Target:
    """Return a target by name.

    Args:
        others: valid names that are no targets, for the error.

    Raises:
        ValueError: an unknown name; the valid ones are listed.
    """
    if name not in targets():
        raise ValueError(f"unknown target {name!r}. Valid targets: {', '.join([*targets(), *others])}.")
    return targets()[name]
