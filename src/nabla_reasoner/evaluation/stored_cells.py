"""Cells of an experiment: record files of the same settings together, by names that keep other settings apart.

Cells whose settings differ get names that say so, e.g. task `products (reward=classifier)`, so that nothing joins or
pairs them.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import fingerprint
from ..config.fingerprint import PLACES, flattened, without_places
from .record_files import RecordFile, Settings, record_files, whole_size
from .records import CellKey, settings_path

# Settings that change no answer beyond numerical noise, or only how many there are.
NEUTRAL = ("seed", "num_problems", *fingerprint.FREE, *fingerprint.ROUNDING)
NOTED = ("num_problems", "batch_size", "threads", "device", "devices", "num_nodes")  # where cells of a table differ
SHARED = ("method.variant", "method.max_new_tokens")  # a method's settings that all methods of a comparison must share
LONGEST = 24  # characters of a value in a name; longer ones are replaced by a digest
UNKNOWN = " (settings unknown)"


class StoredCell(NamedTuple):
    """The files of one cell: same names, same settings, different seeds.

    Attributes:
        names: names in its records.
        files: ascending seeds.
    """

    names: CellKey
    files: list[RecordFile]

    @property
    def seeds(self) -> list[int]:
        return [file.seed for file in self.files]

    @property
    def settings(self) -> Settings:
        """Settings of the first file; empty if unknown."""
        return self.files[0].settings or {}

    def expected(self, seeds: Collection[int]) -> int | None:
        """Return the number of records of a complete run of these seeds; None if the settings do not say it."""
        counts = [_expected(file) for file in self.files if file.seed in seeds]
        return None if None in counts else sum(count for count in counts if count is not None)


Cells = dict[CellKey, StoredCell]


def _expected(file: RecordFile) -> int | None:
    if not file.settings or "num_problems" not in file.settings:
        return None
    count = file.settings["num_problems"]
    if count is None:
        count = whole_size(file.settings, file.names.task)
    return None if count is None else count * file.settings.get("task", {}).get("repeats", 1)


def split_suffix(split: str) -> str:
    """Return what the name of a task says of problems that are not the test problems."""
    return "" if split == "test" else f" (split={split})"


def is_test(task: str) -> bool:
    """Return whether the name of a cell's task (see `stored_cells`) stands for test problems."""
    return "split=" not in task


def stored_cells(*folders: Path, planned: Sequence[RecordFile] = (), varied: tuple[str, ...] = ()) -> list[Cells]:
    """Return the cells of each folder, by names that differ wherever settings do.

    The name of a task says which problems it has, unless they are the test problems. Cells of other problems change no
    name of those, except of test cells whose own settings are unknown. All names are chosen over all the folders,
    except that a method's own settings are compared within a folder.

    Args:
        folders: folders of records.
        planned: files that a command will write; those without records yet are cells too.
        varied: beginnings of settings that the folders differ in by design, such as "reward.".
    """
    groups = [
        _with_planned(record_files(folder), [file for file in planned if file.path.parent == Path(folder)])
        for folder in folders
    ]
    together = [file for files in groups for file in files]
    splits = [split_suffix((file.settings or {}).get("split", "test")) for file in together]
    groups_of_tasks = [(file.names.task, split) for file, split in zip(together, splits, strict=True)]
    known = {file.names.task for file in together if file.settings is not None}
    tasks = _suffixes(together, groups_of_tasks, functools.partial(_conditions, varied))
    tasks = [
        UNKNOWN if file.settings is None and file.names.task in known else text + split
        for file, text, split in zip(together, tasks, splits, strict=True)
    ]
    groups_of_policies = [(file.names.policy, split) for file, split in zip(together, splits, strict=True)]
    policies = _suffixes(together, groups_of_policies, functools.partial(_part, "policy."))
    keys = {
        file.path: CellKey(file.names.policy + policy, file.names.task + task, file.names.method)
        for file, policy, task in zip(together, policies, tasks, strict=True)
    }
    loaded = []
    for files in groups:
        methods = _suffixes(files, [keys[file.path] for file in files], functools.partial(_part, "method."))
        cells: Cells = {}
        for file, method in zip(files, methods, strict=True):
            key = keys[file.path]._replace(method=file.names.method + method)
            cells.setdefault(key, StoredCell(file.names, [])).files.append(file)
        for cell in cells.values():
            cell.files.sort(key=lambda file: file.seed)
        loaded.append(cells)
    return loaded


def _with_planned(files: Sequence[RecordFile], planned: Sequence[RecordFile]) -> list[RecordFile]:
    """Add planned files without records; one whose records have no settings file has the planned settings.

    How many records that one should have stays unknown.
    """
    plans = {file.path: file for file in planned}
    completed = []
    for file in files:
        plan = plans.pop(file.path, None)
        if plan is not None and plan.settings and file.settings is None and not settings_path(file.path).exists():
            file = file._replace(settings={key: value for key, value in plan.settings.items() if key != "num_problems"})
        completed.append(file)
    return [*completed, *plans.values()]


def deciding_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by dotted name, without those that are neutral and those that name classes."""
    return {name: value for name, value in flattened(settings) if name not in NEUTRAL}


def _part(prefix: str, flat: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat.items() if key.startswith(prefix)}


def _conditions(varied: tuple[str, ...], flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all methods of a comparison must share: task, split, reward, number format, and variant, if any."""
    shared = {key: value for key, value in flat.items() if not key.startswith(("policy.", "method.", *varied))}
    return {"split": "test"} | shared | {key: flat[key] for key in SHARED if key in flat}


def conditions(settings: Settings | None) -> dict[str, Any] | None:
    """Return the settings that two cells must share to be compared; None if they are unknown."""
    return None if settings is None else _conditions((), deciding_settings(without_places(settings)))


def _suffixes(
    files: Sequence[RecordFile],
    groups: Sequence[Hashable],
    select: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> list[str]:
    """Return " (settings)" for each file of a group whose files differ in the selected settings, otherwise ""."""
    selected = [None if file.settings is None else select(deciding_settings(file.settings)) for file in files]
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    suffixes = [""] * len(files)
    for indices in members.values():
        known = [selected[index] for index in indices if selected[index] is not None]
        names = _differing([settings for settings in known if settings is not None])
        for index in indices:
            settings = selected[index]
            if settings is not None and names:
                parts = [f"{_short(key)}={_shown(settings.get(key))}" for key in names if _applies(key, settings)]
                suffixes[index] = f" ({', '.join(parts)})" if parts else ""
    return suffixes


def _applies(key: str, settings: Mapping[str, Any]) -> bool:
    """Return whether a setting counts: one that only some methods have is no difference to those without it."""
    return key in settings or key not in SHARED


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of settings that differ; of a policy, reward or method only its name where that says it all."""
    values: dict[str, list[str]] = {}
    for key in sorted({key for known in settings for key in known}):
        values[key] = [_shown(known.get(key)) for known in settings if _applies(key, known)]
    names = [key for key, shown in values.items() if len(set(shown)) > 1]
    if "null" in values.get("method.class", []):  # older records do not say it
        names = [name for name in names if name != "method.class"]
    for group, place, version in PLACES:  # where versions are known, they say which model it is, and not its path
        if f"{group}.{place}" in names and "null" not in values.get(f"{group}.{version}", ["null"]):
            names.remove(f"{group}.{place}")
    for name in [name for name in names if name.endswith(".name")]:
        part = [key for key in names if key.startswith(name.removesuffix("name"))]
        combinations = set(zip(*(values[key] for key in part), strict=True))
        if len(combinations) == len(set(values[name])):
            names = [key for key in names if key == name or key not in part]
    return names


def _short(key: str) -> str:
    return key.removesuffix(".name").removeprefix("task.").removeprefix("settings.").removeprefix("method.")


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= LONGEST else hashlib.sha256(text.encode()).hexdigest()[:8]


def notes(*loaded: Cells) -> list[str]:
    """Return sentences on cells that were not made alike; none if all were."""
    files = [file for cells in loaded for cell in cells.values() for file in cell.files if file.path.exists()]
    lines = []
    if any(key != cell.names for cells in loaded for key, cell in cells.items()):
        lines.append(
            "Cells made with different settings stand apart, under names that say what differs; they are never "
            "compared with each other."
        )
    unknown = sum(file.settings is None for file in files)
    if unknown:
        lines.append(f"Settings unknown for {unknown} of {len(files)} record files: no readable .settings.json.")
    varied = []
    for name in NOTED:
        values = {file.settings.get(name) for file in files if file.settings}
        if len(values) > 1:
            varied.append(f"{name} ({', '.join(sorted(map(str, values)))})")
    if varied:
        lines.append(f"Cells differ in {', '.join(varied)}: compare seconds and numbers of problems with care.")
    return lines
