"""The PPO functional of Eq. 3 and its Wasserstein gradient flow, on densities (Theorem 4.1, arXiv 2603.04948).

    L_PPO(ρ) = -E_ρ[λ r] + β KL(ρ‖π)           first variation δL_PPO/δρ = L + β log ρ + constant
    v = -∇ δL_PPO/δρ = -∇L - β ∇log ρ          velocity of the flow ∂ρ/∂t = -∇·(ρ v)
    ∂ρ/∂t = ∇·(ρ ∇L) + β Δρ                    the same written out: Fokker-Planck of dx = -∇L dt + √(2β) dW

`jko` computes the flow from its definition, by minimising the functional step by step. `generator` with `evolve` solves
the last line instead; the two share no code. A density is given by the masses of equal cells.
"""

from typing import NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Float
from scipy import sparse

from .landscapes import FlowProblem, Grid, Masses, normalised


def ppo_objective(
    masses: Float[torch.Tensor, "*batch cells"],
    log_prior: Float[torch.Tensor, " cells"],
    reward: Float[torch.Tensor, " cells"],
    *,
    reward_weight: float,
    kl_weight: float,
) -> Float[torch.Tensor, "*batch"]:
    """Compute L_PPO of a distribution over cells, term by term as in Eq. 3.

    Args:
        masses: ρ of each cell, positive.
        log_prior: log π of each cell, up to a constant.
        reward: r of each cell.
    """
    divergence = (masses * (masses.log() - log_prior)).sum(-1)
    return -reward_weight * (masses * reward).sum(-1) + kl_weight * divergence


def minimiser(problem: FlowProblem, *, steps: int = 4000) -> tuple[Masses, float]:
    """Minimise L_PPO over distributions on the grid by L-BFGS.

    The optimiser starts at the uniform distribution. It sees only the value of `ppo_objective` and autograd's gradient
    in the log-masses: neither the closed form nor the first variation enters.

    Returns:
        The minimiser, and the largest entry of the last gradient.
    """
    log_prior, reward = _tabulated(problem)
    weights = {"reward_weight": problem.reward_weight, "kl_weight": problem.kl_weight}

    def evaluate(log_masses: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(log_masses).requires_grad_()
        value = ppo_objective(torch.softmax(leaf, 0), log_prior, reward, **weights)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), gradient.numpy()

    settings = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 30, "ftol": 0.0, "gtol": 1e-10}
    start = np.zeros(len(problem.grid.centres))
    result = scipy.optimize.minimize(evaluate, start, jac=True, method="L-BFGS-B", options=settings)
    return normalised(result.x), float(np.abs(result.jac).max())


def _tabulated(problem: FlowProblem) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log π and r of each cell."""
    centres = problem.grid.centres
    return torch.from_numpy(problem.landscape.log_prior(centres)), torch.from_numpy(problem.landscape.reward(centres))


def generator(potential: Float[np.ndarray, "*shape"], widths: tuple[float, ...], kl_weight: float) -> sparse.csr_matrix:
    """Build the rates G of the Fokker-Planck equation between neighbouring cells: dm/dt = G m.

    A finite-volume scheme with Scharfetter and Gummel's fluxes, of second order in the cell width. Columns sum to zero,
    so mass is conserved and none leaves the box. Masses stay positive, and exp(-L/β) at the centres is stationary.
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


def flow(problem: FlowProblem) -> sparse.csr_matrix:
    """Build the `generator` of a problem's Fokker-Planck equation."""
    potential = problem.loss(problem.grid.centres)[0].reshape(problem.grid.shape)
    return generator(potential, problem.grid.widths, problem.kl_weight)


def evolve(rates: sparse.csr_matrix, masses: Masses, times: list[float], *, substeps: int = 200) -> list[Masses]:
    """Return the masses at ascending times, by the second-order TR-BDF2 rule, which damps stiff components.

    Args:
        substeps: number of steps between one time and the next; the first is divided by ten, for rough starts.
    """
    share = 2 - np.sqrt(2)
    identity = sparse.identity(rates.shape[0], format="csc")
    results: list[Masses] = []
    before = 0.0
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
    problem: FlowProblem, start: Float[np.ndarray, " nodes"], *, step: float, count: int
) -> Float[np.ndarray, " nodes"]:
    """Take `count` steps of Jordan, Kinderlehrer and Otto's scheme: ρ' = argmin L_PPO(ρ) + W₂²(ρ, ρ')/2τ.

    One dimension only. A distribution is given by its quantiles at the levels (i - ½)/n, and is uniform between them.
    W₂ is then the distance between quantile functions, and E log ρ a sum over gaps. For τ < 1/max|L''| each step is a
    small convex problem, solved by damped Newton steps. This is the flow's definition: no differential equation enters.

    Args:
        start: ascending quantiles.
        step: τ; the error is of first order in it.
    """
    kl_weight = problem.kl_weight
    loss = problem.loss
    points = start.copy()
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
            bands = np.zeros((2, len(start)))
            bands[1] = bend + np.append(stiff, 0) + np.insert(stiff, 0, 0)
            bands[0, 1:] = -stiff
            update = -scipy.linalg.solveh_banded(bands, gradient)
            closing = np.diff(update) / gaps
            points = points + min(1.0, 0.5 / max(1e-12, -closing.min())) * update
            if np.abs(update).max() < 1e-9:
                break
    return points


def quantiles(masses: Masses, grid: Grid, levels: Float[np.ndarray, " nodes"]) -> Float[np.ndarray, " nodes"]:
    """Return quantiles of a distribution on a one-dimensional grid, uniform within each cell."""
    edges = np.append(grid.centres[:, 0] - grid.widths[0] / 2, grid.centres[-1, 0] + grid.widths[0] / 2)
    heights = np.insert(np.cumsum(masses), 0, 0.0) / masses.sum()
    rising = np.insert(np.diff(heights) > 0, 0, True)
    return np.interp(levels, heights[rising], edges[rising])


def functional_velocity(problem: FlowProblem, masses: Masses, *, nudge: float = 0.02) -> Float[np.ndarray, "d ..."]:
    """Compute v = -∇ δL_PPO/δρ by differences alone: of the functional in each cell's mass, then between cells.

    Args:
        nudge: share of a cell's mass that is added and subtracted. The error in m log m, nudge²/6, is the same for
            every cell, so it does not change the velocity.

    Returns:
        Velocity at every centre, by dimension; NaN at the box's outermost cells, which lack a neighbour.
    """
    grid = problem.grid
    base = torch.from_numpy(masses)
    weights = {"reward_weight": problem.reward_weight, "kl_weight": problem.kl_weight}
    log_prior, reward = _tabulated(problem)
    variation = torch.empty_like(base)
    for part in torch.arange(len(base)).split(256):
        change = torch.zeros(len(part), len(base), dtype=base.dtype)
        change[torch.arange(len(part)), part] = nudge * base[part]
        up, down = (ppo_objective(base + sign * change, log_prior, reward, **weights) for sign in (1, -1))
        variation[part] = (up - down) / (2 * nudge * base[part])
    table = variation.numpy().reshape(grid.shape)
    velocity = np.full((len(grid.shape), *grid.shape), np.nan)
    for axis, width in enumerate(grid.widths):
        inner = [slice(None)] * len(grid.shape)
        inner[axis] = slice(1, -1)
        right, left = (table.take(range(first, first + table.shape[axis] - 2), axis) for first in (2, 0))
        velocity[(axis, *inner)] = -(right - left) / (2 * width)
    return velocity


def relaxation_time(problem: FlowProblem) -> float:
    """Return 1 / spectral gap of the Fokker-Planck equation in one dimension: the slowest mode's decay time."""
    rates = flow(problem)
    # detailed balance makes the similar matrix symmetric: its off-diagonal is √(G_ij G_ji)
    off_diagonal = np.sqrt(rates.diagonal(1) * rates.diagonal(-1))
    second = (problem.cells - 2, problem.cells - 2)
    values = scipy.linalg.eigvalsh_tridiagonal(rates.diagonal(), off_diagonal, select="i", select_range=second)
    return float(-1 / values[0])


class BarrierTimes(NamedTuple):
    """Times to cross the saddle of a double well in one dimension.

    Attributes:
        barrier: height of the saddle above the higher well, in units of L.
        kramers_time: 1/(k_left + k_right), k = √(L''(well) |L''(saddle)|) / 2π · exp(-barrier/β) (Eyring, Kramers).
        passage_time: m_left m_right ∫ dx / (β ρ*(x)) between the wells, with the masses m on both sides of the saddle.
    """

    barrier: float
    kramers_time: float
    passage_time: float


def barrier_times(problem: FlowProblem) -> BarrierTimes:
    """Compute both times from L alone.

    Raises:
        ValueError: L does not have exactly two wells and one saddle.
    """
    grid, kl_weight = problem.grid, problem.kl_weight
    values, _ = problem.loss(grid.centres)
    width = grid.widths[0]
    inner = values[1:-1]
    wells = 1 + np.flatnonzero((inner < values[:-2]) & (inner < values[2:]))
    saddles = 1 + np.flatnonzero((inner > values[:-2]) & (inner > values[2:]))
    if len(wells) != 2 or len(saddles) != 1:
        raise ValueError(
            f"L must have two wells and one saddle; got {len(wells)} and {len(saddles)}. Move the modes further apart."
        )
    bend = np.gradient(np.gradient(values, width), width)
    barriers = values[saddles[0]] - values[wells]
    rates = np.sqrt(bend[wells] * -bend[saddles[0]]) / (2 * np.pi) * np.exp(-barriers / kl_weight)
    masses = normalised(-values / kl_weight)
    left = masses[: saddles[0]].sum()
    resistance = (width**2 / masses[wells[0] : wells[1]]).sum() / kl_weight
    return BarrierTimes(float(barriers.min()), float(1 / rates.sum()), float(left * (1 - left) * resistance))
