"""Result files of the benchmark: bench.csv, spread.csv, profile.csv, and bench.md with targets and verdicts."""

import statistics
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pandas as pd

from . import timing
from .cases import Case
from .context import Comparison, Variant

COLUMNS = [
    "case",
    "variant",
    "seconds",
    "flops",
    "forward_tokens",
    "backward_tokens",
    "decode_tokens",
    "gradient_evaluations",
    "peak_bytes",
    "ratio_to_reference",
]
PROFILE_COLUMNS = ["case", "variant", "part", "seconds", "share", "calls"]
SPREAD_COLUMNS = ["case", "variant", "repeat", "seconds"]
DECODING_SHARE = 1 / 8  # fraction of the decoding time that one evaluation should stay below
UNITS = {
    "seconds": ("s", 1.0),
    "flops": ("MFLOPs", 1e6),
    "peak_bytes": ("MiB", 2**20),
    "rate": ("GFLOP/s", 1e9),
    "tokens": ("tokens/s", 1.0),
}
TIMED = ("seconds", "rate", "tokens")  # kinds that vary between repeats

# By case and point, the comparison, or the reason why there is none.
Results = Mapping[str, Mapping[str, Comparison | str]]


class Verdict(NamedTuple):
    """A case in one line of bench.md.

    Attributes:
        value: measured ratio, with its meaning.
        spread: range over single repeats; "exact" for counts.
        target: largest acceptable ratio.
        reached: "yes", "no" or "-"; "(within the spread)" if single repeats lie on both sides of the target.
    """

    value: str
    spread: str
    target: str
    reached: str


def quantity(variant: Variant, kind: str, seconds: float | None = None) -> int | float:
    """Return what a case compares: "seconds", "flops", "peak_bytes", "rate" in FLOP/s, or "tokens" decoded per second.

    Args:
        seconds: a single timing; None takes the median.
    """
    seconds = statistics.median(variant.seconds) if seconds is None else seconds
    if kind in ("rate", "tokens"):
        return (variant.spent.flops if kind == "rate" else variant.spent.decode_tokens) / seconds
    return {"seconds": seconds, "flops": variant.spent.flops, "peak_bytes": variant.peak_bytes}[kind]


def ratio(comparison: Comparison, kind: str) -> float:
    """Return the measured variant's quantity divided by the baseline's."""
    return quantity(comparison.measured, kind) / quantity(comparison.baseline, kind)


def _compared(results: Results) -> Iterator[tuple[str, str, Comparison]]:
    """Yield case, point and comparison wherever there is one."""
    for case, points in results.items():
        for point, comparison in points.items():
            if not isinstance(comparison, str):
                yield case, point, comparison


def _row_name(case: str, point: str) -> str:
    return f"{case}__{point}" if point else case


def rows(results: Results, cases: Mapping[str, Case]) -> pd.DataFrame:
    """Return bench.csv: for each case and point the baseline's row, then the measured variant's."""
    lines: list[dict[str, str | float | None]] = []
    for case, points in results.items():
        for point, comparison in points.items():
            name = _row_name(case, point)
            if isinstance(comparison, str):
                lines.append({"case": name, "variant": comparison})
                continue
            lines.append(_row(name, comparison.baseline, 1.0))
            lines.append(_row(name, comparison.measured, ratio(comparison, cases[case].kind)))
    return pd.DataFrame(lines, columns=COLUMNS)


def _row(name: str, variant: Variant, ratio_to_reference: float) -> dict[str, str | float | None]:
    spent = variant.spent
    return {
        "case": name,
        "variant": variant.name,
        "seconds": statistics.median(variant.seconds),
        "flops": spent.flops,
        "forward_tokens": spent.policy_prefill_tokens + spent.policy_forward_tokens + spent.reward_forward_tokens,
        "backward_tokens": spent.policy_backward_tokens + spent.reward_backward_tokens,
        "decode_tokens": spent.decode_tokens,
        "gradient_evaluations": spent.gradient_evaluations,
        "peak_bytes": variant.peak_bytes,
        "ratio_to_reference": ratio_to_reference,
    }


def spread_rows(results: Results) -> pd.DataFrame:
    """Return spread.csv: every single timing."""
    lines = [
        (_row_name(case, point), variant.name, repeat, seconds)
        for case, point, comparison in _compared(results)
        for variant in comparison.variants
        for repeat, seconds in enumerate(variant.seconds)
    ]
    return pd.DataFrame(lines, columns=SPREAD_COLUMNS)


def profile_rows(results: Results) -> pd.DataFrame:
    """Return profile.csv: the parts of every variant that was profiled."""
    lines = [
        (_row_name(case, point), variant.name, name, *part)
        for case, point, comparison in _compared(results)
        for variant in comparison.variants
        for name, part in (variant.parts or {}).items()
    ]
    return pd.DataFrame(lines, columns=PROFILE_COLUMNS)


def verdict(case: str, points: Mapping[str, Comparison | str], kind: str, target: float | None) -> Verdict:
    """Decide whether a case reaches its target.

    A growth case is decided by the growth from its first to its last point, any other case by its worst point. The
    comparison with decoding has no target.
    """
    missing = [reason for reason in points.values() if isinstance(reason, str)]
    if missing:
        return Verdict(missing[0], "-", _target_text(target), "-")
    if case == "evaluation_against_decoding":
        return _crossing_verdict(points)
    if case.startswith("evaluation_by_"):
        return _growth_verdict(points, target)
    ratios = {point: ratio(comparison, kind) for point, comparison in points.items()}
    worst = max(ratios, key=ratios.__getitem__)
    value = f"{ratios[worst]:.3g}"
    if len(ratios) > 1:
        median = statistics.median(ratios.values())
        value += f" (worst of {len(ratios)}: {worst.replace('__', ', ')}; median {median:.3g})"
    timed = kind in TIMED
    low, high = _range(points[worst], kind) if timed else (ratios[worst], ratios[worst])
    spread = _range_text(low, high) if timed else "one run" if kind == "peak_bytes" else "exact"
    invalid = sum(not comparison.valid for comparison in points.values())
    if invalid:
        reached = f"no: responses differ at {invalid} of {len(points)} points"
    else:
        reached = _reached(ratios[worst], low, high, target)
    return Verdict(value, spread, _target_text(target), reached)


def _target_text(target: float | None) -> str:
    return f"<= {target:.3g}" if target else "-"


def _reached(value: float, low: float, high: float, target: float | None) -> str:
    if target is None:
        return "-"
    return ("yes" if value <= target else "no") + (" (within the spread)" if low <= target < high else "")


def _range(comparison: Comparison, kind: str) -> tuple[float, float]:
    """Return the smallest and largest ratio over pairs of consecutive timings."""
    measured, baseline = (
        [quantity(variant, kind, seconds) for seconds in variant.seconds]
        for variant in (comparison.measured, comparison.baseline)
    )
    ratios = [value / reference for value, reference in zip(measured, baseline, strict=True)]
    return min(ratios), max(ratios)


def _range_text(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"


def _crossing_verdict(points: Mapping[str, Comparison]) -> Verdict:
    """Return the length above which an evaluation takes less than 1/8 of the decoding time."""
    ratios = [ratio(comparison, "seconds") for comparison in points.values()]
    length = timing.crossing([float(point) for point in points], ratios, DECODING_SHARE)
    if length:
        where = f"below 1/8 from {length:.0f} tokens on"
    elif max(ratios) < DECODING_SHARE:
        where = "below 1/8 at every length"
    else:
        where = "not below 1/8 within the range"
    last = list(points)[-1]
    return Verdict(
        f"{where}; {ratios[-1]:.3g} at {last}", f"{_range_text(*_range(points[last], 'seconds'))} at {last}", "-", "-"
    )


def _growth_verdict(points: Mapping[str, Comparison], target: float | None) -> Verdict:
    """Compare the growth of the seconds from the first to the last point."""
    first, last = next(iter(points)), list(points)[-1]
    baseline, measured = (
        [late / early for late, early in zip(after.seconds, before.seconds, strict=True)]
        for before, after in zip(points[first].variants, points[last].variants, strict=True)
    )
    baseline_growth, growth = (
        statistics.median(after.seconds) / statistics.median(before.seconds)
        for before, after in zip(points[first].variants, points[last].variants, strict=True)
    )
    ratios = [late / early for late, early in zip(measured, baseline, strict=True)]
    low, high = min(ratios), max(ratios)
    value = growth / baseline_growth
    text = f"{value:.3g} (from {first} to {last}: evaluation x {growth:.3g}, bare passes x {baseline_growth:.3g})"
    return Verdict(text, _range_text(low, high), _target_text(target), _reached(value, low, high, target))


def markdown(results: Results, cases: Mapping[str, Case], scale: str, facts: str) -> str:
    """Return bench.md: one line per case, then one per point, then the profiles.

    Args:
        facts: circumstances of the run, in a sentence.
    """
    lines = [
        "# Bench",
        "",
        facts,
        "",
        "| case | ratio | value | range over repeats | target | reached |",
        "|---|---|---|---|---|---|",
    ]
    for name, points in results.items():
        case = cases[name]
        line = verdict(name, points, case.kind, case.targets.get(scale))
        lines.append(f"| {name} | {case.title} | {' | '.join(line)} |")
    lines += ["", "Every point (medians; the range is that of ratios of consecutive timings):", ""]
    lines += ["| case | point | baseline | measured | ratio | range | note |", "|---|---|---|---|---|---|---|"]
    for name, point, comparison in _compared(results):
        kind = cases[name].kind
        unit, scale_factor = UNITS[kind]
        quantities = [
            f"{quantity(variant, kind) / scale_factor:.4g} {unit} ({variant.name})" for variant in comparison.variants
        ]
        spread = _range_text(*_range(comparison, kind)) if len(comparison.baseline.seconds) > 1 else "-"
        lines.append(
            f"| {name} | {point.replace('__', ', ')} | {' | '.join(quantities)} | {ratio(comparison, kind):.3g} "
            f"| {spread} | {comparison.note} |"
        )
    return "\n".join(lines + _profile_lines(results)) + "\n"


def _profile_lines(results: Results) -> list[str]:
    """Return shares of the time, one line per variant."""
    table = profile_rows(results)
    if table.empty:
        return []
    names = list(dict.fromkeys(table.part))
    lines = [
        "",
        "Share of a batch's time in percent and, in brackets, the number of decoding steps, passes, rounds or copies "
        "(one more run of each under Python's profiler, which slows Python down more than arithmetic):",
        "",
        f"| case | point | method | seconds | {' | '.join(names)} |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    for (row_name, variant), parts in table.groupby(["case", "variant"], sort=False):
        case, _, point = row_name.partition("__")
        shares = [
            f"{100 * row.share:.0f}" + (f" ({row.calls})" if row.calls else "") for row in parts.itertuples(index=False)
        ]
        label = f"{case} | {point.replace('__', ', ')} | {variant}"
        lines.append(f"| {label} | {parts.seconds.sum():.2f} | {' | '.join(shares)} |")
    return lines
