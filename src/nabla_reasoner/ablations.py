"""`./reproduce.sh ablations`: each setting against the default on the same problems, from the records of their folders.

Differences are paired by problem. With many settings some differ by chance: p-values are adjusted by Holm's method over
the settings of one policy and task (`all`: the tasks together), and a verdict needs the adjusted one.
"""

import csv
import functools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from . import ablation_figures, curves, figures, tables
from .records import read_outcomes, read_records, stored_cells
from .statistics import LEVEL, accuracy_interval, paired_difference

DEFAULT, POOLED = "default", "all"
COLUMNS = (
    "group", "setting", "policy", "task", "accuracy", "ci_low", "ci_high", "difference", "difference_low",
    "difference_high", "p_value", "p_holm", "verdict", "same_response", "rejected", "model_calls", "flops", "seconds",
    "flops_ratio", "num_problems", "changes", "status",
)  # fmt: skip
HEADER = (
    "group", "setting", "accuracy, %", "minus default (95 % interval)", "p (Holm)", "verdict", "rejected, %",
    "FLOPs / default", "problems",
)  # fmt: skip

Row = dict[str, Any]
Key = tuple[str, str, int, int]


class Run(NamedTuple):
    """What the table needs of one record.

    Attributes:
        correct, response: graded correct; the response's text.
        proposed, rejected: numbers of proposals.
        costs: model calls, FLOPs, seconds; None for a failure.
    """

    correct: bool
    response: str
    proposed: int
    rejected: int
    costs: tuple[float, float, float] | None


@functools.lru_cache(maxsize=1024)
def _runs(path: Path, changed: int, size: int | None) -> dict[Key, Run]:
    """The runs of a record file by task, problem, seed and repeat; stopped at `size` rollouts where given."""
    runs = {}
    for record, outcome in zip(read_records(path), read_outcomes(path), strict=True):
        point = curves.point(outcome, size or np.inf)
        fates = [revision["accepted"] for revision in record["search"].get("revisions", [])]
        fates = fates[: size - 1] if size else fates
        runs[(record["task"], *outcome.key)] = Run(
            point is not None and bool(point[3]), record["response"], len(fates), fates.count(False),
            point and point[:3],
        )  # fmt: skip
    return runs


def _cell(folder: Path, policy: str, task: str, size: int | None = None) -> tuple[dict[Key, Run], str]:
    """A setting's runs on one task, and whether they are complete."""
    runs, expected = {}, 0
    for (name, own, _), paths in stored_cells(folder / "records").items():
        if (name, own) == (policy, task):
            for path in paths:
                runs |= _runs(path, os.stat(path).st_mtime_ns, size)
                sidecar = json.loads(path.with_suffix(".settings.json").read_text(encoding="utf-8"))
                expected += (sidecar["num_problems"] or 0) * sidecar["task"]["repeats"]
    status = "ok" if len(runs) >= expected else f"partial: {len(runs)} of {expected}"
    return runs, status if runs else "not run"


def variants(cell: dict[str, Any]) -> Iterator[tuple[str, str, str, int | None, str]]:
    """(group, name in the table, folder, size it is cut to, what it changes) of every setting, the default first."""
    yield DEFAULT, DEFAULT, DEFAULT, None, ""
    for group, settings in cell["settings"].items():
        for name, changes in settings.items():
            words = ", ".join(f"{key.removeprefix('method.')}={value}" for key, value in changes.items())
            if name in cell["sizes"]:
                for size in cell["sizes"][name]:
                    yield group, f"{name}, N_max {size}", name, size, f"{words}, cut to {size}"
            else:
                yield group, name, name, None, words


def table_rows(cell: dict[str, Any]) -> list[Row]:
    """Rows of `COLUMNS`: every setting of every policy and task that the default was run on, and over all tasks.

    Args:
        cell: any cell of the command; its folder holds a folder per setting.
    """
    root = Path(cell["folder"])
    places: dict[str, list[str]] = {}
    for policy, task, _ in stored_cells(root / DEFAULT / "records"):
        places.setdefault(policy, []).append(task)
    rows = []
    for policy, tasks in places.items():
        counts = {len({key[2:] for key in _cell(root / DEFAULT, policy, task)[0]}) for task in tasks}
        poolable = len(tasks) > 1 and len(counts) == 1  # repeats of a problem weigh as one: all tasks need as many
        for task in [POOLED, *tasks] if poolable else tasks:
            own = tasks if task == POOLED else [task]
            plain = _joined(root / DEFAULT, policy, own)[0]
            family = []
            for group, name, folder, size, changes in variants(cell):
                runs, status = _joined(root / folder, policy, own, size)
                names = {"group": group, "setting": name, "policy": policy, "task": task, "changes": changes}
                family.append(dict.fromkeys(COLUMNS) | names | {"status": status} | _measured(runs, plain))
                if size is not None:  # the text at that point is not in the records
                    family[-1]["same_response"] = None
            rows += judged(family)
    return rows


def _joined(folder: Path, policy: str, tasks: Sequence[str], size: int | None = None) -> tuple[dict[Key, Run], str]:
    parts = [_cell(folder, policy, task, size) for task in tasks]
    found = {status for _, status in parts}
    status = "ok" if found == {"ok"} else "not run" if found == {"not run"} else "partial"
    status = parts[0][1] if len(parts) == 1 else status
    return {key: run for runs, _ in parts for key, run in runs.items()}, status


def _measured(runs: dict[Key, Run], plain: dict[Key, Run]) -> Row:
    """Accuracy, costs, and the comparison with the default on the common problems; nothing where there is no run."""
    repeats = sorted({key[2:] for key in runs})
    problems = sorted({key[:2] for key in runs if all((*key[:2], *pair) in plain for pair in repeats)})
    problems = [problem for problem in problems if all((*problem, *pair) in runs for pair in repeats)]
    if not problems:
        return {}
    keys = [(*problem, *pair) for problem in problems for pair in repeats]
    shape = (len(problems), len(repeats))
    correct, expected = (np.array([side[key].correct for key in keys]).reshape(shape) for side in (runs, plain))
    interval, paired = accuracy_interval(correct), paired_difference(correct, expected)
    result: Row = {
        "accuracy": interval.mean, "ci_low": interval.low, "ci_high": interval.high, "num_problems": len(problems),
        "difference": paired.difference, "difference_low": paired.low, "difference_high": paired.high,
        "p_value": paired.p_value,
        "same_response": 100 * float(np.mean([runs[key].response == plain[key].response for key in keys])),
    }  # fmt: skip
    proposed, rejected = (sum(getattr(runs[key], name) for key in keys) for name in ("proposed", "rejected"))
    result["rejected"] = 100 * rejected / proposed if proposed else None
    solved = [key for key in keys if runs[key].costs and plain[key].costs]
    if solved:
        own, base = (np.mean([side[key].costs for key in solved], axis=0) for side in (runs, plain))
        result |= dict(zip(("model_calls", "flops", "seconds"), own.tolist(), strict=True))
        result["flops_ratio"] = float(own[1] / base[1])
    return result


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: they bound the chance of any false rejection among all of them."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = stepped
    return adjusted.tolist()


def judged(family: list[Row]) -> list[Row]:
    """The rows of one policy and task with adjusted p-values and verdicts; the default is compared with nothing."""
    for name in ("difference", "difference_low", "difference_high", "p_value", "same_response"):
        family[0][name] = None
    compared = [row for row in family if row["p_value"] is not None]
    for row, p in zip(compared, holm([row["p_value"] for row in compared]), strict=True):
        excluded = row["difference_low"] > 0 or row["difference_high"] < 0
        verdict = "better" if row["difference"] > 0 else "worse"
        row |= {"p_holm": p, "verdict": verdict if excluded and p < 1 - LEVEL else "no difference shown"}
    return family


def shown(row: Row) -> list[str]:
    """A row under `HEADER`."""
    names = [row["group"], row["setting"]]
    if row["accuracy"] is None:
        return [*names, row["status"], *[""] * 6]
    compared = ["", "", ""]
    if row["p_value"] is not None:
        difference = f"{row['difference']:+.1f} ({row['difference_low']:+.1f} to {row['difference_high']:+.1f})"
        compared = [difference, f"{row['p_holm']:.2g}", row["verdict"]]
    rejected = "" if row["rejected"] is None else f"{row['rejected']:.0f}"
    ratio = "" if row["flops_ratio"] is None else f"{row['flops_ratio']:.2f}"
    return [*names, f"{row['accuracy']:.1f}", *compared, rejected, ratio, str(row["num_problems"])]


def notes(rows: Sequence[Row]) -> list[str]:
    """Sentences below the table."""
    families: dict[tuple[str, str], int] = {}
    for row in rows:
        key = (row["policy"], row["task"])
        families[key] = families.get(key, 0) + (row["p_value"] is not None)
    return [
        "Each setting changes what column `changes` of table.csv says, and nothing else. Difference: paired on the "
        "same problems and seeds, in points, with its bootstrap interval over problems; p: exact sign-flip test, "
        f"adjusted by Holm's method over the settings of one policy and task ({max(families.values())} comparisons, "
        "where all were run). A verdict other than \"no difference shown\" needs an interval without zero and an "
        "adjusted p < 0.05.",
        "Rejected: share of proposals that were. FLOPs / default: means on the same problems, everything counted. The "
        "moves of equal KL (sharpen, random) pay for the DTO that they are compared with; accept_always still pays for "
        "scores that it does not use. Rows `N_max n` are one run with 32, stopped at n.",
    ]  # fmt: skip


def write(cell: dict[str, Any], note: str) -> None:
    """Write table.csv and table.md from the records on disk; both are replaced whole.

    Args:
        cell: any cell of the command.
        note: a sentence about variant and reward model.
    """
    root, rows = Path(cell["folder"]), table_rows(cell)
    if not rows:
        return
    parts = []
    for policy, task in dict.fromkeys((row["policy"], row["task"]) for row in rows):
        title = f"{policy}, all tasks together" if task == POOLED else f"{policy}, {task}"
        body = [shown(row) for row in rows if (row["policy"], row["task"]) == (policy, task)]
        parts.append(f"## {title}\n\n{tables.markdown(HEADER, body)}")
    text = "\n".join([*parts, *(f"{each}\n" for each in [*notes(rows), note])])
    for name, content in (("table.csv", tables.csv_text(COLUMNS, rows)), ("table.md", text)):
        temporary = root / f".{name}.{os.getpid()}"
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, root / name)


def figure_name(cell: dict[str, Any]) -> str:
    """What the figure is called in figures/."""
    return "ablations" if cell["scale_name"] == "tiny" else f"ablations-{cell['scale_name']}"


def write_figure(folder: Path, name: str, command: str, gallery: Path | None) -> None:
    """Draw table.csv as NAME.png, .pdf and .md in a folder, and copy them to `gallery` unless that is None."""
    with (folder / "table.csv").open(encoding="utf-8", newline="") as stream:
        count = sum(1 for row in csv.DictReader(stream) if row["p_value"])
    if not count:
        return
    figure = ablation_figures.differences(pd.read_csv(folder / "table.csv"))
    figures.save(figure, folder, name)
    plt.close(figure)
    (folder / f"{name}.md").write_text(
        "Each part of the method against the default ∇-Reasoner on the same problems, all tasks together: difference "
        "in accuracy with its 95 % interval (left), FLOPs as a multiple of the default's (right). Better or worse: the "
        "interval excludes zero, and the p-value, adjusted by Holm's method over all settings shown, is below 0.05.\n\n"
        f"Made by `{command}`; rows in data/{name}.csv.\n",
        encoding="utf-8",
    )
    if gallery is not None:
        figures.exhibit(folder, name, gallery)
        shutil.copyfile(folder / "table.csv", gallery / "data" / f"{name}.csv")
        if (folder / "right_token.csv").exists():
            shutil.copyfile(folder / "right_token.csv", gallery / "data" / f"{name}_right_token.csv")
