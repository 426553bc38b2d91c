"""From measurements to rows and words: bench.csv, spread.csv, profile.csv, and bench.md with targets and results."""

import statistics
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from . import timing
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
DECODING_SHARE = 1 / 8  # of the time of decoding a sequence; an evaluation should take less from some length on
UNITS = {"seconds": ("s", 1.0), "flops": ("MFLOPs", 1e6), "peak_bytes": ("MiB", 2**20), "rate": ("GFLOP/s", 1e9)}


class Judged(NamedTuple):
    """A case in words.

    Attributes:
        value: what came out, with its unit or meaning.
        spread: how far single repeats lie apart; "exact" for counts.
        target: what was hoped for.
        reached: "yes", "no" or "-"; "(within the spread)" where single repeats lie on both sides of the target.
    """

    value: str
    spread: str
    target: str
    reached: str


def quantity(side: Variant, kind: str) -> int | float:
    """What a case compares, of one side: median "seconds", "flops", "peak_bytes", or "rate" in FLOP/s."""
    seconds = statistics.median(side.seconds)
    if kind == "rate":
        return side.spent.flops / seconds
    return {"seconds": seconds, "flops": side.spent.flops, "peak_bytes": side.peak_bytes}[kind]


def ratio(measured: Comparison, kind: str) -> float:
    """The second side's quantity over the yardstick's."""
    yardstick, side = measured.sides
    return quantity(side, kind) / quantity(yardstick, kind)


def rows(results: Mapping[str, Mapping[str, Comparison | str]], kinds: Mapping[str, str]) -> pd.DataFrame:
    """bench.csv: for each case and point the yardstick's row, then the compared one's.

    Args:
        results: by case and point, the measurement, or in words why there is none.
        kinds: by case, what it compares (see `quantity`).
    """
    lines: list[dict] = []
    for case, points in results.items():
        for point, measured in points.items():
            name = f"{case}__{point}" if point else case
            if isinstance(measured, str):
                lines.append({"case": name, "variant": measured})
                continue
            for number, side in enumerate(measured.sides):
                spent = side.spent
                lines.append(
                    {
                        "case": name,
                        "variant": side.variant,
                        "seconds": statistics.median(side.seconds),
                        "flops": spent.flops,
                        "forward_tokens": (
                            spent.policy_prefill_tokens + spent.policy_forward_tokens + spent.reward_forward_tokens
                        ),
                        "backward_tokens": spent.policy_backward_tokens + spent.reward_backward_tokens,
                        "decode_tokens": spent.decode_tokens,
                        "gradient_evaluations": spent.gradient_evaluations,
                        "peak_bytes": side.peak_bytes,
                        "ratio_to_reference": ratio(measured, kinds[case]) if number else 1.0,
                    }
                )
    return pd.DataFrame(lines, columns=COLUMNS)


def spread_rows(results: Mapping[str, Mapping[str, Comparison | str]]) -> pd.DataFrame:
    """spread.csv: every single timing."""
    return pd.DataFrame(
        [
            (f"{case}__{point}" if point else case, side.variant, repeat, seconds)
            for case, points in results.items()
            for point, measured in points.items()
            if not isinstance(measured, str)
            for side in measured.sides
            for repeat, seconds in enumerate(side.seconds)
        ],
        columns=SPREAD_COLUMNS,
    )


def profile_rows(results: Mapping[str, Mapping[str, Comparison | str]]) -> pd.DataFrame:
    """profile.csv: where the time of whole batches goes, of every side that was looked into."""
    return pd.DataFrame(
        [
            (f"{case}__{point}", side.variant, name, *part)
            for case, points in results.items()
            for point, measured in points.items()
            if not isinstance(measured, str)
            for side in measured.sides
            for name, part in (side.parts or {}).items()
        ],
        columns=PROFILE_COLUMNS,
    )


def _profile_lines(results: Mapping[str, Mapping[str, Comparison | str]]) -> list[str]:
    """Shares of the time, one line per side."""
    table = profile_rows(results)
    if table.empty:
        return []
    names = list(dict.fromkeys(table.part))
    lines = [
        "",
        "Where the time of a batch goes, in percent, and in brackets how many decoding steps, passes, rounds or "
        "copies that was (one more run of each, under Python's profiler, which weighs Python more than arithmetic):",
        "",
        f"| case | point | method | seconds | {' | '.join(names)} |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    for (case, variant), own in table.groupby(["case", "variant"], sort=False):
        name, _, point = case.partition("__")
        shares = [
            f"{100 * row.share:.0f}" + (f" ({row.calls})" if row.calls else "") for row in own.itertuples(index=False)
        ]
        where = f"{name} | {point.replace('__', ', ')} | {variant}"
        lines.append(f"| {where} | {own.seconds.sum():.2f} | {' | '.join(shares)} |")
    return lines


def judge(case: str, points: Mapping[str, Comparison | str], kind: str, target: float | None) -> Judged:
    """What a case shows: the worst of its points, or how both sides grow, or from where on a share is reached."""
    missing = [words for words in points.values() if isinstance(words, str)]
    if missing:
        return Judged(missing[0], "-", f"<= {target:.3g}" if target else "-", "-")
    if case == "evaluation_against_decoding":
        return _judge_crossing(points)
    if case.startswith("evaluation_by_"):
        return _judge_growth(points, target)
    ratios = {point: ratio(measured, kind) for point, measured in points.items()}
    worst = max(ratios, key=ratios.__getitem__)
    value = f"{ratios[worst]:.3g}"
    if len(ratios) > 1:
        place, median = worst.replace("__", ", "), statistics.median(ratios.values())
        value += f" (worst of {len(ratios)}: {place}; median {median:.3g})"
    timed = kind in ("seconds", "rate")
    low, high = _range(points[worst]) if timed else (ratios[worst], ratios[worst])
    spread = _words(low, high) if timed else "one run" if kind == "peak_bytes" else "exact"
    invalid = sum(not measured.valid for measured in points.values())
    if invalid:
        return Judged(value, spread, _wanted(target), f"no: other responses at {invalid} of {len(points)} points")
    return Judged(value, spread, _wanted(target), _reached(ratios[worst], low, high, target))


def _wanted(target: float | None) -> str:
    return f"<= {target:.3g}" if target else "-"


def _reached(value: float, low: float, high: float, target: float | None) -> str:
    if target is None:
        return "-"
    return ("yes" if value <= target else "no") + (" (within the spread)" if low <= target < high else "")


def _range(measured: Comparison) -> tuple[float, float]:
    """Smallest and largest ratio of two timings that stood side by side."""
    yardstick, side = measured.sides
    pairs = [value / base for value, base in zip(side.seconds, yardstick.seconds, strict=True)]
    return min(pairs), max(pairs)


def _words(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"


def _judge_crossing(points: Mapping[str, Comparison]) -> Judged:
    ratios = [ratio(measured, "seconds") for measured in points.values()]
    length = timing.crossing([float(point) for point in points], ratios, DECODING_SHARE)
    where = f"below 1/8 from {length:.0f} tokens on" if length else "not within the range"
    if not length and max(ratios) < DECODING_SHARE:
        where = "below 1/8 at every length"
    last = list(points)[-1]
    return Judged(f"{where}; {ratios[-1]:.3g} at {last}", f"{_words(*_range(points[last]))} at {last}", "-", "-")


def _judge_growth(points: Mapping[str, Comparison], target: float | None) -> Judged:
    first, last = next(iter(points)), list(points)[-1]
    growth = [
        [late / early for late, early in zip(after.seconds, before.seconds, strict=True)]
        for before, after in zip(points[first].sides, points[last].sides, strict=True)
    ]
    bare, own = (
        statistics.median(after.seconds) / statistics.median(before.seconds)
        for before, after in zip(points[first].sides, points[last].sides, strict=True)
    )
    pairs = [mine / theirs for mine, theirs in zip(growth[1], growth[0], strict=True)]
    value = f"{own / bare:.3g} (from {first} to {last}: evaluation x {own:.3g}, bare passes x {bare:.3g})"
    low, high = min(pairs), max(pairs)
    return Judged(value, _words(low, high), _wanted(target), _reached(own / bare, low, high, target))


def markdown(
    results: Mapping[str, Mapping[str, Comparison | str]],
    titles: Mapping[str, str],
    kinds: Mapping[str, str],
    targets: Mapping[str, float | None],
    facts: str,
) -> str:
    """bench.md: one line for each case, then every point, then where the time goes."""
    lines = [
        "# Bench",
        "",
        facts,
        "",
        "| case | what is divided by what | value | over the repeats | target | reached |",
        "|---|---|---|---|---|---|",
    ]
    for case, points in results.items():
        judged = judge(case, points, kinds[case], targets[case])
        lines.append(f"| {case} | {titles[case]} | {' | '.join(judged)} |")
    lines += ["", "Every point (medians; the range is that of neighbouring pairs of timings):", ""]
    lines += ["| case | point | yardstick | measured | ratio | range | note |", "|---|---|---|---|---|---|---|"]
    for case, points in results.items():
        for point, measured in points.items():
            if isinstance(measured, str):
                continue
            unit, scale = UNITS[kinds[case]]
            sides = [f"{quantity(side, kinds[case]) / scale:.4g} {unit} ({side.variant})" for side in measured.sides]
            timed = _words(*_range(measured)) if len(measured.sides[0].seconds) > 1 else "-"
            lines.append(
                f"| {case} | {point.replace('__', ', ')} | {' | '.join(sides)} | {ratio(measured, kinds[case]):.3g} "
                f"| {timed} | {measured.note} |"
            )
    return "\n".join(lines + _profile_lines(results)) + "\n"
