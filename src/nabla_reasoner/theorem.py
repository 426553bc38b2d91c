"""The checks of Theorem 4.1 (arXiv 2603.04948): each turns a landscape and numbers into rows that pass or fail.

A row passes when value <= tolerance, without exception. Where a check has to *see* a difference (rows ending in
`_seen`), the value is the noise floor over the distance, and a third is the tolerance: the distance must be at least
three floors. Statistical distances are of two pooled runs from the density; their tolerance is the noise floor, twice
what pooled runs of the right law show on average (see `particles`).
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from . import flows, landscapes, particles
from .landscapes import Landscape
from .particles import binned, coarse, total_variation

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


def twice(run: Callable[[np.random.Generator], Any], seed: Sequence[int], threads: int) -> tuple[Any, Any]:
    """The results of two independent runs; the same whatever the number of threads."""
    streams = [np.random.default_rng([*seed, number]) for number in range(2)]
    with ThreadPoolExecutor(max(1, min(2, threads))) as pool:
        first, second = pool.map(run, streams)
    return first, second


class Apart(NamedTuple):
    """How far two pooled runs lie from a density, and from one another.

    Attributes:
        distance: total variation of the pooled runs from the density.
        floor: mean total variation between two halves into which the pooled particles are split again and again: that
            of two runs, without the luck of a single pair.
    """

    distance: float
    floor: float


def apart(runs: tuple[np.ndarray, np.ndarray], landscape: Landscape, law: Float[np.ndarray, " bins"]) -> Apart:
    """Two runs of equally many particles against the masses `law` (bins along each dimension equal in number)."""
    bins, count = round(len(law) ** (1 / len(landscape.low))), len(runs[0])
    pooled = binned(np.concatenate(runs), landscape, bins)
    counts = (pooled * 2 * count).round().astype(int)
    outside = 2 * count - counts.sum()
    split = np.random.default_rng(0).multivariate_hypergeometric([*counts, outside], count, size=50)[:, :-1]
    floor = 0.5 * np.abs(split - (counts - split)).sum(1).mean() / count
    return Apart(total_variation(pooled, law), float(floor))


def minimiser(landscape: Landscape, *, reward_weight: float, kl_weight: float, cells: int, claimed: float) -> Check:
    """The closed form with λ = `claimed` against the numerical argmin of L_PPO with λ = `reward_weight`.

    Tolerance 5e-4 of total variation: an error of 1 % in λ moves ρ* by 3e-3 or more, the optimiser stops 1e-5 away.
    """
    grid = landscapes.tabulate(landscape, cells)
    found, _ = flows.minimiser(landscape, grid, reward_weight=reward_weight, kl_weight=kl_weight)
    closed = flows.closed_form(landscape, grid, reward_weight=claimed, kl_weight=kl_weight)
    return Check("argmin_is_closed_form", total_variation(found, closed), 5e-4)


def velocity(
    landscape: Landscape,
    *,
    reward_weight: float,
    kl_weight: float,
    cells: int,
    width: float,
    entropy_weight: float,
) -> Check:
    """-∇ δL_PPO/δρ by differences against DTO's drift -∇L less `entropy_weight` ∇log ρ, pointwise.

    ρ is a round Gaussian of standard deviation `width` in the middle of the box; cells with less than 1e-6 of the
    largest mass are left out, where differences of the functional are rounding. Differences err by the square of the
    cell width: the value is the largest error relative to the largest speed, the floor what a grid twice as coarse
    leads to expect (a quarter of its error), the tolerance twice the floor.
    """

    def error(count: int) -> float:
        grid = landscapes.tabulate(landscape, count)
        offsets = grid.centres - (np.array(landscape.low) + np.array(landscape.high)) / 2
        masses = landscapes.normalised(-0.5 * (offsets**2).sum(1) / width**2)
        by_difference = flows.functional_velocity(
            landscape, grid, masses, reward_weight=reward_weight, kl_weight=kl_weight
        )
        drift = -landscape.loss(reward_weight, kl_weight)(grid.centres)[1]
        expected = (drift + entropy_weight * offsets / width**2).T.reshape(by_difference.shape)
        counted = (masses > 1e-6 * masses.max()).reshape(grid.shape) & ~np.isnan(by_difference).any(0)
        wrong = np.abs(by_difference - expected)[:, counted].max()
        return float(wrong / np.abs(by_difference)[:, counted].max())

    floor = error(cells // 2) / 4
    return Check("velocity_is_drift_less_grad_log_density", error(cells), 2 * floor, floor)


def jko(
    landscape: Landscape,
    *,
    reward_weight: float,
    kl_weight: float,
    cells: int,
    nodes: int,
    steps: int,
    time: float,
    jko_kl_weight: float,
) -> Check:
    """JKO steps on L_PPO against the Fokker-Planck equation, in one dimension: W₂ between the laws at `time`.

    Steps and quantiles err to first order at least, so halving both numbers at least doubles the error: the floor is
    the distance between the two errors, and the tolerance. All are relative to the distance that the law has moved.

    Args:
        jko_kl_weight: β of the functional that the steps minimise; `kl_weight` is right.
    """
    grid = landscapes.tabulate(landscape, cells)
    prior = landscapes.normalised(landscape.log_prior(grid.centres))
    rates = flows.flow(landscape, grid, reward_weight=reward_weight, kl_weight=kl_weight)
    (masses,) = flows.evolve(rates, prior, [time])
    levels = (np.arange(100) + 0.5) / 100
    exact, start = (flows.quantiles(law, grid, levels) for law in (masses, prior))

    def error(count: int, number: int) -> float:
        own = (np.arange(count) + 0.5) / count
        ends = flows.jko(
            landscape, flows.quantiles(prior, grid, own), reward_weight=reward_weight, kl_weight=jko_kl_weight,
            step=time / number, count=number,
        )  # fmt: skip
        return float(np.sqrt(np.mean((np.interp(levels, own, ends) - exact) ** 2)))

    fine, rough, moved = (
        error(nodes, steps),
        error(nodes // 2, steps // 2),
        float(np.sqrt(np.mean((exact - start) ** 2))),
    )
    floor = abs(rough - fine) / moved
    return Check("jko_steps_are_fokker_planck", fine / moved, floor, floor)


def laws(
    landscape: Landscape,
    *,
    reward_weight: float,
    kl_weight: float,
    noise: float,
    cells: int,
    bins: int,
    count: int,
    step: float,
    times: Sequence[float],
    particle_reward_weight: float,
    seed: Sequence[int],
    threads: int,
) -> tuple[list[Apart], list[Apart], list[float]]:
    """Noisy DTO from π beside the flow of L_PPO at several times.

    Args:
        noise: of the particles; √(2β) is right.
        particle_reward_weight: λ of the particles; `reward_weight` is right.

    Returns:
        By time: particles from the flow, particles from ρ*, and the flow's own distance from ρ*.
    """
    grid = landscapes.tabulate(landscape, cells)
    weights = {"reward_weight": reward_weight, "kl_weight": kl_weight}
    prior = landscapes.normalised(landscape.log_prior(grid.centres))
    densities = flows.evolve(flows.flow(landscape, grid, **weights), prior, list(times))
    limit = coarse(flows.closed_form(landscape, grid, **weights), grid, bins)

    def run(random: np.random.Generator) -> list[np.ndarray]:
        start = particles.sample_prior(landscape, count, random)
        return particles.noisy_descent(
            landscape, start, random, reward_weight=particle_reward_weight, kl_weight=kl_weight, noise=noise,
            step=step, times=times,
        )  # fmt: skip

    pairs = list(zip(*twice(run, seed, threads), strict=True))
    rows = [coarse(density, grid, bins) for density in densities]
    from_flow = [apart(pair, landscape, row) for pair, row in zip(pairs, rows, strict=True)]
    return from_flow, [apart(pair, landscape, limit) for pair in pairs], [total_variation(row, limit) for row in rows]


def exact_sampler(
    landscape: Landscape,
    *,
    reward_weight: float,
    kl_weight: float,
    cells: int,
    bins: int,
    count: int,
    step: float,
    times: Sequence[float],
    seed: Sequence[int],
    threads: int,
) -> tuple[list[Apart], float]:
    """MALA from π: by time its distance from ρ*, and the share of accepted moves."""
    grid = landscapes.tabulate(landscape, cells)
    weights = {"reward_weight": reward_weight, "kl_weight": kl_weight}
    limit = coarse(flows.closed_form(landscape, grid, **weights), grid, bins)

    def run(random: np.random.Generator) -> tuple[list[np.ndarray], float]:
        start = particles.sample_prior(landscape, count, random)
        return particles.metropolis(landscape, start, random, step=step, times=times, **weights)

    (first, accepted), (second, _) = twice(run, seed, threads)
    return [apart(pair, landscape, limit) for pair in zip(first, second, strict=True)], accepted


def without_noise(
    landscape: Landscape,
    *,
    reward_weight: float,
    kl_weight: float,
    noise: float,
    cells: int,
    bins: int,
    count: int,
    step: float,
    time: float,
    seed: Sequence[int],
    threads: int,
) -> tuple[list[Check], np.ndarray]:
    """DTO as it is, `noise` = 0: where the particles end, and that it is not ρ*; the ends of one run too.

    At rest: the largest |∇L| over all particles, against 1e-6 of the largest on the grid. Shares (one dimension): of
    the particles at each local minimum of L against π's mass uphill of it; the tolerance is four standard deviations
    of a share of 2n particles.
    """
    weights = {"reward_weight": reward_weight, "kl_weight": kl_weight}
    grid = landscapes.tabulate(landscape, cells)
    limit = coarse(flows.closed_form(landscape, grid, **weights), grid, bins)

    def run(random: np.random.Generator) -> np.ndarray:
        start = particles.sample_prior(landscape, count, random)
        (ends,) = particles.noisy_descent(landscape, start, random, noise=noise, step=step, times=[time], **weights)
        return ends

    ends = twice(run, seed, threads)
    loss = landscape.loss(reward_weight, kl_weight)
    scale = np.linalg.norm(loss(grid.centres)[1], axis=1).max()
    speed = max(np.linalg.norm(loss(end)[1], axis=1).max() for end in ends)
    found = apart(ends, landscape, limit)
    checks = [Check("without_noise_at_rest", float(speed / scale), 1e-6)]
    if len(grid.shape) == 1:
        basins = particles.basin_masses(landscape, cells, **weights)
        places = np.array([place for place, _ in basins])
        shares = [np.bincount(np.abs(end - places).argmin(1), minlength=len(places)) / count for end in ends]
        expected = np.array([mass for _, mass in basins])
        wrong = float(np.abs((shares[0] + shares[1]) / 2 - expected).max())
        tolerance = 4 * float(np.sqrt(expected * (1 - expected) / (2 * count)).max())
        floor = float(np.abs(shares[0] - shares[1]).max())
        checks.append(Check("without_noise_minima_have_pi_basin_mass", wrong, tolerance, floor))
    return [*checks, seen("without_noise_is_not_rho_star", found.distance, found.floor)], ends[0]


class Escape(NamedTuple):
    """Relaxation between two modes: their separation, L's lower barrier, and times by five routes.

    Attributes:
        gap_time: 1 / spectral gap of the Fokker-Planck equation.
        kramers_time: from values and curvatures of L (Eyring and Kramers).
        passage_time: from integrals of exp(±L), which needs no parabolas.
        flow_time, particle_time: when the start's excess has fallen to 1/e; NaN where no particles were run.
    """

    separation: float
    barrier: float
    gap_time: float
    kramers_time: float
    passage_time: float
    flow_time: float = math.nan
    particle_time: float = math.nan


def double_well(separation: float, scale: float) -> Landscape:
    """π of two equal modes, and a reward at the right one."""
    half = separation / 2
    return landscapes.mixture(
        weights=[0.5, 0.5], means=[[-half], [half]], scale=scale, heights=[1.0], centres=[[half]], width=scale,
        reach=half + 7 * scale,
    )  # fmt: skip


def escape(
    separation: float,
    *,
    scale: float,
    reward_weight: float,
    cells: int,
    count: int,
    step: float,
    simulate: bool,
    seed: Sequence[int],
    threads: int,
) -> tuple[Escape, float]:
    """Times for β = 1, and the standard deviation of the particles' one relative to it.

    All mass starts in the left mode. Flow and particles are timed alike: when the left half's excess over its share in
    the limit has fallen to 1/e. The standard deviation follows from that of a share of 2n particles there, over the
    slope of an exponential.
    """
    landscape, weights = double_well(separation, scale), {"reward_weight": reward_weight, "kl_weight": 1.0}
    gap_time = flows.relaxation_time(landscape, cells, **weights)
    known = Escape(separation, gap_time=gap_time, **flows.barrier_times(landscape, cells, **weights)._asdict())
    if not simulate:
        return known, math.nan
    grid = landscapes.tabulate(landscape, cells)
    left, times = grid.centres[:, 0] < 0, [gap_time * number / 20 for number in range(1, 33)]
    start = landscapes.normalised(-0.5 * (grid.centres[:, 0] + separation / 2) ** 2 / scale**2)
    limit = flows.closed_form(landscape, grid, **weights)[left].sum()
    rates = flows.flow(landscape, grid, **weights)
    shares = [masses[left].sum() for masses in flows.evolve(rates, start, times, substeps=30)]

    def run(random: np.random.Generator) -> list[float]:
        begin = random.normal(-separation / 2, scale, (count, 1))
        passed = particles.noisy_descent(
            landscape, begin, random, noise=math.sqrt(2), step=step, times=times, **weights
        )
        return [float((points < 0).mean()) for points in passed]

    both = np.mean(twice(run, seed, threads), axis=0)
    excess = start[left].sum() - limit

    def crossing(values: list) -> float:
        logs = np.log(np.maximum((np.asarray(values) - limit) / excess, 1e-9))
        return float(np.interp(1.0, -logs, times))

    deviation = math.e * math.sqrt(0.25 / (2 * count)) / excess
    return known._replace(flow_time=crossing(shares), particle_time=crossing(both.tolist())), float(deviation)


def escapes(found: Sequence[tuple[Escape, float]]) -> list[Check]:
    """What the times must satisfy.

    Particles: the largest error against the flow, in standard deviations, at most 4. Arrhenius: log(gap time / Kramers
    time) must not change with the barrier once barriers are high, where the time itself grows as its exponential; the
    slope over the upper half of the separations, at most 0.03 beside the exponential's 1. Level: gap time and passage
    time agree up to exp(-barrier), at the highest barrier within 1 %.
    """
    checks = []
    simulated = [(one, deviation) for one, deviation in found if not math.isnan(one.particle_time)]
    if simulated:
        worst = max(abs(one.particle_time / one.flow_time - 1) / deviation for one, deviation in simulated)
        checks.append(Check("convergence_time_of_particles_is_the_flows", worst, 4.0, 1.0))
    high = [one for one, _ in found][len(found) // 2 :]
    ratios = np.log([one.gap_time / one.kramers_time for one in high])
    slope = float(np.polyfit([one.barrier for one in high], ratios, 1)[0])
    checks.append(Check("convergence_time_grows_as_exp_of_barrier", abs(slope), 0.03))
    level = high[-1].gap_time / high[-1].passage_time
    return [*checks, Check("convergence_time_is_passage_time_at_high_barrier", abs(level - 1), 0.01)]
