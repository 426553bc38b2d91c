"""Time to cross a barrier between two modes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from . import fokker_planck, landscapes, particles
from .check import Check
from .flow_checks import twice
from .landscapes import Landscape


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
        weights=[0.5, 0.5],
        means=[[-half], [half]],
        scale=scale,
        heights=[1.0],
        centres=[[half]],
        width=scale,
        reach=half + 7 * scale,
    )


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
    gap_time = fokker_planck.relaxation_time(landscape, cells, **weights)
    known = Escape(separation, gap_time=gap_time, **fokker_planck.barrier_times(landscape, cells, **weights)._asdict())
    if not simulate:
        return known, math.nan
    grid = landscapes.tabulate(landscape, cells)
    left, times = grid.centres[:, 0] < 0, [gap_time * number / 20 for number in range(1, 33)]
    start = landscapes.normalised(-0.5 * (grid.centres[:, 0] + separation / 2) ** 2 / scale**2)
    limit = fokker_planck.closed_form(landscape, grid, **weights)[left].sum()
    rates = fokker_planck.flow(landscape, grid, **weights)
    shares = [masses[left].sum() for masses in fokker_planck.evolve(rates, start, times, substeps=30)]

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
