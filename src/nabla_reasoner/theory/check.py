"""One numerical check, and one point of a figure."""

import math
from typing import NamedTuple

DETECTED = 1 / 3  # largest ratio of noise floor to distance at which a difference counts as detected


class Check(NamedTuple):
    """One row of checks.csv.

    Attributes:
        value, tolerance: the check passes if value <= tolerance.
        noise_floor: value expected if nothing is wrong, where that was measured; NaN for an exact check.
        skipped: reason why the check could not be made; it then neither passes nor fails.
    """

    name: str
    value: float
    tolerance: float
    noise_floor: float = math.nan
    skipped: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the check was made and holds; NaN does not hold."""
        return self.skipped is None and self.value <= self.tolerance


class Point(NamedTuple):
    """One row of curves.csv: a point of a named curve, for figures."""

    curve: str
    series: str
    x: float
    y: float
    floor: float = math.nan


def difference_detected(name: str, distance: float, floor: float) -> Check:
    """Return a row that passes if the distance is at least three noise floors.

    Its value is floor / distance, so that "passes if value <= tolerance" holds for these rows too.
    """
    return Check(f"{name}_seen", floor / distance if distance > 0 else math.inf, DETECTED, floor)


def describe(row: Check) -> str:
    """Format a check as one line for the terminal."""
    if row.skipped:
        return f"skipped  {row.name}: {row.skipped}"
    rule = f"{row.value:.3g} {'<=' if row.passed else '>'} {row.tolerance:.3g}"
    floor = "" if math.isnan(row.noise_floor) else f" (noise floor {row.noise_floor:.3g})"
    is_difference = row.name.endswith("_seen") and row.value
    difference = f", a difference of {row.noise_floor / row.value:.3g}" if is_difference else ""
    return f"{'passed' if row.passed else 'FAILED':8} {row.name}: {rule}{floor}{difference}"
