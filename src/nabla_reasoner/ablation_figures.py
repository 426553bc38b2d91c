"""The figure of `./reproduce.sh ablations`: differences to the default, and what each setting costs."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure

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
        1, 2 * len(columns), sharey=True, squeeze=False, figsize=(1.8 + 5.0 * len(columns), 1.4 + 0.2 * len(lines)),
        width_ratios=[2.2, 1] * len(columns),
    )  # fmt: skip
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
