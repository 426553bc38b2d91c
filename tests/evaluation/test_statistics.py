"""Statistics: against scipy, exact enumeration, hand-computed values and simulated truth."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.stats

from nabla_reasoner.evaluation import statistics
from nabla_reasoner.evaluation.statistics import (
    accuracy_interval,
    cut_at_cost,
    holm,
    paired_difference,
    sign_flip_p_value,
)


def draws(seed: int, problems: int, repeats: int, strength: float = 1.0) -> np.ndarray:
    """Correctness of problems of unequal difficulty, so that repeats of one problem agree more than chance."""
    generator = np.random.default_rng(seed)
    chance = generator.beta(strength, strength, size=(problems, 1))
    return (generator.random((problems, repeats)) < chance).astype(float)


def test_interval_is_scipys_percentile_bootstrap():
    correct = draws(0, 60, 3)
    ours = accuracy_interval(correct)
    theirs = scipy.stats.bootstrap(
        (correct.mean(axis=1),), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.mean == pytest.approx(100 * correct.mean())
    # Monte Carlo error of both ends: below 0.2 points at 10,000 resamples of a mean with standard error 5
    assert ours.low == pytest.approx(100 * theirs.low, abs=0.6)
    assert ours.high == pytest.approx(100 * theirs.high, abs=0.6)


def test_repeats_are_clustered_within_their_problem():
    column = draws(1, 50, 1)
    once, copied = accuracy_interval(column), accuracy_interval(np.repeat(column, 8, axis=1))
    assert copied == once  # eight copies of the same evidence are no more evidence
    shuffled = np.repeat(column, 8, axis=1).reshape(-1, 1)
    assert np.diff(accuracy_interval(shuffled)[1:]) < 0.5 * np.diff(once[1:])


@pytest.mark.parametrize(("value", "problems"), [(0.0, 30), (1.0, 30), (1.0, 1), (0.0, 500)])
def test_equal_problems_give_the_clopper_pearson_interval(value, problems):
    ours = accuracy_interval(np.full((problems, 2), value))
    exact = scipy.stats.binomtest(int(value * problems), problems).proportion_ci(method="exact")
    assert ours[1:] == pytest.approx((100 * exact.low, 100 * exact.high), abs=1e-9)


def test_missing_repeats_are_left_out_of_means():
    correct = np.array([[1.0, np.nan], [0.0, 1.0], [1.0, 1.0], [0.0, np.nan]])
    assert accuracy_interval(correct).mean == pytest.approx(100 * (1 + 0.5 + 1 + 0) / 4)


def test_interval_ignores_problem_order_and_repeats_exactly():
    correct = draws(2, 80, 3)
    assert accuracy_interval(correct[::-1]) == accuracy_interval(correct) == accuracy_interval(correct.astype(bool))


@pytest.mark.parametrize(
    "wrong", [np.zeros((0, 3)), np.full((2, 2), 0.5), np.array([[1.0], [np.nan]]), np.zeros((3, 0))]
)
def test_arrays_that_are_not_correctness_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must|needs"):
        accuracy_interval(wrong)


@pytest.mark.slow
def test_interval_covers_the_truth_at_its_level():
    # 200 experiments of 60 problems x 8 repeats, true accuracy 50 %. At 93 % coverage (the percentile bootstrap's at
    # this size) fewer than 174 hits have probability 0.001; one over repeats hits about 112 times.
    hits = 0
    for seed in range(200):
        interval = accuracy_interval(draws(1000 + seed, 60, 8, strength=0.2))
        hits += interval.low <= 50 <= interval.high
    assert 174 <= hits <= 199


def clustered(generator: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Problems of very different difficulty: repeats of one agree."""
    return (generator.random(shape) < generator.beta(0.3, 0.3, size=(shape[0], 1))).astype(float), 50.0


def copied(generator: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Repeats that are all equal within a problem."""
    return np.repeat(generator.random((shape[0], 1)) < 0.3, shape[1], axis=1).astype(float), 30.0


def tied(generator: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Most problems have the same mean."""
    hard = generator.random((shape[0], 1)) < 0.1
    return np.where(hard, generator.random(shape) < 0.5, 1.0), 95.0


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """1,000 resamples instead of 10,000: a thousand intervals in a second."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    statistics._bootstrap.cache_clear()
    yield
    statistics._bootstrap.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("draw", [clustered, copied, tied])
def test_interval_covers_in_93_to_97_of_100(draw, few_resamples):
    generator, hits, experiments = np.random.default_rng(8), 0, 800
    for _ in range(experiments):
        correct, truth = draw(generator, (300, 3))
        interval = accuracy_interval(correct)
        hits += interval.low <= truth <= interval.high
    assert 0.93 <= hits / experiments <= 0.97  # the standard error of the share is 0.008


@pytest.mark.slow
def test_difference_interval_covers_in_93_to_97_of_100(few_resamples):
    generator, hits, experiments = np.random.default_rng(9), 0, 800
    for _ in range(experiments):  # nine of ten problems are ties; the true difference is 0.1 * (0.6 - 0.3)
        other = generator.random((300, 1)) < 0.1
        shared = (generator.random((300, 3)) < 0.5).astype(float)
        a, b = (np.where(other, generator.random((300, 3)) < chance, shared) for chance in (0.6, 0.3))
        difference = paired_difference(a, b)
        hits += difference.low <= 3.0 <= difference.high
    assert 0.93 <= hits / experiments <= 0.97


def test_interval_of_equal_problems_misses_a_truth_in_at_most_1_of_20():
    # 30 problems, all right with probability p^30. The interval then reaches down to the p for which that is 2.5 %.
    low = accuracy_interval(np.ones((30, 2))).low / 100
    assert low**30 == pytest.approx(0.025)
    generator = np.random.default_rng(10)
    equal = (generator.random((40_000, 30)) < low).all(axis=1)
    assert equal.mean() == pytest.approx(0.025, abs=0.004)  # five standard errors


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_p_value_is_scipys_exact_permutation_test(repeats):
    for seed in range(4):
        sums = (draws(seed, 11, repeats) - draws(seed + 50, 11, repeats)).sum(axis=1).astype(int)
        theirs = scipy.stats.permutation_test(
            (sums,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        )
        # scipy doubles the smaller tail of a distribution that is symmetric here
        assert sign_flip_p_value(sums) == pytest.approx(min(1.0, theirs.pvalue), abs=1e-12)


def test_p_value_of_one_repeat_is_scipys_binomial_test():
    generator = np.random.default_rng(11)
    for won, lost in generator.integers(0, 200, size=(40, 2)):
        sums = np.array([1] * won + [-1] * lost + [0] * 17)
        expected = scipy.stats.binomtest(int(won), int(won + lost)).pvalue if won + lost else 1.0
        assert sign_flip_p_value(sums) == pytest.approx(expected, rel=1e-9)


def test_holm_is_the_closed_test_of_bonferroni():
    generator = np.random.default_rng(12)
    for _ in range(30):
        p = generator.choice([0.0, 0.001, 0.01, 0.02, 0.04, 0.2, 1.0], size=6).tolist()
        closed = []
        for index in range(len(p)):
            subsets = (s for size in range(1, 7) for s in itertools.combinations(range(6), size) if index in s)
            closed.append(max(min(1.0, len(subset) * min(p[i] for i in subset)) for subset in subsets))
        assert holm(p) == pytest.approx(closed)


@pytest.mark.slow
def test_holm_equals_that_of_statsmodels():
    from statsmodels.stats.multitest import multipletests  # takes seconds

    generator = np.random.default_rng(12)
    for _ in range(10):  # each call collects all garbage
        p = generator.choice([0.0, 0.001, 0.01, 0.02, 0.04, 0.2, 1.0], size=6).tolist()
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist())


@pytest.mark.parametrize("repeats", [1, 3])
def test_p_value_equals_enumeration_of_every_sign(repeats):
    for seed in range(5):
        a, b = draws(seed, 9, repeats), draws(seed + 50, 9, repeats)
        sums = (a - b).sum(axis=1).astype(int)
        every = [abs(np.dot(signs, sums)) for signs in itertools.product((-1, 1), repeat=len(sums))]
        assert sign_flip_p_value(sums) == pytest.approx(np.mean(np.array(every) >= abs(sums.sum())), abs=1e-12)


@pytest.mark.slow
def test_p_value_agrees_with_scipys_permutation_test():
    a, b = draws(3, 120, 3), draws(4, 120, 3)
    a[:40] = np.maximum(a[:40], b[:40])
    theirs = scipy.stats.permutation_test(
        ((a - b).mean(axis=1),), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(0)
    ).pvalue
    ours = paired_difference(a, b).p_value
    assert 0.001 < ours < 0.5
    # five standard errors of scipy's 20,000 sampled permutations
    assert ours == pytest.approx(theirs, abs=5 * np.sqrt(ours * (1 - ours) / 20_000) + 1e-4)


def test_sign_flip_with_one_repeat_is_mcnemars():
    a, b = np.zeros((500, 1)), np.zeros((500, 1))
    a[:25], b[25:37] = 1, 1  # 37 problems differ, net 13: the paper's 80.4 against 77.8 on 500 problems
    result = paired_difference(a, b)
    assert result.p_value == pytest.approx(scipy.stats.binomtest(25, 37).pvalue, rel=1e-9)
    assert result.difference == pytest.approx(2.6)
    assert result.p_value == pytest.approx(0.0470, abs=1e-4)


def test_identical_methods_show_no_difference_with_an_interval():
    a = draws(5, 300, 2)
    result = paired_difference(a, a)
    assert (result.difference, result.p_value, result.verdict) == (0, 1, "no difference shown")
    # a share p of differing problems would have shown with probability 97.5 % at p = 1 - 0.025^(1/300)
    assert (result.low, result.high) == pytest.approx((-100 * (1 - 0.025 ** (1 / 300)), 100 * (1 - 0.025 ** (1 / 300))))


def test_verdict_follows_the_sign_of_the_difference():
    b = draws(6, 200, 1)
    a = b.copy()
    a[np.flatnonzero(b[:, 0] == 0)[:30]] = 1
    better, worse = paired_difference(a, b), paired_difference(b, a)
    assert (better.verdict, worse.verdict) == ("better", "worse")
    assert better.difference == pytest.approx(15.0)
    assert worse.difference == pytest.approx(-better.difference)
    assert better.low > 0 > worse.high
    a = b.copy()
    a[np.flatnonzero(b[:, 0] == 0)[:5]] = 1  # five of five: the interval excludes zero, p = 2/32 does not
    few = paired_difference(a, b)
    assert few.low > 0
    assert few.p_value == pytest.approx(2 / 32)
    assert few.verdict == "no difference shown"


def test_pairing_removes_what_both_methods_share():
    generator = np.random.default_rng(7)
    hard = generator.random((300, 1)) < 0.5
    a, b = np.where(hard, 0, 1.0), np.where(hard, 0, 1.0)
    b[np.flatnonzero(~hard[:, 0])[:12]] = 0
    assert paired_difference(a, b).verdict == "better"
    assert accuracy_interval(a).low < accuracy_interval(b).high  # unpaired, the two intervals overlap


@pytest.mark.slow
def test_equal_methods_are_rarely_called_different():
    # 200 experiments under the null; at a true rate of at most 5 % more than 21 claims have probability 0.0005.
    claims = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        chance = generator.beta(0.5, 0.5, size=(60, 1))
        a, b = ((generator.random((60, 3)) < chance).astype(float) for _ in range(2))
        claims += paired_difference(a, b).verdict != "no difference shown"
    assert 1 <= claims <= 21


def test_arrays_of_different_shapes_are_not_paired():
    with pytest.raises((ValueError, TypeError), match=r"one shape|Shaped\[ndarray"):  # the shape checker is first here
        paired_difference(np.zeros((3, 1)), np.zeros((4, 1)))


def test_trajectory_is_cut_where_mean_cost_reaches_target():
    first = [(1, 10, False), (2, 20, True), (3, 30, False)]
    second = [(1, 30, True), (2, 60, False), (3, 90, True)]
    # mean costs by hand: 20, 40, 60
    for target, size, mean, correct in [
        (0.0, 1, 20, [False, True]),
        (20.0, 1, 20, [False, True]),
        (20.1, 2, 40, [True, False]),
        (60.0, 3, 60, [False, True]),
        (61.0, 3, 60, [False, True]),  # even the largest costs less
    ]:
        got = cut_at_cost([first, second], target)
        assert (got[0].tolist(), got[1], got[2]) == (correct, size, mean)


def test_short_trajectory_keeps_last_step_failure_is_wrong():
    early = [(1, 10, True)]
    long = [(1, 10, False), (4, 50, True)]
    correct, size, mean = cut_at_cost([early, [], long], 25.0)
    assert (correct.tolist(), size, mean) == ([True, False, True], 4, 30.0)
    correct, size, mean = cut_at_cost([[], []], 1.0)
    assert (correct.tolist(), size, mean) == ([False, False], 0, 0.0)
