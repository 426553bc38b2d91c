"""Groups of checks for `./reproduce.sh theorem`."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from . import barrier_checks, estimator_checks, flow_checks, fokker_planck, gradient_checks, particles
from .check import Check, Point, difference_detected
from .context import Findings, Space, TheoryContext, named
from .flow_checks import SampleDistance

SQRT2 = math.sqrt(2)


def surrogate(context: TheoryContext) -> Findings:
    """Compare the relaxed text's polynomial with the models at samples of π: 0.05 nats, 5 % of the steepest slope.

    All other checks of the text use the polynomial; this one ties it to the models.
    """
    problem = context.space("text").problem
    points = particles.sample_prior(problem.landscape, 40, np.random.default_rng([context.seed, 1]))
    value, slope = context.relaxed_text.surrogate_error(problem.landscape, points, problem.reward_weight)
    checks = [Check("text_polynomial_value_nats", value, 0.05), Check("text_polynomial_slope", slope, 0.05)]
    return Findings(checks, _text_map(context))


def _text_map(context: TheoryContext) -> list[Point]:
    """Tabulate L over the text's square, from 0 at its minimum; one series for each value of the second coordinate."""
    axis = np.linspace(0, 1, 25)
    points = np.stack([coordinate.ravel() for coordinate in np.meshgrid(axis, axis, indexing="ij")], -1)
    values, _ = context.space("text").problem.loss(points)
    heights = values - values.min()
    return [
        Point("text", f"{second:.3f}", first, height) for (first, second), height in zip(points, heights, strict=True)
    ]


def argmin(context: TheoryContext) -> Findings:
    """Check that the closed form ρ* is the minimiser of L_PPO."""
    checks = []
    for space in context.spaces():
        problem = replace(space.problem, cells=space.settings.argmin_cells)
        check = flow_checks.minimiser(problem, claimed_reward_weight=problem.reward_weight)
        checks.append(named(check, space.name))
    return Findings(checks)


def velocity(context: TheoryContext) -> Findings:
    """Check that the flow's velocity is DTO's drift less ∇log ρ."""
    checks = []
    for space in context.spaces():
        check = flow_checks.velocity(space.problem, width=space.settings.probe_width, entropy_weight=1.0)
        checks.append(named(check, space.name))
    return Findings(checks)


def jko(context: TheoryContext) -> Findings:
    """Check that JKO steps on L_PPO, the flow's definition, give the Fokker-Planck equation's solution."""
    check = flow_checks.jko(context.space("line").problem, jko_kl_weight=1.0, **context.settings.jko.model_dump())
    return Findings([named(check, "line")])


def _follows(name: str, measured: SampleDistance) -> Check:
    """Return a row that passes if a distance is within its noise floor."""
    return Check(name, measured.distance, measured.floor, measured.floor)


def finite_times(context: TheoryContext) -> Findings:
    """Check that noisy DTO from π is distributed as the flow at several times, when ρ* is still far away."""
    checks, points = [], []
    for number, space in enumerate(context.spaces()):
        times = space.settings.times
        runs = context.runs(space.settings.particles, space.settings.step, 2, number)
        from_flow, from_limit = flow_checks.noisy_descent(space.problem, runs, noise=SQRT2, times=times)
        for time, flow, limit in zip(times, from_flow, from_limit, strict=True):
            checks.append(_follows(f"particles_follow_flow__{space.name}_t{time:g}", flow))
            points.append(Point("from_flow", space.name, time, flow.distance, flow.floor))
            points.append(Point("from_limit", space.name, time, limit.distance, limit.floor))
    return Findings(checks, points)


def _euler(context: TheoryContext, space: Space, step: float, times: list[float], *stream: int) -> list[SampleDistance]:
    """Return the distances of noisy DTO from ρ*."""
    runs = context.runs(space.settings.limit_particles, step, *stream)
    return flow_checks.noisy_descent(space.problem, runs, noise=SQRT2, times=times)[1]


def _mala(context: TheoryContext, space: Space, step: float, times: list[float], *stream: int) -> list[SampleDistance]:
    """Return the distances of MALA from ρ*."""
    return flow_checks.mala(space.problem, context.runs(space.settings.limit_particles, step, *stream), times=times)


def long_run(context: TheoryContext) -> Findings:
    """Check that the distribution tends to ρ*; MALA and the flow tell a coarse step's bias from slow mixing."""
    checks, points = [], []
    for number, space in enumerate(context.spaces()):
        name, settings = space.name, space.settings
        end = settings.limit_time
        times = [end * share for share in (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)]
        series = {"MALA": _mala(context, space, settings.exact_step, times, 3, number)}
        if settings.limit_step:
            series["Euler"] = _euler(context, space, settings.limit_step, times, 4, number)
        for sampler, distances in series.items():
            checks.append(_follows(f"long_run_is_rho_star_{sampler}__{name}", distances[-1]))
            points += [
                Point("mixing", f"{name}: {sampler}", time, measured.distance, measured.floor)
                for time, measured in zip(times, distances, strict=True)
            ]
        (coarse,) = _euler(context, space, settings.coarse_step, [end], 5, number)
        checks.append(difference_detected(f"coarse_step_biases_Euler__{name}", coarse.distance, coarse.floor))
        # 1.5 times the time makes up for the proposals that MALA rejects at that step
        (exact,) = _mala(context, space, settings.coarse_step, [1.5 * end], 6, number)
        checks.append(_follows(f"coarse_step_does_not_bias_MALA__{name}", exact))
        runs = context.runs(settings.particles, settings.step, 7, number)
        slow_checks, flow_points = _slow_mixing(space, times, runs)
        checks, points = checks + slow_checks, points + flow_points
    return Findings(checks, points)


def _slow_mixing(space: Space, times: list[float], runs: particles.Runs) -> tuple[list[Check], list[Point]]:
    """Check that an exact sampler stopped early is as far from ρ* as the flow: slow, not wrong.

    Returns:
        The checks, and the flow's distance from ρ* at `times`.
    """
    problem = space.problem
    short = space.settings.times[-1]
    stops = sorted([short, *times])
    masses = fokker_planck.evolve(fokker_planck.flow(problem), problem.prior, stops)
    limit = problem.bin_masses(problem.optimum)
    distances = {
        time: particles.total_variation(limit, problem.bin_masses(density))
        for time, density in zip(stops, masses, strict=True)
    }
    (early,) = flow_checks.mala(problem, runs, times=[short])
    gap = abs(early.distance - distances[short])
    checks = [
        Check(f"early_MALA_is_as_far_from_rho_star_as_flow__{space.name}", gap, early.floor, early.floor),
        difference_detected(f"early_MALA_is_not_rho_star__{space.name}", early.distance, early.floor),
    ]
    return checks, [Point("mixing", f"{space.name}: flow", time, distances[time]) for time in times]


def without_noise(context: TheoryContext) -> Findings:
    """Check that DTO without noise ends in local minima of L, which is not ρ*.

    The text is left out: its minima lie in corners, where the walls hold the particles and ∇L is not 0.
    """
    settings = context.settings.without_noise
    checks, points = [], []
    for number, name in enumerate(("line", "plane")):
        runs = context.runs(settings.particles, settings.step, 8, number)
        rows, ends = flow_checks.without_noise(context.space(name).problem, runs, noise=0.0, time=settings.time)
        checks += [named(check, name) for check in rows]
        if name == "line":
            minima, counts = np.unique(ends[:, 0].round(3), return_counts=True)
            points += [Point("minima", name, x, share) for x, share in zip(minima, counts / len(ends), strict=True)]
    return Findings(checks, points + _densities(context.space("line")))


def _densities(space: Space) -> list[Point]:
    """Tabulate π, ρ* and the flow at the space's times, for the figure."""
    problem = space.problem
    times = space.settings.times
    evolved = fokker_planck.evolve(fokker_planck.flow(problem), problem.prior, times)
    densities = {"π": problem.prior, "ρ*": problem.optimum}
    densities |= {f"t = {time:g}": masses for time, masses in zip(times, evolved, strict=True)}
    every = slice(None, None, max(1, problem.cells // 100))
    return [
        Point("density", name, x, mass / problem.grid.widths[0])
        for name, masses in densities.items()
        for x, mass in zip(problem.grid.centres[every, 0], masses[every], strict=True)
    ]


def noise(context: TheoryContext) -> Findings:
    """Check that with KL weight β the noise must be √(2β); other amounts are detected."""
    settings = context.settings.noise
    line = context.space("line").problem
    checks, points = [], []

    def distance(number: int, beta: float, amount: float, count: int) -> SampleDistance:
        runs = context.runs(count, settings.step, 9, number)
        problem = replace(line, kl_weight=beta)
        return flow_checks.noisy_descent(problem, runs, noise=amount, times=[settings.time])[0][0]

    for number, beta in enumerate(settings.kl_weights):
        right = math.sqrt(2 * beta)
        followed = distance(number, beta, right, settings.particles)
        checks.append(_follows(f"noise_sqrt_2beta_is_right__beta{beta:g}", followed))
        wrong, tried = {"1": 1.0, "sqrt_2": SQRT2, "sqrt_beta": math.sqrt(beta), "2beta": 2 * beta}, [right]
        for name, amount in wrong.items():
            if not np.isclose(amount, tried, rtol=0.01).any():  # at β = 1, √β is 1 again
                tried.append(amount)
                other = distance(number, beta, amount, settings.particles)
                checks.append(difference_detected(f"noise_{name}_is_wrong__beta{beta:g}", other.distance, other.floor))
        for factor in settings.factors:
            scanned = distance(number, beta, factor * right, settings.scan_particles)
            points.append(Point("noise", f"β = {beta:g}", factor, scanned.distance, scanned.floor))
    return Findings(checks, points)


def convergence(context: TheoryContext) -> Findings:
    """Check that the time to reach ρ* grows with the distance between modes as predicted."""
    settings = context.settings.convergence
    escapes = [
        barrier_checks.escape(
            separation,
            scale=settings.scale,
            reward_weight=settings.reward_weight,
            cells=settings.cells,
            runs=context.runs(settings.particles, settings.step, 10, number),
            simulate=number < settings.simulated,
        )
        for number, separation in enumerate(settings.separations)
    ]
    points = []
    for row in escapes:
        times = {"gap_time": row.gap_time, "kramers_time": row.kramers_time}
        if not math.isnan(row.particle_time):
            times |= {"flow_time": row.flow_time, "particle_time": row.particle_time}
        for series, time in times.items():
            floor = row.deviation * time if series == "particle_time" else math.nan
            points.append(Point("convergence", series, row.barrier, time, floor))
    return Findings(barrier_checks.escape_checks(escapes), points)


def prop_c1(context: TheoryContext) -> Findings:
    """Check Prop. C.1 on every shipped policy and reward model, and on SmolLM2 where it is installed."""
    settings = context.settings.prop_c1
    checks, terms = [], []
    for policy, reward in (pair.split("/") for pair in settings.models):
        tasks = settings.tasks.smollm2 if policy == "smollm2" else settings.tasks.tiny
        rows, row_terms = gradient_checks.decompositions(
            policy, reward, tasks, count=settings.problems, seed=context.seed
        )
        checks, terms = checks + rows, terms + row_terms
    return Findings(checks, [], terms)


def eq25(context: TheoryContext) -> Findings:
    """Check Eq. 25, and locate the rows for which its gradient is large."""
    return Findings(*gradient_checks.equation_25(**context.settings.eq25.model_dump(), seed=context.seed))


def estimators(context: TheoryContext) -> Findings:
    """Measure bias and spread of the straight-through estimator and of Gumbel-softmax."""
    text, settings = context.settings.text, context.settings.estimators
    return Findings(*estimator_checks.estimators(text.question, text.prefix, settings, context.seed))


class Group(NamedTuple):
    """A function that makes checks, and its share of the run time, used only to estimate the time left."""

    make: Callable[[TheoryContext], Findings]
    weight: float


GROUPS = {
    "surrogate": Group(surrogate, 10),
    "argmin": Group(argmin, 4),
    "velocity": Group(velocity, 1),
    "jko": Group(jko, 1),
    "finite_times": Group(finite_times, 14),
    "long_run": Group(long_run, 70),
    "without_noise": Group(without_noise, 3),
    "noise": Group(noise, 20),
    "convergence": Group(convergence, 4),
    "prop_c1": Group(prop_c1, 11),
    "eq25": Group(eq25, 5),
    "estimators": Group(estimators, 5),
}
