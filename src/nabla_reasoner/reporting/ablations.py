"""Ablations: each setting against the default on the same problems, as a table and a figure.

Differences are paired by problem. With many settings some differ by chance. Therefore p-values are adjusted by Holm's
method over the settings of one policy and task (`all`: the tasks together), and verdicts use the adjusted p-values.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..config.fingerprint import differing
from ..config.target_cells import AblationCell
from ..evaluation.outcomes import Row, RunKey, correct_array, paired_keys
from ..evaluation.statistics import LEVEL, NO_DIFFERENCE, accuracy_interval, holm, paired_difference
from ..evaluation.stored_cells import split_suffix
from .ablation_runs import Attempt, Runs, SettingRuns, stopped
from .figures import PLAIN, legend_below, log_ticks

DEFAULT, POOLED = "default", "all"
VERDICTS = {  # label, colour (Okabe and Ito) and marker
    "better": ("better", "#0072B2", "^"),
    "worse": ("worse", "#D55E00", "v"),
    "no difference shown": ("no difference shown", "#777777", "o"),
}


@plt.rc_context(PLAIN)
def differences(table: pd.DataFrame) -> Figure:
    """Draw differences in accuracy and ratios of FLOPs to the default: a line per setting, two panels per policy.

    Args:
        table: rows of ablations/table.csv; only those over all tasks are drawn if there are any.

    Raises:
        ValueError: no setting was compared with the default.
    """
    compared = table.dropna(subset=["p_value"])
    if compared.empty:
        raise ValueError("a figure needs at least one compared setting; got none. Run ./reproduce.sh ablations first.")
    pooled = compared[compared.task == POOLED]
    compared = compared if pooled.empty else pooled
    cells = [(policy, task) for policy, task in compared.groupby(["policy", "task"], sort=False).groups]
    lines = list(dict.fromkeys(zip(compared.group, compared.setting, strict=True)))
    figure, axes = plt.subplots(
        1,
        2 * len(cells),
        sharey=True,
        squeeze=False,
        figsize=(1.8 + 5.0 * len(cells), 1.1 + 0.2 * len(lines)),
        width_ratios=[2.2, 1] * len(cells),
    )
    for (policy, task), (left, right) in zip(cells, axes.reshape(-1, 2), strict=True):
        _draw_cell(left, right, compared[(compared.policy == policy) & (compared.task == task)], lines)
        left.set_title(f"{policy}, {'all tasks' if task == POOLED else task}", fontsize=9)
    axes[0, 0].set_yticks(range(len(lines)), [f"{group}: {setting}" for group, setting in lines], fontsize=8)
    axes[0, 0].set_ylim(len(lines) - 0.5, -0.5)
    for height in range(1, len(lines)):
        if lines[height][0] != lines[height - 1][0]:  # a new group
            for axis in axes.flat:
                axis.axhline(height - 0.5, color="#cccccc", linewidth=0.8)
    legend_below(figure, ncol=3)
    return figure


def _draw_cell(left: Axes, right: Axes, table: pd.DataFrame, lines: list[tuple[str, str]]) -> None:
    """Draw one policy and task: differences on the left, FLOPs on the right."""
    for verdict, (label, colour, marker) in VERDICTS.items():
        rows = table[table.verdict == verdict]
        if rows.empty:
            continue
        heights = [lines.index(pair) for pair in zip(rows.group, rows.setting, strict=True)]
        errors = [rows.difference - rows.difference_low, rows.difference_high - rows.difference]
        look = {"color": colour, "marker": marker, "linestyle": "none", "markersize": 5}
        left.errorbar(rows.difference, heights, xerr=errors, label=label, capsize=2, **look)
        right.plot(rows.flops_ratio, heights, **look)
    for axis, no_change in ((left, 0), (right, 1)):
        axis.axvline(no_change, color="black", linewidth=1)
        axis.grid(alpha=0.3, axis="x")
    left.set_xlabel("accuracy minus the default's, points")
    right.set_xscale("log")
    log_ticks(right.xaxis, labelsize=8)
    right.set_xlabel("FLOPs / default's")


COLUMNS = (
    "group setting policy task accuracy ci_low ci_high difference difference_low difference_high p_value "
    "p_holm verdict same_response rejected model_calls flops seconds flops_ratio num_problems changes status"
).split()
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


class Setting(NamedTuple):
    """One row of the table.

    Attributes:
        group, name: names in the table.
        folder: folder of the records, inside the experiment's folder.
        size: number of rollouts at which the records are cut; None uses them whole.
        changes: settings that differ from the default's, as text.
        changed: names of these settings, without "method.".
    """

    group: str
    name: str
    folder: str
    size: int | None
    changes: str
    changed: frozenset[str] = frozenset()


def table_settings(cell: AblationCell) -> list[Setting]:
    """Return the rows of every policy and task, the default first.

    Args:
        cell: any cell of the command.
    """
    rows = [Setting(DEFAULT, DEFAULT, DEFAULT, None, "")]
    for group, settings in cell.settings.items():
        for name, values in settings.items():
            changed = {key.removeprefix("method."): value for key, value in values.items()}
            changes = ", ".join(f"{key}={value}" for key, value in changed.items())
            if name not in cell.sizes:
                rows.append(Setting(group, name, name, None, changes, frozenset(changed)))
            for size in cell.sizes.get(name, ()):
                cut = f"{changes}, cut to {size}"
                rows.append(Setting(group, f"{name}, N_max {size}", name, size, cut, frozenset(changed)))
    return rows


def table_rows(settings: Sequence[Setting], loaded: Mapping[str, Runs]) -> list[Row]:
    """Return rows of `COLUMNS`: every setting on every policy and task of the default, and over all tasks.

    Args:
        settings: result of `table_settings`.
        loaded: runs by folder of the settings.
    """
    default, rows = loaded[DEFAULT], []
    for policy in dict.fromkeys(policy for policy, _ in default):
        tasks = [task for name, task in default if name == policy]
        repeats = {len({key.attempt for key in default[policy, task].attempts}) for task in tasks}
        poolable = len(tasks) > 1 and len(repeats) == 1  # each problem has weight 1: repeats must be equally many
        for task in [POOLED, *tasks] if poolable else tasks:
            selected = tasks if task == POOLED else [task]
            default_runs, family = None, []
            split = (default[policy, selected[0]].conditions or {}).get("split", "test")
            shown = task if task == POOLED else task + split_suffix(split)
            for setting in settings:
                parts = [_comparable(loaded[setting.folder], default, (policy, part), setting) for part in selected]
                runs = {key: attempt for part in parts for key, attempt in part.attempts.items()}
                if setting.size is not None:
                    runs = {key: stopped(attempt, setting.size) for key, attempt in runs.items()}
                default_runs = runs if default_runs is None else default_runs  # the default comes first
                names = {"group": setting.group, "setting": setting.name, "policy": policy, "task": shown}
                names |= {"changes": setting.changes, "status": _joined_status(parts)}
                row = dict.fromkeys(COLUMNS) | names | _measured(runs, default_runs)
                if setting.size is not None:  # the records do not contain the response at that size
                    row["same_response"] = None
                family.append(row)
            rows += with_verdicts(family)
    return rows


def _comparable(runs: Runs, default: Runs, cell: tuple[str, str], setting: Setting) -> SettingRuns:
    """Return a setting's runs of a policy and task; none if they differ from the default's in more than the setting."""
    cell_runs, base = runs.get(cell, SettingRuns({}, 0)), default[cell]
    if cell_runs.conditions not in (None, base.conditions):
        return SettingRuns({}, 0, absent="not run: the records are not of the default's questions or models")
    if "method" in setting.changed:  # another method, as `tune` compares them
        return cell_runs
    others = differing(cell_runs.method, base.method, but=setting.changed)
    if others:
        return SettingRuns({}, 0, absent=f"not run: the records differ from the default's in {', '.join(others)} too")
    return cell_runs


def _joined_status(parts: Sequence[SettingRuns]) -> str:
    if len(parts) == 1:
        return parts[0].status
    statuses = {part.status for part in parts}
    if len(statuses) == 1 and (statuses == {"ok"} or not any(part.attempts for part in parts)):
        return statuses.pop()
    return "partial"


def _measured(runs: Mapping[RunKey, Attempt], default_runs: Mapping[RunKey, Attempt]) -> Row:
    """Return accuracy, costs, and the comparison with the default on the common problems; empty if there are none."""
    keys = paired_keys(runs, default_runs)
    if not keys:
        return {}
    correct, expected = (
        correct_array(keys, (side[key].outcome.correct for key in keys)) for side in (runs, default_runs)
    )
    paired = paired_difference(correct, expected)
    accepted = [decision for key in keys for decision in runs[key].accepted]
    result: Row = {
        **accuracy_interval(correct).columns(),
        "num_problems": len(correct),
        "num_runs": len(keys),  # of problems and seeds
        "difference": paired.difference,
        "difference_low": paired.low,
        "difference_high": paired.high,
        "p_value": paired.p_value,
        "same_response": 100 * float(np.mean([runs[key].response == default_runs[key].response for key in keys])),
        "rejected": 100 * accepted.count(False) / len(accepted) if accepted else None,
    }
    solved = [key for key in keys if runs[key].outcome.ok and default_runs[key].outcome.ok]
    if solved:
        result |= {name: _mean_cost(runs, solved, name) for name in ("model_calls", "flops", "seconds")}
        result["flops_ratio"] = result["flops"] / _mean_cost(default_runs, solved, "flops")
    return result


def _mean_cost(runs: Mapping[RunKey, Attempt], keys: Sequence[RunKey], name: str) -> float:
    return float(np.mean([runs[key].outcome.cost[name] for key in keys]))


def with_verdicts(family: list[Row]) -> list[Row]:
    """Add adjusted p-values and verdicts to the rows of one policy and task; the first, the default, gets none."""
    for name in ("difference", "difference_low", "difference_high", "p_value", "same_response"):
        family[0][name] = None
    compared = [row for row in family if row["p_value"] is not None]
    for row, p in zip(compared, holm([row["p_value"] for row in compared]), strict=True):
        excluded = row["difference_low"] > 0 or row["difference_high"] < 0
        verdict = "better" if row["difference"] > 0 else "worse"
        row |= {"p_holm": p, "verdict": verdict if excluded and p < 1 - LEVEL else NO_DIFFERENCE}
    return family


def format_row(row: Row) -> list[str]:
    """Format a row under `HEADER`."""
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
    """Return the sentences below the table."""
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
        "moves of equal KL (sharpen, random) pay for the DTO that they are compared with. "
        "Rows `N_max n` are one run with 32, stopped at n.",
    ]
