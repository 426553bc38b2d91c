"""The PPO functional of Eq. 3 and its Wasserstein gradient flow, on densities (Theorem 4.1, arXiv 2603.04948).

    L_PPO(ρ) = -E_ρ[λ r] + β KL(ρ‖π)           first variation δL_PPO/δρ = L + β log ρ + constant
    v = -∇ δL_PPO/δρ = -∇L - β ∇log ρ          velocity of the flow ∂ρ/∂t = -∇·(ρ v)
    ∂ρ/∂t = ∇·(ρ ∇L) + β Δρ                    the same written out: Fokker-Planck of dx = -∇L dt + √(2β) dW

The flow is computed in two ways that share no code: `jko` minimises the functional step by step (its definition), and
`generator` with `evolve` solves the last line. Densities are masses of equal cells.
"""

from typing import NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Float
from scipy import sparse

from .landscapes import Grid, Landscape, normalised, tabulate

Masses = Float[np.ndarray, " cells"]


def ppo_objective(
    masses: Float[torch.Tensor, "*batch cells"],
    log_prior: Float[torch.Tensor, " cells"],
    reward: Float[torch.Tensor, " cells"],
    *,
    reward_weight: float,
    kl_weight: float,
) -> Float[torch.Tensor, "*batch"]:
    """L_PPO of a distribution over cells, term by term as Eq. 3 has it.

    Args:
        masses: ρ; positive.
        log_prior: log π of each cell; π need not sum to 1, which adds a constant.
        reward: r of each cell.
    """
    divergence = (masses * (masses.log() - log_prior)).sum(-1)
    return -reward_weight * (masses * reward).sum(-1) + kl_weight * divergence


def closed_form(landscape: Landscape, grid: Grid, *, reward_weight: float, kl_weight: float) -> Masses:
    """ρ* ∝ π exp(λ r / β)."""
    log_prior, reward = landscape.log_prior(grid.centres), landscape.reward(grid.centres)
    return normalised(log_prior + reward_weight * reward / kl_weight)


def minimiser(
    landscape: Landscape, grid: Grid, *, reward_weight: float, kl_weight: float, steps: int = 4000
) -> tuple[Masses, float]:
    """argmin of L_PPO over distributions on the grid by L-BFGS, and the largest entry of its last gradient.

    The optimiser sees the value of `ppo_objective` and autograd's gradient of it in the log-masses, from the uniform
    distribution on; neither the closed form nor the first variation enters.
    """
    log_prior, reward = (torch.from_numpy(f(grid.centres)) for f in (landscape.log_prior, landscape.reward))

    def evaluate(log_masses: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(log_masses).requires_grad_()
        value = ppo_objective(
            torch.softmax(leaf, 0), log_prior, reward, reward_weight=reward_weight, kl_weight=kl_weight
        )
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), gradient.numpy()

    settings = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 30, "ftol": 0.0, "gtol": 1e-10}
    found = scipy.optimize.minimize(
        evaluate, np.zeros(len(grid.centres)), jac=True, method="L-BFGS-B", options=settings
    )
    return normalised(found.x), float(np.abs(found.jac).max())


def generator(potential: Float[np.ndarray, "*shape"], widths: tuple[float, ...], kl_weight: float) -> sparse.csr_matrix:
    """Rates G of the Fokker-Planck equation between neighbouring cells: dm/dt = G m (Scharfetter and Gummel's fluxes).

    A finite-volume scheme: columns sum to zero, so mass is conserved and the box lets nothing out; masses stay
    positive; exp(-L/β) at the centres is exactly at rest. Second order in the cell width.
    """
    numbers = np.arange(potential.size).reshape(potential.shape)
    rows, columns, rates = [], [], []
    for axis, width in enumerate(widths):
        climb = np.diff(potential, axis=axis).ravel() / kl_weight
        left = numbers.take(range(potential.shape[axis] - 1), axis).ravel()
        right = numbers.take(range(1, potential.shape[axis]), axis).ravel()
        for source, target, rise in ((left, right, climb), (right, left, -climb)):
            small = np.abs(rise) < 1e-9
            safe = np.where(small, 1.0, rise)
            rate = kl_weight / width**2 * np.where(small, 1 - rise / 2, safe / np.expm1(safe))
            rows += [target, source]
            columns += [source, source]
            rates += [rate, -rate]
    entries = (np.concatenate(rates), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_matrix(entries, shape=(potential.size, potential.size))


def flow(landscape: Landscape, grid: Grid, *, reward_weight: float, kl_weight: float) -> sparse.csr_matrix:
    """`generator` of a landscape's Fokker-Planck equation."""
    potential = landscape.loss(reward_weight, kl_weight)(grid.centres)[0].reshape(grid.shape)
    return generator(potential, grid.widths, kl_weight)


def evolve(rates: sparse.csr_matrix, masses: Masses, times: list[float], *, substeps: int = 200) -> list[Masses]:
    """Masses at ascending times, by the two-stage, second-order TR-BDF2 rule (damps what a fine grid makes stiff).

    Args:
        substeps: steps between one time and the next; the first of them are shorter, where the start is rough.
    """
    share = 2 - np.sqrt(2)
    identity, results, before = sparse.identity(rates.shape[0], format="csc"), [], 0.0
    for time in times:
        for length, count in (((time - before) / substeps / 10, 10), ((time - before) / substeps, substeps - 1)):
            solver = sparse.linalg.splu((identity - share / 2 * length * rates).tocsc())
            for _ in range(count):
                middle = solver.solve(masses + share / 2 * length * (rates @ masses))
                masses = solver.solve((middle - (1 - share) ** 2 * masses) / (share * (2 - share)))
        results.append(masses)
        before = time
    return results


def jko(
    landscape: Landscape,
    start: Float[np.ndarray, " nodes"],
    *,
    reward_weight: float,
    kl_weight: float,
    step: float,
    count: int,
) -> Float[np.ndarray, " nodes"]:
    """`count` steps of Jordan, Kinderlehrer and Otto's scheme in one dimension: ρ' = argmin L_PPO(ρ) + W₂²(ρ, ρ')/2τ.

    A law is held by its quantiles at the levels (i - ½)/n, between which it is uniform. In one dimension W₂ is the
    distance between quantile functions and E log ρ a sum over gaps, so each step is a small convex problem for
    τ < 1/max|L''|, solved by damped Newton steps. This is the definition of the flow: no differential equation enters.

    Args:
        start: ascending quantiles.
        step: τ; the error is of first order in it.
    """
    number, points, loss = len(start), start.copy(), landscape.loss(reward_weight, kl_weight)
    for _ in range(count):
        origin = points
        for _ in range(60):
            gaps = np.diff(points)
            slope = loss(points[:, None])[1][:, 0]
            gradient = (points - origin) / step + slope
            gradient[1:] -= kl_weight / gaps
            gradient[:-1] += kl_weight / gaps
            ends = loss(points[:, None] + 1e-5)[1][:, 0]
            bend = np.maximum(1 / step + (ends - slope) / 1e-5, 0.1 / step)
            stiff = kl_weight / gaps**2
            bands = np.zeros((2, number))
            bands[1] = bend + np.append(stiff, 0) + np.insert(stiff, 0, 0)
            bands[0, 1:] = -stiff
            move = -scipy.linalg.solveh_banded(bands, gradient)
            closing = np.diff(move) / gaps
            points = points + min(1.0, 0.5 / max(1e-12, -closing.min())) * move
            if np.abs(move).max() < 1e-9:
                break
    return points


def quantiles(masses: Masses, grid: Grid, levels: Float[np.ndarray, " nodes"]) -> Float[np.ndarray, " nodes"]:
    """Quantiles of a law on a one-dimensional grid, uniform within each cell."""
    edges = np.append(grid.centres[:, 0] - grid.widths[0] / 2, grid.centres[-1, 0] + grid.widths[0] / 2)
    heights = np.insert(np.cumsum(masses), 0, 0.0) / masses.sum()
    keep = np.insert(np.diff(heights) > 0, 0, True)
    return np.interp(levels, heights[keep], edges[keep])


def functional_velocity(
    landscape: Landscape, grid: Grid, masses: Masses, *, reward_weight: float, kl_weight: float, nudge: float = 0.02
) -> Float[np.ndarray, "d ..."]:
    """v = -∇ δL_PPO/δρ by differences alone: of the functional when a cell's mass is nudged, then between cells.

    Args:
        nudge: share of a cell's mass that is added and taken away. The error in m log m is the same for every cell,
            nudge²/6, so it leaves the velocity alone.

    Returns:
        By dimension the velocity at every centre; NaN at the cells along the box, which lack a neighbour.
    """
    base = torch.from_numpy(masses)
    log_prior, reward = (torch.from_numpy(f(grid.centres)) for f in (landscape.log_prior, landscape.reward))
    variation = torch.empty_like(base)
    for part in torch.arange(len(base)).split(256):
        change = torch.zeros(len(part), len(base), dtype=base.dtype)
        change[torch.arange(len(part)), part] = nudge * base[part]
        up, down = (
            ppo_objective(base + sign * change, log_prior, reward, reward_weight=reward_weight, kl_weight=kl_weight)
            for sign in (1, -1)
        )
        variation[part] = (up - down) / (2 * nudge * base[part])
    table = variation.numpy().reshape(grid.shape)
    velocity = np.full((len(grid.shape), *grid.shape), np.nan)
    for axis, width in enumerate(grid.widths):
        inner = [slice(None)] * len(grid.shape)
        inner[axis] = slice(1, -1)
        ahead, behind = (table.take(range(first, first + table.shape[axis] - 2), axis) for first in (2, 0))
        velocity[(axis, *inner)] = -(ahead - behind) / (2 * width)
    return velocity


def relaxation_time(landscape: Landscape, cells: int, *, reward_weight: float, kl_weight: float) -> float:
    """1 / spectral gap of the Fokker-Planck equation in one dimension: how long the slowest part of a law lives."""
    grid = tabulate(landscape, cells)
    rates = flow(landscape, grid, reward_weight=reward_weight, kl_weight=kl_weight)
    # detailed balance makes the similar matrix symmetric: its off-diagonal is √(G_ij G_ji)
    across = np.sqrt(rates.diagonal(1) * rates.diagonal(-1))
    values = scipy.linalg.eigvalsh_tridiagonal(
        rates.diagonal(), across, select="i", select_range=(cells - 2, cells - 2)
    )
    return float(-1 / values[0])


class BarrierTimes(NamedTuple):
    """How long a law needs across the saddle of a double well in one dimension, and how high that is.

    Attributes:
        barrier: from the higher well to the saddle, in L's units.
        kramers_time: 1/(k_left + k_right), k = √(L''(well) |L''(saddle)|) / 2π · exp(-barrier/β) (Eyring, Kramers).
        passage_time: m_left m_right ∫ dx / (β ρ*(x)) between the wells, with the masses m on both sides of the saddle.
    """

    barrier: float
    kramers_time: float
    passage_time: float


def barrier_times(landscape: Landscape, cells: int, *, reward_weight: float, kl_weight: float) -> BarrierTimes:
    """Both times, from L alone.

    Raises:
        ValueError: L has not exactly two wells.
    """
    grid = tabulate(landscape, cells)
    values, _ = landscape.loss(reward_weight, kl_weight)(grid.centres)
    inner, width = values[1:-1], grid.widths[0]
    wells = 1 + np.flatnonzero((inner < values[:-2]) & (inner < values[2:]))
    saddles = 1 + np.flatnonzero((inner > values[:-2]) & (inner > values[2:]))
    if len(wells) != 2 or len(saddles) != 1:
        raise ValueError(
            f"a barrier needs two wells and one saddle; got {len(wells)} and {len(saddles)}. Move the modes apart."
        )
    bend = np.gradient(np.gradient(values, width), width)
    barriers = values[saddles[0]] - values[wells]
    rates = np.sqrt(bend[wells] * -bend[saddles[0]]) / (2 * np.pi) * np.exp(-barriers / kl_weight)
    masses = normalised(-values / kl_weight)
    left = masses[: saddles[0]].sum()
    resistance = (width**2 / masses[wells[0] : wells[1]]).sum() / kl_weight
    return BarrierTimes(float(barriers.min()), float(1 / rates.sum()), float(left * (1 - left) * resistance))
