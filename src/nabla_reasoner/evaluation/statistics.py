"""Confidence intervals and paired tests over problems; repeats of one problem are never independent evidence.

Both resampling schemes have few distinct values (a problem's accuracy over R repeats is a multiple of 1/R). So the
bootstrap draws how often each value occurs, and the sign-flip test sums its whole distribution instead of sampling it.
"""

import bisect
import functools
import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int, Shaped

LEVEL = 0.95
NO_DIFFERENCE = "no difference shown"
RESAMPLES = 10_000
SEED = 0


class Interval(NamedTuple):
    """Accuracy with its 95 % interval, all in percent."""

    mean: float
    low: float
    high: float

    def columns(self) -> dict[str, float]:
        """Return the interval under the names of a table's columns."""
        return {"accuracy": self.mean, "ci_low": self.low, "ci_high": self.high}


class Difference(NamedTuple):
    """A paired comparison.

    Attributes:
        difference: mean of a minus mean of b, in points.
        low, high: 95 % interval over problems, in points.
        p_value: two-sided, of the sign-flip test.
        verdict: "better" or "worse" if the interval excludes zero and p < 0.05, else "no difference shown".
    """

    difference: float
    low: float
    high: float
    p_value: float
    verdict: str


def accuracy_interval(correct: Shaped[np.ndarray, "problem repeat"]) -> Interval:
    """Return mean accuracy and its interval: percentile bootstrap over problems, repeats clustered within a problem.

    If every problem has the same accuracy, no resample differs. The interval is then the exact one (Clopper-Pearson
    over problems if all are right or all are wrong).

    Args:
        correct: 0 and 1 (or bool); NaN where a repeat of a problem was not run. Problem means are weighted equally.

    Raises:
        ValueError: no problem, a problem without any repeat, or values other than 0 and 1.
    """
    values = _checked(correct, missing=True)
    with np.errstate(invalid="ignore"):
        means = np.nansum(values, axis=1) / np.sum(~np.isnan(values), axis=1)
    if np.isnan(means).any():
        raise ValueError("every problem needs at least one repeat that was run; got a row of NaN. Leave it out.")
    low, high = _interval(means, 0.0)
    return Interval(100 * float(means.mean()), 100 * low, 100 * high)


def paired_difference(a: Shaped[np.ndarray, "problem repeat"], b: Shaped[np.ndarray, "problem repeat"]) -> Difference:
    """Return the accuracy of a minus the accuracy of b on the same problems and repeats.

    Interval: percentile bootstrap over problems of their mean differences. Test: under the null hypothesis the sign of
    each problem's difference is arbitrary. p is the exact probability of a sum at least as far from zero.

    Args:
        a, b: 0 and 1 (or bool), same shape; entry [i, r] of both belongs to the same problem and repeat.

    Raises:
        ValueError: shapes that differ, no problem, or values other than 0 and 1.
    """
    a, b = _checked(a), _checked(b)
    if a.shape != b.shape:
        raise ValueError(f"paired arrays must have one shape; got {a.shape} and {b.shape}. Keep the common problems.")
    sums = (a - b).sum(axis=1).astype(np.int64)
    differences = sums / a.shape[1]
    low, high = _interval(differences, -1.0)
    p_value = sign_flip_p_value(sums)
    verdict = NO_DIFFERENCE
    if p_value < 1 - LEVEL and (low > 0 or high < 0):
        verdict = "better" if low > 0 else "worse"
    return Difference(100 * float(differences.mean()), 100 * low, 100 * high, p_value, verdict)


def _checked(
    values: Shaped[np.ndarray, "problem repeat"], missing: bool = False
) -> Float[np.ndarray, "problem repeat"]:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"correctness must be a [problem, repeat] array with entries; got shape {values.shape}.")
    valid = (values == 0) | (values == 1) | (missing & np.isnan(values))
    if not valid.all():
        raise ValueError(f"correctness must be 0 or 1; got {values[~valid][0]}.")
    return values


def _interval(values: Float[np.ndarray, " problem"], least: float) -> tuple[float, float]:
    """Return the 95 % interval of the mean of values in [least, 1]."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) > 1:
        return _bootstrap(tuple(distinct.tolist()), tuple(counts.tolist()))
    # None of the n problems differs from the common value. The exact upper limit of the share that does, each assumed
    # to lie at the end of the range, bounds the mean.
    value = float(distinct[0])
    share = scipy.stats.binomtest(0, len(values)).proportion_ci(LEVEL, method="exact").high
    return value - share * (value - least), value + share * (1 - value)


@functools.lru_cache(maxsize=10_000)
def _bootstrap(distinct: tuple[float, ...], counts: tuple[int, ...]) -> tuple[float, float]:
    """Return the percentile interval of the resampled mean; a resample is a multinomial draw of the counts."""
    total = sum(counts)
    draws = np.random.default_rng(SEED).multinomial(total, np.array(counts) / total, size=RESAMPLES)
    means = draws @ np.array(distinct) / total
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


class Ratio(NamedTuple):
    """A ratio of two totals with its 95 % interval over problems; None where the problems show no spread."""

    value: float
    low: float | None
    high: float | None


def ratio_interval(
    parts: Shaped[np.ndarray, " problem"], wholes: Shaped[np.ndarray, " problem"], *, share: bool = False
) -> Ratio:
    """Return Σ parts / Σ wholes and its interval: percentile bootstrap over problems, which keeps the pairs together.

    If every problem has the same ratio, as a single one has, no resample differs. A share (0 <= part <= whole) then
    gets the interval that `accuracy_interval` gives equal problems; another ratio, whose range is unknown, gets none.

    Args:
        parts, wholes: totals of each problem over its repeats, wholes >= 0. A problem whose whole is 0 adds nothing.
        share: whether no part can exceed its whole.

    Raises:
        ValueError: a total is NaN, or all wholes are zero.
    """
    parts, wholes = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
    if np.isnan(parts).any() or np.isnan(wholes).any():
        raise ValueError("totals must be numbers; got NaN. Leave out problems that were not measured.")
    if not wholes.sum() > 0:
        raise ValueError(f"a ratio needs a total > 0 below the line; got {wholes.sum():g}.")
    value = float(parts.sum() / wholes.sum())
    shares = parts[wholes > 0] / wholes[wholes > 0]
    if share and len(np.unique(shares)) == 1:
        return Ratio(value, *_interval(shares, 0.0))
    if np.allclose(shares, shares[0], rtol=1e-9, atol=1e-12):  # equal but for rounding
        return Ratio(value, None, None)
    pairs, counts = np.unique(np.stack([parts, wholes], -1), axis=0, return_counts=True)
    draws = np.random.default_rng(SEED).multinomial(counts.sum(), counts / counts.sum(), size=RESAMPLES)
    above, below = (draws @ pairs).T
    low, high = np.quantile(above[below > 0] / below[below > 0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Ratio(value, float(low), float(high))


def sign_flip_p_value(sums: Int[np.ndarray, " problem"]) -> float:
    """Return the exact two-sided p-value of the sign-flip test for integer differences d_i.

    P(|Σ s_i |d_i|| >= |Σ d_i|) over independent fair signs s_i. With one repeat this is McNemar's exact test.
    """
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    return _sign_flip(tuple(sizes.tolist()), tuple(counts.tolist()), abs(int(sums.sum())))


@functools.lru_cache(maxsize=10_000)
def _sign_flip(sizes: tuple[int, ...], counts: tuple[int, ...], observed: int) -> float:
    """Return the p-value if `counts[i]` problems differ by `sizes[i]` > 0."""
    if not sizes:
        return 1.0
    distribution = np.ones(1)  # of Σ (1 + s_i)|d_i|/2, the sum of those differences that come out positive
    for size, count in zip(sizes, counts, strict=True):
        weights = np.zeros(size * count + 1)
        weights[::size] = _fair_binomial(count)
        distribution = np.convolve(distribution, weights)
    total = len(distribution) - 1
    far = np.abs(2 * np.arange(total + 1) - total) >= observed
    return min(1.0, float(distribution[far].sum()))


def _fair_binomial(count: int) -> Float[np.ndarray, " value"]:
    """Return the probabilities of 0…count heads in `count` throws.

    `scipy.stats.binom.pmf` differs in the last bit, which would change how tables round p-values such as 0.125.
    """
    logs = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(count + 1)]
    return np.exp(np.array(logs) - count * math.log(2))


def cut_at_cost(
    trajectories: Sequence[Sequence[tuple]], target: float, column: int = 1
) -> tuple[Bool[np.ndarray, " trajectory"], int, float]:
    """Return the correctness of an anytime method once its mean cost reaches a target.

    Args:
        trajectories: steps of each problem (rollouts, cumulative costs…, whether the best so far is correct), rollouts
            ascending. A trajectory without steps is a failure: wrong at every size, and not part of the mean cost.
        target: mean cost per problem.
        column: index of the cost in a step.

    Returns:
        Correctness at the smallest number of rollouts n whose mean cost is >= target (at the largest n if none is);
        that n; the mean cost there. If all are failures: all wrong, 0, 0.
    """
    solved = [steps for steps in trajectories if steps]
    sizes = sorted({step[0] for steps in solved for step in steps})
    if not sizes:
        return np.zeros(len(trajectories), dtype=bool), 0, 0.0

    def reached(size: int) -> list[tuple]:
        """Return the last step of each that takes at most `size` rollouts; its first if that one takes more."""
        return [steps[max(bisect.bisect_right(steps, size, key=rollouts) - 1, 0)] for steps in solved]

    def mean_cost(size: int) -> float:
        return sum(step[column] for step in reached(size)) / len(solved)

    rollouts = operator.itemgetter(0)
    size = sizes[min(bisect.bisect_left(sizes, target, key=mean_cost), len(sizes) - 1)]  # mean costs ascend with n
    correct = np.zeros(len(trajectories), dtype=bool)
    correct[[bool(steps) for steps in trajectories]] = [bool(step[-1]) for step in reached(size)]
    return correct, size, mean_cost(size)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method, which bounds the chance of any false rejection."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = stepped
    return adjusted.tolist()
