"""Ablations: each setting against the default on the same problems, as a table and a figure.

Differences are paired by problem. With many settings some differ by chance: p-values are adjusted by Holm's method over
the settings of one policy and task (`all`: the tasks together), and a verdict needs the adjusted one.
"""

import functools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure

from ..evaluation.outcomes import mean_point
from ..evaluation.records import read_outcomes, read_records, stored_cells
from ..evaluation.statistics import LEVEL, accuracy_interval, paired_difference

VERDICTS = {  # colour-blind safe (Okabe and Ito), each with a marker of its own
    "better": ("better", "#0072B2", "^"),
    "worse": ("worse", "#D55E00", "v"),
    "no difference shown": ("no difference shown", "#777777", "o"),
}


def differences(table: pd.DataFrame) -> Figure:
    """One line per setting, one column of panels per policy: accuracy minus the default's, and FLOPs over its.

    Args:
        table: rows of ablations/table.csv; those over all tasks where there are any.

    Raises:
        ValueError: no setting was compared with the default.
    """
    done = table.dropna(subset=["p_value"])
    if done.empty:
        raise ValueError("a figure needs at least one compared setting; got none. Run ./reproduce.sh ablations first.")
    pooled = done[done.task == "all"]
    done = done if pooled.empty else pooled
    columns = [(policy, task) for policy, task in done.groupby(["policy", "task"], sort=False).groups]
    lines = list(dict.fromkeys(zip(done.group, done.setting, strict=True)))
    figure, axes = plt.subplots(
        1,
        2 * len(columns),
        sharey=True,
        squeeze=False,
        figsize=(1.8 + 5.0 * len(columns), 1.4 + 0.2 * len(lines)),
        width_ratios=[2.2, 1] * len(columns),
    )
    for number, (policy, task) in enumerate(columns):
        left, right = axes[0, 2 * number], axes[0, 2 * number + 1]
        own = done[(done.policy == policy) & (done.task == task)]
        for verdict, (label, colour, marker) in VERDICTS.items():
            rows = own[own.verdict == verdict]
            if rows.empty:
                continue
            places = [lines.index(pair) for pair in zip(rows.group, rows.setting, strict=True)]
            errors = [rows.difference - rows.difference_low, rows.difference_high - rows.difference]
            look = {"color": colour, "marker": marker, "linestyle": "none", "markersize": 5}
            left.errorbar(rows.difference, places, xerr=errors, label=label, capsize=2, **look)
            right.plot(rows.flops_ratio, places, **look)
        for axis, middle in ((left, 0), (right, 1)):
            axis.axvline(middle, color="black", linewidth=1)
            axis.grid(alpha=0.3, axis="x")
        words = "all tasks" if task == "all" else task
        left.set_title(f"{policy}, {words}", fontsize=9)
        left.set_xlabel("accuracy minus the default's, points")
        right.set_xscale("log")
        right.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        right.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        right.xaxis.set_minor_formatter(ticker.NullFormatter())
        right.tick_params(axis="x", labelsize=8)
        right.set_xlabel("FLOPs / default's")
    axes[0, 0].set_yticks(range(len(lines)), [f"{group}: {setting}" for group, setting in lines], fontsize=8)
    axes[0, 0].set_ylim(len(lines) - 0.5, -0.5)
    previous = None
    for place, (group, _) in enumerate(lines):
        if place and group != previous:
            for axis in axes.flat:
                axis.axhline(place - 0.5, color="#cccccc", linewidth=0.8)
        previous = group
    handles = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), ncol=3, loc="lower center", fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.3 / figure.get_figheight(), 1, 1))
    return figure


DEFAULT, POOLED = "default", "all"
COLUMNS = (
    "group",
    "setting",
    "policy",
    "task",
    "accuracy",
    "ci_low",
    "ci_high",
    "difference",
    "difference_low",
    "difference_high",
    "p_value",
    "p_holm",
    "verdict",
    "same_response",
    "rejected",
    "model_calls",
    "flops",
    "seconds",
    "flops_ratio",
    "num_problems",
    "changes",
    "status",
)
HEADER = (
    "group",
    "setting",
    "accuracy, %",
    "minus default (95 % interval)",
    "p (Holm)",
    "verdict",
    "rejected, %",
    "FLOPs / default",
    "problems",
)
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
        point = mean_point(outcome, size or np.inf)
        fates = [revision["accepted"] for revision in record["search"].get("revisions", [])]
        fates = fates[: size - 1] if size else fates
        runs[(record["task"], *outcome.key)] = Run(
            point is not None and bool(point[3]),
            record["response"],
            len(fates),
            fates.count(False),
            point and point[:3],
        )
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
            rows += with_verdicts(family)
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
        "accuracy": interval.mean,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "num_problems": len(problems),
        "difference": paired.difference,
        "difference_low": paired.low,
        "difference_high": paired.high,
        "p_value": paired.p_value,
        "same_response": 100 * float(np.mean([runs[key].response == plain[key].response for key in keys])),
    }
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


def with_verdicts(family: list[Row]) -> list[Row]:
    """The rows of one policy and task with adjusted p-values and verdicts; the default is compared with nothing."""
    for name in ("difference", "difference_low", "difference_high", "p_value", "same_response"):
        family[0][name] = None
    compared = [row for row in family if row["p_value"] is not None]
    for row, p in zip(compared, holm([row["p_value"] for row in compared]), strict=True):
        excluded = row["difference_low"] > 0 or row["difference_high"] < 0
        verdict = "better" if row["difference"] > 0 else "worse"
        row |= {"p_holm": p, "verdict": verdict if excluded and p < 1 - LEVEL else "no difference shown"}
    return family


def format_row(row: Row) -> list[str]:
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
        'where all were run). A verdict other than "no difference shown" needs an interval without zero and an '
        "adjusted p < 0.05.",
        "Rejected: share of proposals that were. FLOPs / default: means on the same problems, everything counted. The "
        "moves of equal KL (sharpen, random) pay for the DTO that they are compared with; accept_always still pays for "
        "scores that it does not use. Rows `N_max n` are one run with 32, stopped at n.",
    ]
