"""The checks of Theorem 4.1 (arXiv 2603.04948): each turns a landscape and numbers into rows that pass or fail.

A row passes when value <= tolerance, without exception. Where a check has to *see* a difference (rows ending in
`_seen`), the value is the noise floor over the distance, and a third is the tolerance: the distance must be at least
three floors. Statistical distances are of two pooled runs from the density; their tolerance is the noise floor, twice
what pooled runs of the right law show on average (see `particles`).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from . import fokker_planck, landscapes, particles
from .check import Check, seen
from .landscapes import Landscape
from .particles import binned, coarse, total_variation


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
    found, _ = fokker_planck.minimiser(landscape, grid, reward_weight=reward_weight, kl_weight=kl_weight)
    closed = fokker_planck.closed_form(landscape, grid, reward_weight=claimed, kl_weight=kl_weight)
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
        by_difference = fokker_planck.functional_velocity(
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
    rates = fokker_planck.flow(landscape, grid, reward_weight=reward_weight, kl_weight=kl_weight)
    (masses,) = fokker_planck.evolve(rates, prior, [time])
    levels = (np.arange(100) + 0.5) / 100
    exact, start = (fokker_planck.quantiles(law, grid, levels) for law in (masses, prior))

    def error(count: int, number: int) -> float:
        own = (np.arange(count) + 0.5) / count
        ends = fokker_planck.jko(
            landscape,
            fokker_planck.quantiles(prior, grid, own),
            reward_weight=reward_weight,
            kl_weight=jko_kl_weight,
            step=time / number,
            count=number,
        )
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
    densities = fokker_planck.evolve(fokker_planck.flow(landscape, grid, **weights), prior, list(times))
    limit = coarse(fokker_planck.closed_form(landscape, grid, **weights), grid, bins)

    def run(random: np.random.Generator) -> list[np.ndarray]:
        start = particles.sample_prior(landscape, count, random)
        return particles.noisy_descent(
            landscape,
            start,
            random,
            reward_weight=particle_reward_weight,
            kl_weight=kl_weight,
            noise=noise,
            step=step,
            times=times,
        )

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
    limit = coarse(fokker_planck.closed_form(landscape, grid, **weights), grid, bins)

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
    limit = coarse(fokker_planck.closed_form(landscape, grid, **weights), grid, bins)

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
