"""Time to cross a barrier between two modes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from . import fokker_planck, landscapes, particles
from .check import Check
from .landscapes import FlowProblem, Landscape
from .particles import Runs


class Escape(NamedTuple):
    """Relaxation times between two modes, computed in five ways.

    Attributes:
        separation: distance of the modes.
        barrier: lower barrier of L between them.
        gap_time: 1 / spectral gap of the Fokker-Planck equation.
        kramers_time: time from values and curvatures of L (Eyring and Kramers).
        passage_time: time from integrals of exp(±L), without the parabolic approximation.
        flow_time, particle_time: time until the left mode's excess mass has fallen to 1/e; NaN without particles.
        deviation: standard deviation of particle_time relative to it; NaN without particles.
    """

    separation: float
    barrier: float
    gap_time: float
    kramers_time: float
    passage_time: float
    flow_time: float = math.nan
    particle_time: float = math.nan
    deviation: float = math.nan


def double_well(separation: float, scale: float) -> Landscape:
    """Build a π of two equal modes, with a reward at the right one."""
    half = separation / 2
    return landscapes.mixture(
        weights=[0.5, 0.5],
        means=[[-half], [half]],
        scale=scale,
        heights=[1.0],
        centres=[[half]],
        width=scale,
        reach=half + 7 * scale,
    )


def escape(separation: float, *, scale: float, reward_weight: float, cells: int, runs: Runs, simulate: bool) -> Escape:
    """Compute the times for β = 1; those of the flow and of particles only if `simulate`.

    All mass starts in the left mode. Flow and particles are timed alike: until the left half's excess over its share in
    the limit has fallen to 1/e. The deviation is that of a share of 2n particles over the slope of an exponential.
    """
    problem = FlowProblem(double_well(separation, scale), reward_weight, kl_weight=1.0, cells=cells)
    gap_time = fokker_planck.relaxation_time(problem)
    analytic = Escape(separation, gap_time=gap_time, **fokker_planck.barrier_times(problem)._asdict())
    if not simulate:
        return analytic
    centres = problem.grid.centres[:, 0]
    left, times = centres < 0, [gap_time * number / 20 for number in range(1, 33)]
    start = landscapes.normalised(-0.5 * (centres + separation / 2) ** 2 / scale**2)
    limit = problem.optimum[left].sum()
    excess = start[left].sum() - limit
    flow_shares = [
        masses[left].sum() for masses in fokker_planck.evolve(fokker_planck.flow(problem), start, times, substeps=30)
    ]

    def run(random: np.random.Generator) -> list[float]:
        points = random.normal(-separation / 2, scale, (runs.count, 1))
        path = particles.noisy_descent(problem, points, random, noise=math.sqrt(2), step=runs.step, times=times)
        return [float((points < 0).mean()) for points in path]

    def crossing(shares: Sequence[float]) -> float:
        logs = np.log(np.maximum((np.asarray(shares) - limit) / excess, 1e-9))
        return float(np.interp(1.0, -logs, times))

    particle_shares = np.mean(runs.both(run), axis=0).tolist()
    return analytic._replace(
        flow_time=crossing(flow_shares),
        particle_time=crossing(particle_shares),
        deviation=float(math.e * math.sqrt(0.25 / (2 * runs.count)) / excess),
    )


def escape_checks(escapes: Sequence[Escape]) -> list[Check]:
    """Check the times, given in ascending order of separation.

    Particles: the largest error against the flow is at most 4 standard deviations. Arrhenius: at high barriers
    log(gap time / Kramers time) must not change with the barrier, while the time grows as its exponential; its slope
    over the upper half of the separations is at most 0.03, against 1 for the exponential.

    Level, at the highest barrier: gap time and passage time agree up to exp(-barrier), within 1 %. Kramers' formula is
    the limit of high barriers. Its correction is of order 1/barrier (in units of β), and positive here: the saddle of
    two Gaussians is flatter than its parabola. So gap time / Kramers time must lie from 1 to 1.5.
    """
    checks = []
    simulated = [row for row in escapes if not math.isnan(row.particle_time)]
    if simulated:
        worst = max(abs(row.particle_time / row.flow_time - 1) / row.deviation for row in simulated)
        checks.append(Check("convergence_time_of_particles_is_the_flows", worst, 4.0, 1.0))
    high = escapes[len(escapes) // 2 :]
    ratios = np.log([row.gap_time / row.kramers_time for row in high])
    slope = float(np.polyfit([row.barrier for row in high], ratios, 1)[0])
    checks.append(Check("convergence_time_grows_as_exp_of_barrier", abs(slope), 0.03))
    last = high[-1]
    return [
        *checks,
        Check("convergence_time_is_passage_time_at_high_barrier", abs(last.gap_time / last.passage_time - 1), 0.01),
        Check("convergence_time_is_1_to_1.5_kramers_times", abs(last.gap_time / last.kramers_time - 1.25), 0.25),
    ]
