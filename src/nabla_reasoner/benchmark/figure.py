"""Figure of the benchmark: ratios and curves."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import timing

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


def draw_bench(table: pd.DataFrame, spread: pd.DataFrame, targets: Mapping[str, float]) -> Figure:
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
            own.point.astype(float),
            own.seconds,
            yerr=errors,
            label=words,
            color=colour,
            marker=marker,
            markersize=5,
            capsize=2,
        )
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
