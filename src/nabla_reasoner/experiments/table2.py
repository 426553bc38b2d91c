"""Table 2: the same methods under reward models of different quality."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.cell import Cell
from ..config.data_folder import spelled
from ..config.fingerprint import flattened
from ..config.sweeps import Sweep
from ..evaluation.json_files import warn_once
from ..evaluation.outcomes import read_experiment
from ..evaluation.record_files import record_files
from ..evaluation.stored_cells import stored_cells
from ..reporting.accuracy_table import COLUMNS, NOTE
from ..reporting.comparisons import COMPARISON_COLUMNS
from ..reporting.tables import csv_text, latex, markdown, read_csv, replace_file
from .cell_sweep import run_cells
from .command import Command
from .table1 import planned_files, source_notes, table_grid, write_table

JOINED = {"table.csv": COLUMNS, "comparisons.csv": COMPARISON_COLUMNS}  # files of a reward, by their columns
PAGE = "table.md"  # of a reward, which the joint page repeats


def write_tables(cells: Sequence[Cell]) -> None:
    """Rewrite the experiment's tables from the records on disk; if each reward has a folder, join their tables."""
    folders: dict[str, list[Cell]] = {}
    for cell in cells:
        folders.setdefault(cell.records, []).append(cell)
    for folder, members in folders.items():
        Path(folder).mkdir(parents=True, exist_ok=True)
        experiment = read_experiment(Path(folder), planned_files(members))
        write_table(
            Path(folder),
            grid=table_grid(members, experiment.cells),
            table=members[0].experiment_name,
            notes=source_notes(members, (experiment.cells, experiment.pool_cells)),
            experiment=experiment,
        )
    root = Path(cells[0].folder)
    if list(folders) != [str(root)]:
        known = {path.parent.name for path in root.glob("*/table.csv") if is_reward(path.parent)}  # earlier ones too
        order = [name for name in cells[0].grid["reward"].split(",") if name in known]
        combine(root, [*order, *sorted(known - set(order))])


def is_reward(folder: Path) -> bool:
    """Return whether a folder holds the records of the reward that it is named after; otherwise say so."""
    files = record_files(folder / "records")
    names = {name for file in files if (name := (file.settings or {}).get("reward", {}).get("name")) is not None}
    if names <= {folder.name}:
        return True
    warn_once(f"{folder}: ignored, because its records are of the reward {', '.join(sorted(names))}")
    return False


def combine(folder: Path, rewards: Sequence[str]) -> None:
    """Join the tables of all rewards into one, with a column `reward` before the others.

    A reward without one of its files is left out, which a line on stderr and a sentence of the page say.

    Args:
        folder: holds a folder with `table.csv`, `comparisons.csv` and `table.md` for each reward.
        rewards: names, in the order of the rows.
    """
    missing = {name: [file for file in (*JOINED, PAGE) if not (folder / name / file).is_file()] for name in rewards}
    left_out = [_left_out(folder / name, files) for name, files in missing.items() if files]
    for line in left_out:
        warn_once(line)
    rewards = [name for name in rewards if not missing[name]]
    merged: dict[str, list[dict[str, Any]]] = {}
    names = joint_names(folder, rewards)
    for file, columns in JOINED.items():
        merged[file] = [
            {"reward": name}
            | {column: row[column] for column in columns}
            | names.get((name, row["policy"], row["task"]), {})
            for name in rewards
            for row in read_csv(folder / name / file)
        ]
        replace_file(folder / file, csv_text(("reward", *columns), merged[file]))
    columns = ("policy", "task", "method", "reward", "accuracy", "ci_low", "ci_high", "flops", "paper_value", "status")
    rows = merged["table.csv"]
    order = list(dict.fromkeys((row["policy"], row["task"], row["method"]) for row in rows))
    rows.sort(key=lambda row: (row["policy"], row["task"], order.index((row["policy"], row["task"], row["method"]))))
    body = [[row[name] for name in columns] for row in rows]
    parts = [(folder / reward / PAGE).read_text(encoding="utf-8", errors="replace") for reward in rewards]
    notes = [f"{line}\n" for line in (*left_out, *method_notes(folder, rewards), *_size_notes(rows))]
    text = "\n".join([markdown(columns, body), *notes, "One reward at a time, with comparisons:\n", *parts])
    replace_file(folder / PAGE, text)
    replace_file(folder / "table.tex", latex(columns, body, [NOTE]))


def _size_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence if the rewards of some policy, task and method were run on other numbers of problems."""
    sizes: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        if row["num_problems"]:
            sizes.setdefault((row["policy"], row["task"], row["method"]), {})[row["reward"]] = row["num_problems"]
    unequal = {cell: by_reward for cell, by_reward in sizes.items() if len(set(by_reward.values())) > 1}
    if not unequal:
        return []
    cell, by_reward = next(iter(unequal.items()))
    shown = ", ".join(f"{count} of {name}" for name, count in by_reward.items())
    return [
        f"Rewards differ in their numbers of problems in {len(unequal)} of {len(sizes)} lines, e.g. {', '.join(cell)}: "
        f"{shown}. Compare them with care."
    ]


def _left_out(folder: Path, files: Sequence[str]) -> str:
    """Return a sentence on a reward that lacks these files."""
    again = spelled(f"./reproduce.sh table2 reward={folder.name}")
    return f"The reward {folder.name} is left out: {', '.join(files)} missing in its folder. {again} writes it again."


def joint_names(folder: Path, rewards: Sequence[str]) -> dict[tuple[str, str, str], dict[str, str]]:
    """Return policy and task of the joint table by reward, policy and task, where settings differ between rewards."""
    folders = [folder / name / "records" for name in rewards]
    names = {}
    for name, path, joint in zip(rewards, folders, stored_cells(*folders, varied=("reward.",)), strict=True):
        names_by_path = {file.path: key for key, cell in stored_cells(path)[0].items() for file in cell.files}
        for key, cell in joint.items():
            if key[:2] != cell.names[:2]:
                joined = {"policy": key.policy, "task": key.task}
                names |= {(name, *names_by_path[file.path][:2]): joined for file in cell.files}
    return names


def method_notes(folder: Path, rewards: Sequence[str]) -> list[str]:
    """Return a sentence on each method that has other settings under some rewards, such as tuned ones."""
    rewards_by_value: dict[str, dict[str, dict[str, set[str]]]] = {}  # of each method and setting
    users: dict[str, set[str]] = {}
    for name in rewards:
        for file in [file for file in record_files(folder / name / "records") if file.settings]:
            users.setdefault(file.names.method, set()).add(name)
            settings = rewards_by_value.setdefault(file.names.method, {})
            for key, value in flattened(file.settings.get("method", {})):
                settings.setdefault(key, {}).setdefault(json.dumps(value), set()).add(name)
    lines = []
    for method, settings in rewards_by_value.items():
        differing = [
            f"{key}={', '.join(f'{value} ({_listed(rewards, names)})' for value, names in values.items())}"
            for key, values in settings.items()
            if any(names != users[method] for names in values.values())
        ]
        if differing:
            lines.append(f"Settings of {method} differ between rewards: {'; '.join(differing)}.")
    return lines


def _listed(rewards: Sequence[str], names: Collection[str]) -> str:
    return ", ".join(name for name in rewards if name in names)


def run(command: Command, sweeps: Sequence[Sweep]) -> int:
    """Run every cell and write the tables; return the exit status."""
    return run_cells(command, sweeps, write_tables)
