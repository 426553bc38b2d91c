"""Figures, drawn from the small rows that tables write: functions from a table to a matplotlib Figure."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import timing

# Colour-blind safe (Okabe and Ito); every method also has a marker of its own, for print.
STYLES = {
    "greedy": ("Greedy", "#999999", "s"),
    "self_consistency": ("Self-Consistency, N = 8", "#56B4E9", "v"),
    "best_of_n": ("Best-of-8", "#0072B2", "o"),
    "tree_of_thoughts": ("Tree of Thoughts", "#009E73", "^"),
    "rap": ("RAP, 8 simulations", "#000000", "X"),
    "tpo": ("TPO, 8 responses", "#F0E442", "h"),
    "sft": ("SFT, greedy", "#8C564B", "<"),
    "grpo": ("GRPO, greedy", "#4D4D4D", ">"),
    "nabla_without_gradient": ("∇ without gradient (null arm)", "#E69F00", "D"),
    "nabla_reasoner": ("∇-Reasoner, one pass", "#D55E00", "*"),
    "nabla_reasoner_multipass": ("∇-Reasoner, up to 4 passes", "#CC79A7", "P"),
}


def accuracy_against_flops(table: pd.DataFrame) -> Figure:
    """Accuracy with its 95 % interval against mean FLOPs per problem; one panel per policy and task.

    A policy improved by training ("NAME-sft") has no panels of its own where NAME has: it is a point of those.

    Args:
        table: rows of `table.csv` (columns policy, task, method, accuracy, ci_low, ci_high in percent, flops).

    Raises:
        ValueError: no row holds a result.
    """
    done = table.dropna(subset=["accuracy", "flops"])
    if done.empty:
        raise ValueError("a figure needs at least one finished row; got none. Run ./reproduce.sh table1 first.")
    names, tasks = list(dict.fromkeys(done.policy)), list(dict.fromkeys(done.task))
    improved = {f"{name}-{kind}" for name in names for kind in ("sft", "grpo")}
    policies = [name for name in names if name not in improved]
    figure, panels = plt.subplots(
        len(policies),
        len(tasks),
        figsize=(3.4 * len(tasks), 2.8 * len(policies) + 0.6),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for policy, row in zip(policies, panels, strict=True):
        for task, panel in zip(tasks, row, strict=True):
            for method, (label, colour, marker) in STYLES.items():
                cell = done[(done.policy == policy) & (done.task == task) & (done.method == method)]
                if len(cell):
                    low, high = cell.accuracy - cell.ci_low, cell.ci_high - cell.accuracy
                    panel.errorbar(
                        cell.flops, cell.accuracy, yerr=[low, high], label=label, color=colour, marker=marker,
                        markersize=9 if marker in "*P" else 6, linestyle="none", capsize=2,
                    )  # fmt: skip
            panel.set_xscale("log")
            panel.set_title(f"{policy}, {task}", fontsize=9)
            panel.grid(alpha=0.3)
    for panel in panels[-1]:
        panel.set_xlabel("FLOPs per problem (policy and reward)")
    for row in panels:
        row[0].set_ylabel("accuracy, %")
    handles = {}
    for panel in panels.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles[label] = handle
    figure.legend(handles.values(), handles.keys(), ncol=4, loc="lower center", fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.28 / figure.get_figheight() * -(-len(handles) // 4), 1, 1))
    return figure


# The benchmark's cases whose ratios stand in one panel, in its order from the top.
RATIOS = {
    "gradient_flops": "FLOPs of gradients:\nfast / plain engine (Alg. 4)",
    "printed_gradient_flops": "FLOPs of gradients:\nfast / plain engine (Alg. 2)",
    "lookup_and_gradient_flops": "FLOPs besides rollouts, scores:\nfast / plain engine",
    "best_of_n_flops": "FLOPs:\n∇-Reasoner / Best-of-8",
    "best_of_n_seconds": "seconds:\n∇-Reasoner / Best-of-8",
    "engine_seconds": "seconds per problem:\nfast, batch / plain engine",
    "evaluation_seconds": "seconds:\ngradient evaluation / bare passes",
    "dto_memory": "peak memory:\nDTO call / bare passes",
    "utilisation": "FLOP/s:\ngradient evaluation / matmul",
}
# The cases that are curves: axis, variants with their label, colour and marker.
CURVES = {
    "evaluation_by_length": "tokens in one sequence",
    "evaluation_by_batch": "sequences in one batch",
    "evaluation_against_decoding": "tokens in the response",
}
SIDES = {
    "bare": ("bare passes", "#0072B2", "o"),
    "decoding": ("decoding, token by token", "#56B4E9", "v"),
    "evaluate": ("gradient evaluation", "#D55E00", "s"),
}
POINTS = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"))  # by policy, in the order of the table


def bench(table: pd.DataFrame, spread: pd.DataFrame, targets: Mapping[str, float]) -> Figure:
    """What the benchmark found: ratios with their targets, and seconds against length and batch.

    Args:
        table: rows of `bench.csv`; a case is NAME or NAME__POINT.
        spread: rows of `spread.csv`; drawn as the range of single timings.
        targets: ratio hoped for, by case name.

    Raises:
        ValueError: no row holds a result.
    """
    done = table.dropna(subset=["ratio_to_reference"]).copy()
    if done.empty:
        raise ValueError("a figure needs at least one measured case; got none. Run ./reproduce.sh bench first.")
    names = done.case.str.partition("__")
    done["name"], done["point"] = names[0], names[2]
    ratios = [name for name in RATIOS if name in set(done.name)]
    curves = [name for name in CURVES if name in set(done.name)]
    panels = [*(["ratios"] if ratios else []), *curves]
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5.6 * columns, 3.9 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        if panel == "ratios":
            _draw_ratios(axis, done, ratios, targets)
        else:
            _draw_curve(axis, done[done.name == panel], spread, CURVES[panel])
            if panel == "evaluation_against_decoding":
                axis.set_title("one gradient evaluation and decoding the same response", fontsize=9)
            else:
                axis.set_title("one gradient evaluation and bare passes of the same models", fontsize=9)
    figure.tight_layout()
    return figure


def _draw_ratios(axis: Axes, done: pd.DataFrame, names: list[str], targets: Mapping[str, float]) -> None:
    """One line per case, a mark per point, a bar at the ratio hoped for."""
    policies = list(dict.fromkeys(point.split("__")[0] for point in done.point if "__" in point))
    for line, name in enumerate(names):
        compared = done[done.name == name].iloc[1::2]  # the yardstick's rows stand before, each with the ratio 1
        for ratio, point in zip(compared.ratio_to_reference, compared.point, strict=True):
            policy = point.split("__")[0]
            number = policies.index(policy) if policy in policies else None
            colour, marker = POINTS[number % len(POINTS)] if number is not None else ("black", "D")
            label = policy if number is not None else "one point"
            axis.plot(ratio, line, color=colour, marker=marker, linestyle="none", label=label, alpha=0.8, markersize=6)
        if name in targets:
            ends = [line - 0.35, line + 0.35]
            axis.plot([targets[name]] * 2, ends, color="black", linewidth=2, label="target: at most")
    axis.axvline(1, color="#999999", linewidth=1, linestyle=":")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axis.set_yticks(range(len(names)), [RATIOS[name] for name in names], fontsize=7)
    axis.set_ylim(len(names) + 0.2, -0.6)  # the legend stands below the last line
    axis.set_xlabel("ratio to the yardstick")
    axis.set_title("ratios (one mark per policy and task)", fontsize=9)
    axis.grid(alpha=0.3, axis="x")
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles.keys(), fontsize=7, loc="lower center", ncol=4, columnspacing=1)


def _draw_curve(axis: Axes, rows: pd.DataFrame, spread: pd.DataFrame, label: str) -> None:
    """Median seconds of both sides, with the range of single timings."""
    for variant in dict.fromkeys(rows.variant):
        own = rows[rows.variant == variant]
        timings = spread[spread.variant == variant].groupby("case").seconds
        low, high = own.case.map(timings.min()), own.case.map(timings.max())
        errors = [(own.seconds - low).clip(lower=0), (high - own.seconds).clip(lower=0)]
        words, colour, marker = SIDES[variant]
        axis.errorbar(
            own.point.astype(float), own.seconds, yerr=errors, label=words, color=colour, marker=marker, markersize=5,
            capsize=2,
        )  # fmt: skip
    if "decoding" in set(rows.variant):
        base = rows[rows.variant == "decoding"]
        lengths = base.point.astype(float).tolist()
        axis.plot(lengths, base.seconds / 8, color="black", linestyle="--", linewidth=1, label="an eighth of decoding")
        ratios = rows[rows.variant == "evaluate"].ratio_to_reference.tolist()
        if place := timing.crossing(lengths, ratios, 1 / 8):
            axis.axvline(place, color="black", linestyle=":", linewidth=1, label=f"crossed at {place:.0f} tokens")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())
    places = sorted(set(rows.point.astype(int)))
    axis.set_xticks(places, [str(place) for place in places], fontsize=8)
    axis.set_xlabel(label)
    axis.set_ylabel("seconds (median and range)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as PNG and PDF, byte for byte the same on every run."""
    figure.savefig(folder / f"{name}.png", dpi=150)
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})


def exhibit(folder: Path, name: str, gallery: Path) -> None:
    """Copy what a folder holds of a figure to `gallery`: NAME*.png, .pdf and .md there, rows NAME*.csv to its data/."""
    (gallery / "data").mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{name}*"):
        shutil.copyfile(path, (gallery / "data" if path.suffix == ".csv" else gallery) / path.name)
