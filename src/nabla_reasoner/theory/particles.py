"""Particle methods for Theorem 4.1: noisy DTO, an exact sampler (MALA), and plain DTO without noise."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from .landscapes import FlowProblem, Landscape, Points, tabulate

Result = TypeVar("Result")


class Runs(NamedTuple):
    """Two independent runs of particles.

    Attributes:
        count: number of particles in each run.
        step: time step dt.
        seed: seed of both runs; each run has its own stream.
        threads: number of runs in parallel; results do not depend on it.
    """

    count: int
    step: float
    seed: Sequence[int]
    threads: int = 1

    def both(self, run: Callable[[np.random.Generator], Result]) -> tuple[Result, Result]:
        """Return the results of `run` with each run's random stream."""
        streams = [np.random.default_rng([*self.seed, number]) for number in range(2)]
        with ThreadPoolExecutor(max(1, min(2, self.threads))) as pool:
            first, second = pool.map(run, streams)
        return first, second


def sample_prior(landscape: Landscape, count: int, random: np.random.Generator) -> Points:
    """Draw `count` exact samples of π within the box, by rejection from the uniform distribution."""
    low, high = np.array(landscape.low), np.array(landscape.high)
    finest = tabulate(landscape, 2000 if len(low) == 1 else 200)
    ceiling = landscape.log_prior(finest.centres).max() + 0.05  # π may be a little higher between grid points
    samples, missing = [], count
    while missing > 0:
        proposed = random.uniform(low, high, (4 * missing, len(low)))
        accepted = proposed[np.log(random.random(len(proposed))) < landscape.log_prior(proposed) - ceiling]
        samples.append(accepted[:missing])
        missing -= len(samples[-1])
    return np.concatenate(samples)


def reflect(points: Points, landscape: Landscape) -> Points:
    """Reflect points that left a box with walls back into it."""
    if not landscape.walls:
        return points
    low, high = np.array(landscape.low), np.array(landscape.high)
    size = high - low
    return low + size - np.abs((points - low) % (2 * size) - size)


def noisy_descent(
    problem: FlowProblem,
    start: Points,
    random: np.random.Generator,
    *,
    noise: float,
    step: float,
    times: Sequence[float],
) -> list[Points]:
    """Run noisy DTO, dx = -∇L dt + noise dW with -∇L = λ ∇r + β ∇log π, by Euler's rule.

    Args:
        noise: √(2β) makes Theorem 4.1 hold; 0 is plain gradient descent, as in DTO.
        step: dt > 0; each time is reached to the nearest step.

    Returns:
        The particles at ascending times.
    """
    points = start
    done = 0
    results = []
    for time in times:
        for _ in range(round(time / step) - done):
            points = points - step * problem.loss(points)[1]
            if noise:
                points = points + noise * np.sqrt(step) * random.standard_normal(points.shape)
            points = reflect(points, problem.landscape)
        done = round(time / step)
        results.append(points)
    return results


def metropolis(
    problem: FlowProblem, start: Points, random: np.random.Generator, *, step: float, times: Sequence[float]
) -> tuple[list[Points], float]:
    """Run MALA: the proposals of `noisy_descent`, accepted or rejected so that ρ* is exactly stationary.

    It mixes as slowly as Euler's rule, but has no bias from the finite step.

    Returns:
        The particles at ascending times, and the share of accepted proposals.
    """
    landscape = problem.landscape
    variance = 2 * problem.kl_weight * step
    low, high = np.array(landscape.low), np.array(landscape.high)

    def evaluate(points: Points) -> tuple[np.ndarray, np.ndarray]:
        value, slope = problem.loss(points)
        return value, points - step * slope

    points = start
    value, mean = evaluate(points)
    done = accepted = tried = 0
    results = []
    for time in times:
        for _ in range(round(time / step) - done):
            proposed = mean + np.sqrt(variance) * random.standard_normal(points.shape)
            inside = ((proposed >= low) & (proposed <= high)).all(1) if landscape.walls else True
            clipped = np.clip(proposed, low, high) if landscape.walls else proposed
            new_value, new_mean = evaluate(clipped)
            forward, backward = ((proposed - mean) ** 2).sum(1), ((points - new_mean) ** 2).sum(1)
            gain = (value - new_value) / problem.kl_weight + (forward - backward) / (2 * variance)
            accept = (np.log(random.random(len(points))) < gain) & inside
            points = np.where(accept[:, None], clipped, points)
            mean = np.where(accept[:, None], new_mean, mean)
            value = np.where(accept, new_value, value)
            accepted += int(accept.sum())
            tried += len(accept)
        done = round(time / step)
        results.append(points)
    return results, accepted / tried


def total_variation(first: Float[np.ndarray, " bins"], second: Float[np.ndarray, " bins"]) -> float:
    """Return half the sum of absolute differences, in [0, 1]."""
    return float(0.5 * np.abs(first - second).sum())


def basin_masses(problem: FlowProblem) -> tuple[np.ndarray, np.ndarray]:
    """Return the local minima of L in one dimension, and π's mass in the basin of each.

    Descent without noise must end there, in those shares.
    """
    grid = problem.grid
    values, _ = problem.loss(grid.centres)
    prior = np.exp(problem.landscape.log_prior(grid.centres))
    inner = values[1:-1]
    minima = 1 + np.flatnonzero((inner < values[:-2]) & (inner <= values[2:]))
    ridges = 1 + np.flatnonzero((inner > values[:-2]) & (inner >= values[2:]))
    basins = np.split(prior / prior.sum(), ridges)
    return grid.centres[minima, 0], np.array([basin.sum() for basin in basins])
