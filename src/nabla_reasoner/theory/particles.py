"""Particles in the landscapes of Theorem 4.1: noisy DTO, an exact sampler beside it, and DTO as it is (no noise).

Laws are compared by total variation between binned particles and a density's masses. Two independent runs of the same
law differ too: that distance is the noise floor. Where two runs of n particles lie f apart on average, one run lies
f/√2 from its own law and both together f/2, so pooled runs that are further than f from a density have another law.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from .landscapes import Grid, Landscape, tabulate

Points = Float[np.ndarray, "n d"]


def sample_prior(landscape: Landscape, count: int, random: np.random.Generator) -> Points:
    """`count` exact draws from π within the box, by rejection from the uniform law."""
    low, high = np.array(landscape.low), np.array(landscape.high)
    finest = tabulate(landscape, 2000 if len(low) == 1 else 200)
    ceiling = landscape.log_prior(finest.centres).max() + 0.05  # π may rise a little between tabulated points
    drawn, lacking = [], count
    while lacking > 0:
        proposed = random.uniform(low, high, (4 * lacking, len(low)))
        accepted = proposed[np.log(random.random(len(proposed))) < landscape.log_prior(proposed) - ceiling]
        drawn.append(accepted[:lacking])
        lacking -= len(drawn[-1])
    return np.concatenate(drawn)


def reflect(points: Points, landscape: Landscape) -> Points:
    """Points that left a box with walls, folded back into it."""
    if not landscape.walls:
        return points
    low, high = np.array(landscape.low), np.array(landscape.high)
    size = high - low
    return low + size - np.abs((points - low) % (2 * size) - size)


def noisy_descent(
    landscape: Landscape,
    start: Points,
    random: np.random.Generator,
    *,
    reward_weight: float,
    kl_weight: float,
    noise: float,
    step: float,
    times: Sequence[float],
) -> list[Points]:
    """Noisy DTO, dx = -∇L dt + noise dW, by Euler's rule; the particles at ascending times.

    Args:
        kl_weight: β of the drift -∇L = λ ∇r + β ∇log π.
        noise: √(2β) makes Theorem 4.1 hold; 0 is plain gradient descent, which is what DTO does.
        step: dt > 0, the same throughout: each time is reached to the nearest step.
    """
    points, done, results, loss = start, 0, [], landscape.loss(reward_weight, kl_weight)
    for time in times:
        for _ in range(round(time / step) - done):
            points = points - step * loss(points)[1]
            if noise:
                points = points + noise * np.sqrt(step) * random.standard_normal(points.shape)
            points = reflect(points, landscape)
        done = round(time / step)
        results.append(points)
    return results


def metropolis(
    landscape: Landscape,
    start: Points,
    random: np.random.Generator,
    *,
    reward_weight: float,
    kl_weight: float,
    step: float,
    times: Sequence[float],
) -> tuple[list[Points], float]:
    """The same moves as `noisy_descent`, each accepted or refused so that ρ* is exactly at rest (MALA).

    What it shares with Euler's rule is the slowness of mixing, what it lacks is the bias of a finite step.

    Returns:
        The particles at ascending times, and the share of accepted moves.
    """
    low, high, spread = np.array(landscape.low), np.array(landscape.high), 2 * kl_weight * step

    loss = landscape.loss(reward_weight, kl_weight)

    def look(points: Points) -> tuple[np.ndarray, np.ndarray]:
        value, slope = loss(points)
        return value, points - step * slope

    points, done, results, accepted, tried = start, 0, [], 0, 0
    value, mean = look(points)
    for time in times:
        for _ in range(round(time / step) - done):
            proposed = mean + np.sqrt(spread) * random.standard_normal(points.shape)
            inside = ((proposed >= low) & (proposed <= high)).all(1) if landscape.walls else True
            held = np.clip(proposed, low, high) if landscape.walls else proposed
            new_value, new_mean = look(held)
            forth, back = ((proposed - mean) ** 2).sum(1), ((points - new_mean) ** 2).sum(1)
            gain = (value - new_value) / kl_weight + (forth - back) / (2 * spread)
            take = (np.log(random.random(len(points))) < gain) & inside
            points, mean = np.where(take[:, None], held, points), np.where(take[:, None], new_mean, mean)
            value = np.where(take, new_value, value)
            accepted, tried = accepted + int(take.sum()), tried + len(take)
        done = round(time / step)
        results.append(points)
    return results, accepted / tried


def coarse(masses: Float[np.ndarray, " cells"], grid: Grid, bins: int) -> Float[np.ndarray, " bins"]:
    """Masses of `bins` bins along each dimension; a bin is a whole number of cells."""
    merged = masses.reshape([length for cells in grid.shape for length in (bins, cells // bins)])
    return merged.sum(tuple(range(1, merged.ndim, 2))).ravel()


def binned(points: Points, landscape: Landscape, bins: int) -> Float[np.ndarray, " bins"]:
    """Share of the particles in each bin of the box; one outside counts to none."""
    ranges = list(zip(landscape.low, landscape.high, strict=True))
    counts, _ = np.histogramdd(points, bins=bins, range=ranges)
    return counts.ravel() / len(points)


def total_variation(first: Float[np.ndarray, " bins"], second: Float[np.ndarray, " bins"]) -> float:
    """Half the sum of absolute differences, in [0, 1]."""
    return float(0.5 * np.abs(first - second).sum())


def basin_masses(landscape: Landscape, cells: int, *, reward_weight: float, kl_weight: float) -> list[tuple]:
    """Where descent without noise must end in one dimension: each local minimum of L with π's mass uphill of it."""
    grid = tabulate(landscape, cells)
    values, _ = landscape.loss(reward_weight, kl_weight)(grid.centres)
    prior = np.exp(landscape.log_prior(grid.centres))
    inner = values[1:-1]
    minima = 1 + np.flatnonzero((inner < values[:-2]) & (inner <= values[2:]))
    ridges = 1 + np.flatnonzero((inner > values[:-2]) & (inner >= values[2:]))
    parts = np.split(prior / prior.sum(), ridges)
    return [(float(grid.centres[place, 0]), float(part.sum())) for place, part in zip(minima, parts, strict=True)]
