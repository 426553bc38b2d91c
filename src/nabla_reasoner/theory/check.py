"""One numerical check, and one point of a figure."""

import math
from typing import NamedTuple

SEEN = 1 / 3  # largest floor over distance at which a difference counts as seen


class Check(NamedTuple):
    """One row of checks.csv.

    Attributes:
        value, tolerance: the check passes when value <= tolerance.
        noise_floor: what the value would be with nothing wrong, as far as that was measured; NaN where it is exact.
        skipped: why the check could not be made; it then neither passes nor fails.
    """

    name: str
    value: float
    tolerance: float
    noise_floor: float = math.nan
    skipped: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the check was made and holds; NaN does not."""
        return self.skipped is None and self.value <= self.tolerance


class Point(NamedTuple):
    """One row of curves.csv: a point of a named curve, for figures."""

    curve: str
    series: str
    x: float
    y: float
    floor: float = math.nan


def seen(name: str, distance: float, floor: float) -> Check:
    """A row that passes when the distance is at least three noise floors."""
    return Check(f"{name}_seen", floor / distance if distance > 0 else math.inf, SEEN, floor)
