"""Figure of the benchmark: ratios and curves."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import timing

# Cases of the panel of ratios, from the top.
RATIOS = {
    "gradient_flops": "FLOPs of gradients:\nfast / reference engine (Alg. 4)",
    "printed_gradient_flops": "FLOPs of gradients:\nfast / reference engine (Alg. 2)",
    "lookup_and_gradient_flops": "FLOPs without rollouts, scores:\nfast / reference engine",
    "best_of_n_flops": "FLOPs:\n∇-Reasoner / Best-of-8",
    "best_of_n_seconds": "seconds:\n∇-Reasoner / Best-of-8",
    "prefix_gradient_flops": "FLOPs of gradients, prefix form:\nfast / reference engine",
    "prefix_best_of_n_flops": "FLOPs:\nprefix form / Best-of-8",
    "prefix_best_of_n_seconds": "seconds:\nprefix form / Best-of-8",
    "engine_seconds": "seconds per problem:\nfast, batch / reference engine",
    "evaluation_seconds": "seconds:\ngradient evaluation / bare passes",
    "sampling_rate": "tokens per second:\nvLLM / Hugging Face",
    "dto_memory": "peak memory:\nDTO call / bare passes",
    "utilisation": "FLOP/s, 7 B and 4 B:\ngradient evaluation / matmul",
    "paper_size_memory": "peak memory, 7 B and 4 B:\ngradient evaluation / bare passes",
    "compiled_passes": "seconds, 7 B and 4 B:\ncompiled / bare passes",
}
# Cases drawn as curves, with the label of their x axis.
CURVES = {
    "evaluation_by_length": "tokens in one sequence",
    "evaluation_by_batch": "sequences in one batch",
    "paper_size_seconds": "sequences of 1,024 tokens in one batch, 7 B and 4 B",
    "evaluation_against_decoding": "tokens in the response",
}
# Label, colour and marker of each variant.
VARIANT_STYLES = {
    "bare": ("bare passes", "#0072B2", "o"),
    "decoding": ("decoding, token by token", "#56B4E9", "v"),
    "evaluate": ("gradient evaluation", "#D55E00", "s"),
}
POLICY_STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"))  # in the table's order of policies
BAR_HALF_HEIGHT = 0.35


def draw_bench(table: pd.DataFrame, spread: pd.DataFrame, targets: Mapping[str, float]) -> Figure:
    """Draw the ratios with their targets, and seconds against length and batch.

    Args:
        table: rows of `bench.csv`; a case is NAME or NAME__POINT.
        spread: rows of `spread.csv`; drawn as the range of single timings.
        targets: largest acceptable ratio, by case name.

    Raises:
        ValueError: no row holds a result.
    """
    measured = table.dropna(subset=["ratio_to_reference"]).copy()
    if measured.empty:
        raise ValueError("a figure needs at least one measured case; got none. Run ./reproduce.sh bench first.")
    names = measured.case.str.partition("__")
    measured["name"] = names[0]
    measured["point"] = names[2]
    ratios = [name for name in RATIOS if name in set(measured.name)]
    curves = [name for name in CURVES if name in set(measured.name)]
    panels = [*(["ratios"] if ratios else []), *curves]
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5.6 * columns, 3.9 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        if panel == "ratios":
            _draw_ratios(axis, measured, ratios, targets)
        else:
            _draw_curve(axis, measured[measured.name == panel], spread, CURVES[panel])
            if panel == "evaluation_against_decoding":
                axis.set_title("one gradient evaluation and decoding the same response", fontsize=9)
            else:
                axis.set_title("one gradient evaluation and bare passes of the same models", fontsize=9)
    figure.tight_layout()
    return figure


def _draw_ratios(axis: Axes, measured: pd.DataFrame, names: list[str], targets: Mapping[str, float]) -> None:
    """Draw one line per case, with a mark per point and a bar at the target."""
    policies = list(dict.fromkeys(point.split("__")[0] for point in measured.point if "__" in point))
    for line, name in enumerate(names):
        compared = measured[measured.name == name].iloc[1::2]  # every other row is the baseline's, with the ratio 1
        for ratio, point in zip(compared.ratio_to_reference, compared.point, strict=True):
            policy = point.split("__")[0]
            color, marker, label = "black", "D", "one point"
            if policy in policies:
                color, marker = POLICY_STYLES[policies.index(policy) % len(POLICY_STYLES)]
                label = policy
            axis.plot(ratio, line, color=color, marker=marker, linestyle="none", label=label, alpha=0.8, markersize=6)
        if name in targets:
            ends = [line - BAR_HALF_HEIGHT, line + BAR_HALF_HEIGHT]
            axis.plot([targets[name]] * 2, ends, color="black", linewidth=2, label="target: at most")
    axis.axvline(1, color="#999999", linewidth=1, linestyle=":")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axis.set_yticks(range(len(names)), [RATIOS[name] for name in names], fontsize=7)
    axis.set_ylim(len(names) + 0.2, -0.6)  # room for the legend below the last line
    axis.set_xlabel("ratio to the baseline")
    axis.set_title("ratios (one mark per policy and task, or per batch)", fontsize=9)
    axis.grid(alpha=0.3, axis="x")
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles.keys(), fontsize=7, loc="lower center", ncol=4, columnspacing=1)


def _draw_curve(axis: Axes, rows: pd.DataFrame, spread: pd.DataFrame, axis_label: str) -> None:
    """Draw the median seconds of both variants, with the range of single timings."""
    for variant in dict.fromkeys(rows.variant):
        medians = rows[rows.variant == variant]
        timings = spread[spread.variant == variant].groupby("case").seconds
        low, high = medians.case.map(timings.min()), medians.case.map(timings.max())
        errors = [(medians.seconds - low).clip(lower=0), (high - medians.seconds).clip(lower=0)]
        label, color, marker = VARIANT_STYLES[variant]
        axis.errorbar(
            medians.point.astype(float),
            medians.seconds,
            yerr=errors,
            label=label,
            color=color,
            marker=marker,
            markersize=5,
            capsize=2,
        )
    if "decoding" in set(rows.variant):
        decoding = rows[rows.variant == "decoding"]
        lengths = decoding.point.astype(float).tolist()
        axis.plot(
            lengths, decoding.seconds / 8, color="black", linestyle="--", linewidth=1, label="an eighth of decoding"
        )
        ratios = rows[rows.variant == "evaluate"].ratio_to_reference.tolist()
        if length := timing.crossing(lengths, ratios, 1 / 8):
            axis.axvline(length, color="black", linestyle=":", linewidth=1, label=f"crossed at {length:.0f} tokens")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())
    ticks = sorted(set(rows.point.astype(int)))
    axis.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    axis.set_xlabel(axis_label)
    axis.set_ylabel("seconds (median and range)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
