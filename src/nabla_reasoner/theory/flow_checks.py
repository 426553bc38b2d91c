"""Checks of Theorem 4.1 (arXiv 2603.04948): each turns a flow problem into rows that pass or fail.

A distance is that of two pooled runs from a density. Its tolerance is the noise floor: twice what pooled runs of the
right distribution show on average. Two runs of n particles are f apart on average, so one run is f/√2 from its own
distribution and the pooled runs f/2.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from . import fokker_planck, landscapes, particles
from .check import Check, difference_detected
from .landscapes import FlowProblem, Points
from .particles import Runs, total_variation


class SampleDistance(NamedTuple):
    """Distance of two pooled runs from a density, with its noise floor.

    Attributes:
        distance: total variation of the pooled runs from the density.
        floor: mean total variation between two halves of the pooled particles, over many random splits. It estimates
            the distance of two runs with less variance than a single pair does.
    """

    distance: float
    floor: float


def sample_distance(
    runs: tuple[Points, Points], problem: FlowProblem, masses: Float[np.ndarray, " bins"]
) -> SampleDistance:
    """Compare two runs of equally many particles with the masses of the problem's bins."""
    count = len(runs[0])
    pooled = problem.bin_points(np.concatenate(runs))
    counts = (pooled * 2 * count).round().astype(int)
    outside = 2 * count - counts.sum()
    split = np.random.default_rng(0).multivariate_hypergeometric([*counts, outside], count, size=50)[:, :-1]
    floor = 0.5 * np.abs(split - (counts - split)).sum(1).mean() / count
    return SampleDistance(total_variation(pooled, masses), float(floor))


def minimiser(problem: FlowProblem, *, claimed_reward_weight: float) -> Check:
    """Compare the closed form with λ = `claimed_reward_weight` with the numerical argmin of L_PPO.

    Tolerance 5e-4 of total variation: an error of 1 % in λ moves ρ* by 3e-3 or more, the optimiser stops 1e-5 away.
    """
    numerical, _ = fokker_planck.minimiser(problem)
    claimed = replace(problem, reward_weight=claimed_reward_weight).optimum
    return Check("argmin_is_closed_form", total_variation(numerical, claimed), 5e-4)


def velocity(problem: FlowProblem, *, width: float, entropy_weight: float) -> Check:
    """Compare -∇ δL_PPO/δρ by differences with DTO's drift -∇L less `entropy_weight` ∇log ρ, at every cell.

    ρ is an isotropic Gaussian of standard deviation `width` in the middle of the box. Cells with less than 1e-6 of the
    largest mass are left out, because differences of the functional are rounding there. The value is the largest error
    relative to the largest speed. Differences err by the square of the cell width: the floor is a quarter of the error
    on a grid twice as coarse, the tolerance twice the floor.
    """

    def error(cells: int) -> float:
        sized = replace(problem, cells=cells)
        grid, landscape = sized.grid, sized.landscape
        offsets = grid.centres - (np.array(landscape.low) + np.array(landscape.high)) / 2
        masses = landscapes.normalised(-0.5 * (offsets**2).sum(1) / width**2)
        by_difference = fokker_planck.functional_velocity(sized, masses)
        drift = -sized.loss(grid.centres)[1]
        expected = (drift + entropy_weight * offsets / width**2).T.reshape(by_difference.shape)
        counted = (masses > 1e-6 * masses.max()).reshape(grid.shape) & ~np.isnan(by_difference).any(0)
        largest = np.abs(by_difference - expected)[:, counted].max()
        return float(largest / np.abs(by_difference)[:, counted].max())

    floor = error(problem.cells // 2) / 4
    return Check("velocity_is_drift_less_grad_log_density", error(problem.cells), 2 * floor, floor)


def jko(problem: FlowProblem, *, nodes: int, steps: int, time: float, jko_kl_weight: float) -> Check:
    """Compare JKO steps on L_PPO with the Fokker-Planck equation in one dimension: W₂ between densities at `time`.

    Steps and quantiles err to first order at least, so halving both numbers at least doubles the error. The floor and
    the tolerance are the difference of the two errors. All are relative to the distance that the density has moved.

    Args:
        jko_kl_weight: β of the functional that the steps minimise; the problem's β is right.
    """
    grid, prior = problem.grid, problem.prior
    (masses,) = fokker_planck.evolve(fokker_planck.flow(problem), prior, [time])
    levels = (np.arange(100) + 0.5) / 100
    exact, start = (fokker_planck.quantiles(density, grid, levels) for density in (masses, prior))
    minimised = replace(problem, kl_weight=jko_kl_weight)

    def error(count: int, number: int) -> float:
        fine_levels = (np.arange(count) + 0.5) / count
        quantiles = fokker_planck.quantiles(prior, grid, fine_levels)
        ends = fokker_planck.jko(minimised, quantiles, step=time / number, count=number)
        return float(np.sqrt(np.mean((np.interp(levels, fine_levels, ends) - exact) ** 2)))

    fine, rough = error(nodes, steps), error(nodes // 2, steps // 2)
    moved = float(np.sqrt(np.mean((exact - start) ** 2)))
    floor = abs(rough - fine) / moved
    return Check("jko_steps_are_fokker_planck", fine / moved, floor, floor)


def noisy_descent(
    problem: FlowProblem,
    runs: Runs,
    *,
    noise: float,
    times: Sequence[float],
    particle_reward_weight: float | None = None,
) -> tuple[list[SampleDistance], list[SampleDistance]]:
    """Compare noisy DTO from π with the flow of L_PPO and with ρ*, at several times.

    Args:
        noise: noise of the particles; √(2β) is right.
        particle_reward_weight: λ of the particles; the problem's (None) is right.

    Returns:
        By time: distance of the particles from the flow, and from ρ*.
    """
    reward_weight = problem.reward_weight if particle_reward_weight is None else particle_reward_weight
    sampled = replace(problem, reward_weight=reward_weight)

    def run(random: np.random.Generator) -> list[Points]:
        start = particles.sample_prior(problem.landscape, runs.count, random)
        return particles.noisy_descent(sampled, start, random, noise=noise, step=runs.step, times=times)

    pairs = list(zip(*runs.both(run), strict=True))
    densities = fokker_planck.evolve(fokker_planck.flow(problem), problem.prior, list(times))
    limit = problem.bin_masses(problem.optimum)
    from_flow = [
        sample_distance(pair, problem, problem.bin_masses(density))
        for pair, density in zip(pairs, densities, strict=True)
    ]
    return from_flow, [sample_distance(pair, problem, limit) for pair in pairs]


def mala(problem: FlowProblem, runs: Runs, *, times: Sequence[float]) -> list[SampleDistance]:
    """Run MALA from π and return its distance from ρ* at each time."""

    def run(random: np.random.Generator) -> list[Points]:
        start = particles.sample_prior(problem.landscape, runs.count, random)
        return particles.metropolis(problem, start, random, step=runs.step, times=times)[0]

    limit = problem.bin_masses(problem.optimum)
    return [sample_distance(pair, problem, limit) for pair in zip(*runs.both(run), strict=True)]


def without_noise(problem: FlowProblem, runs: Runs, *, noise: float, time: float) -> tuple[list[Check], Points]:
    """Check where DTO as published (`noise` = 0) ends: at rest, in minima of L, and not distributed as ρ*.

    At rest: the largest |∇L| over all particles, against 1e-6 of the largest on the grid. In minima (one dimension):
    the share of particles at each local minimum of L against π's mass in its basin, within four standard deviations of
    a share of 2n particles.

    Returns:
        The checks, and the final particles of the first run.
    """

    def run(random: np.random.Generator) -> Points:
        start = particles.sample_prior(problem.landscape, runs.count, random)
        (ends,) = particles.noisy_descent(problem, start, random, noise=noise, step=runs.step, times=[time])
        return ends

    ends = runs.both(run)
    scale = np.linalg.norm(problem.loss(problem.grid.centres)[1], axis=1).max()
    speed = max(np.linalg.norm(problem.loss(end)[1], axis=1).max() for end in ends)
    checks = [Check("without_noise_at_rest", float(speed / scale), 1e-6)]
    if len(problem.grid.shape) == 1:
        minima, expected = particles.basin_masses(problem)
        shares = [np.bincount(np.abs(end - minima).argmin(1), minlength=len(minima)) / runs.count for end in ends]
        error = float(np.abs((shares[0] + shares[1]) / 2 - expected).max())
        tolerance = 4 * float(np.sqrt(expected * (1 - expected) / (2 * runs.count)).max())
        floor = float(np.abs(shares[0] - shares[1]).max())
        checks.append(Check("without_noise_minima_have_pi_basin_mass", error, tolerance, floor))
    measured = sample_distance(ends, problem, problem.bin_masses(problem.optimum))
    return [*checks, difference_detected("without_noise_is_not_rho_star", measured.distance, measured.floor)], ends[0]
