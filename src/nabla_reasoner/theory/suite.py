"""The groups of checks that `./reproduce.sh theorem` makes: from settings to rows."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from . import barrier_checks, flow_checks, fokker_planck, gradient_checks, landscapes, particles
from .check import Check, Point, seen
from .context import Findings, TheoryContext, common, named
from .landscapes import Landscape


def surrogate(lab: TheoryContext) -> Findings:
    """The polynomial of the relaxed text against the models, at draws from π: 0.05 nats, and 5 % of the steepest slope.

    Everything else about the text is about the polynomial; this ties it to the models.
    """
    landscape, random = lab.spaces["text"](), np.random.default_rng(lab.stream(1))
    points = particles.sample_prior(landscape, 40, random)
    value, slope = lab.relaxed_text.surrogate_error(landscape, points, lab.settings["text"]["reward_weight"])
    checks = [Check("text_polynomial_value_nats", value, 0.05), Check("text_polynomial_slope", slope, 0.05)]
    return Findings(checks, _text_map(lab))


def _text_map(lab: TheoryContext) -> list[Point]:
    """L over the text's square for the figure, from 0 at its lowest; a series for each place of the second token."""
    axis = np.linspace(0, 1, 25)
    points = np.stack([one.ravel() for one in np.meshgrid(axis, axis, indexing="ij")], -1)
    values, _ = lab.spaces["text"]().loss(lab.settings["text"]["reward_weight"], 1.0)(points)
    above = zip(points, values - values.min(), strict=True)
    return [Point("text", f"{second:.3f}", first, value) for (first, second), value in above]


def argmin(lab: TheoryContext) -> Findings:
    """(a) The closed form ρ* is the minimiser of L_PPO."""
    return Findings(
        [
            named(
                flow_checks.minimiser(
                    landscape,
                    reward_weight=own["reward_weight"],
                    kl_weight=1.0,
                    cells=own["argmin_cells"],
                    claimed=own["reward_weight"],
                ),
                name,
            )
            for name, landscape, own in lab.each()
        ]
    )


def velocity(lab: TheoryContext) -> Findings:
    """(f) The flow's velocity is DTO's drift less ∇log ρ."""
    return Findings(
        [
            named(
                flow_checks.velocity(
                    landscape,
                    reward_weight=own["reward_weight"],
                    kl_weight=1.0,
                    cells=own["cells"],
                    width=own["probe_width"],
                    entropy_weight=1.0,
                ),
                name,
            )
            for name, landscape, own in lab.each()
        ]
    )


def jko(lab: TheoryContext) -> Findings:
    """(b) JKO steps on L_PPO, the flow's definition, give the Fokker-Planck equation's solution."""
    own = lab.settings["line"]
    weights = {"reward_weight": own["reward_weight"], "kl_weight": 1.0, "jko_kl_weight": 1.0}
    check = flow_checks.jko(lab.spaces["line"](), cells=own["cells"], **weights, **lab.settings["jko"])
    return Findings([named(check, "line")])


def finite_times(lab: TheoryContext) -> Findings:
    """(b) Noisy DTO from π has the law of the flow at several times; ρ* is still far away then."""
    checks, points = [], []
    for number, (name, landscape, own) in enumerate(lab.each()):
        found, from_limit, _ = flow_checks.laws(
            landscape,
            noise=math.sqrt(2),
            count=own["particles"],
            step=own["step"],
            times=own["times"],
            particle_reward_weight=own["reward_weight"],
            seed=lab.stream(2, number),
            **common(lab, own),
        )
        for time, flow, limit in zip(own["times"], found, from_limit, strict=True):
            checks.append(Check(f"particles_follow_flow__{name}_t{time:g}", flow.distance, flow.floor, flow.floor))
            points.append(Point("from_flow", name, time, flow.distance, flow.floor))
            points.append(Point("from_limit", name, time, limit.distance, limit.floor))
    return Findings(checks, points)


def long_run(lab: TheoryContext) -> Findings:
    """(c) The law in the long run is ρ*; a coarse step's bias and slow mixing are told apart by MALA and the flow."""
    checks, points = [], []
    for number, (name, landscape, own) in enumerate(lab.each()):
        shared, end, count = common(lab, own), own["limit_time"], own["limit_particles"]
        times = [end * share for share in (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)]
        euler = partial(
            flow_checks.laws,
            landscape,
            noise=math.sqrt(2),
            count=count,
            particle_reward_weight=own["reward_weight"],
            **shared,
        )
        mala = partial(flow_checks.exact_sampler, landscape, count=count, **shared)
        found = {"MALA": mala(step=own["exact_step"], times=times, seed=lab.stream(3, number))[0]}
        if own["limit_step"]:
            found["Euler"] = euler(step=own["limit_step"], times=times, seed=lab.stream(4, number))[1]
        for sampler, series in found.items():
            last = series[-1]
            checks.append(Check(f"long_run_is_rho_star_{sampler}__{name}", last.distance, last.floor, last.floor))
            points += [
                Point("mixing", f"{name}: {sampler}", t, one.distance, one.floor)
                for t, one in zip(times, series, strict=True)
            ]
        coarse = euler(step=own["coarse_step"], times=[end], seed=lab.stream(5, number))[1][-1]
        checks.append(seen(f"coarse_step_biases_Euler__{name}", coarse.distance, coarse.floor))
        # MALA at that same step, given half as much time again for what it refuses
        fair = mala(step=own["coarse_step"], times=[1.5 * end], seed=lab.stream(6, number))[0][-1]
        checks.append(Check(f"coarse_step_does_not_bias_MALA__{name}", fair.distance, fair.floor, fair.floor))
        checks += _slow_mixing(lab, name, landscape, own, points, times, seed=lab.stream(7, number))
    return Findings(checks, points)


def _slow_mixing(
    lab: TheoryContext, name: str, landscape: Landscape, own: dict, points: list[Point], times: list[float], seed: list
) -> list[Check]:
    """An exact sampler stopped early is as far from ρ* as the flow says: slow, not wrong."""
    table = landscapes.tabulate(landscape, own["cells"])
    weights = {"reward_weight": own["reward_weight"], "kl_weight": 1.0}
    limit = fokker_planck.closed_form(landscape, table, **weights)
    prior = landscapes.normalised(landscape.log_prior(table.centres))
    stops = [own["times"][-1], *times]
    order = sorted(range(len(stops)), key=lambda i: stops[i])
    masses = fokker_planck.evolve(fokker_planck.flow(landscape, table, **weights), prior, [stops[i] for i in order])
    bins = [particles.coarse(law, table, own["bins"]) for law in (limit, *masses)]
    distances = {stops[i]: particles.total_variation(bins[0], law) for i, law in zip(order, bins[1:], strict=True)}
    points += [Point("mixing", f"{name}: flow", t, distances[t]) for t in times]
    short = own["times"][-1]
    early, _ = flow_checks.exact_sampler(
        landscape, count=own["particles"], step=own["step"], times=[short], seed=seed, **common(lab, own)
    )
    gap = abs(early[0].distance - distances[short])
    return [
        Check(f"early_MALA_is_as_far_from_rho_star_as_flow__{name}", gap, early[0].floor, early[0].floor),
        seen(f"early_MALA_is_not_rho_star__{name}", early[0].distance, early[0].floor),
    ]


def without_noise(lab: TheoryContext) -> Findings:
    """(d) DTO without noise ends in local minima of L, which is not ρ*."""
    checks, points = [], []
    own_settings = lab.settings["without_noise"]
    for number, (name, landscape, own) in enumerate(lab.each()):
        if name == "text":  # its minima lie in corners, where the walls hold the particles and ∇L is not 0
            continue
        found, ends = flow_checks.without_noise(
            landscape,
            noise=0.0,
            count=own_settings["particles"],
            step=own_settings["step"],
            time=own_settings["time"],
            seed=lab.stream(8, number),
            **common(lab, own),
        )
        checks += [named(check, name) for check in found]
        if name == "line":
            places, counts = np.unique(ends[:, 0].round(3), return_counts=True)
            points += [Point("minima", name, x, share) for x, share in zip(places, counts / len(ends), strict=True)]
    return Findings(checks, points + _densities(lab))


def _densities(lab: TheoryContext) -> list[Point]:
    """π, ρ* and the flow at its times on the line, for the figure."""
    landscape, own = lab.spaces["line"](), lab.settings["line"]
    table = landscapes.tabulate(landscape, own["cells"])
    weights = {"reward_weight": own["reward_weight"], "kl_weight": 1.0}
    prior = landscapes.normalised(landscape.log_prior(table.centres))
    laws = {"π": prior, "ρ*": fokker_planck.closed_form(landscape, table, **weights)}
    passed = fokker_planck.evolve(fokker_planck.flow(landscape, table, **weights), prior, own["times"])
    laws |= {f"t = {time:g}": law for time, law in zip(own["times"], passed, strict=True)}
    every = slice(None, None, max(1, own["cells"] // 100))
    return [
        Point("density", name, x, mass / table.widths[0])
        for name, law in laws.items()
        for x, mass in zip(table.centres[every, 0], law[every], strict=True)
    ]


def noise(lab: TheoryContext) -> Findings:
    """(e) With KL weight β the noise must be √(2β): others are told apart."""
    own, settings, landscape = lab.settings["line"], lab.settings["noise"], lab.spaces["line"]()
    checks, points = [], []
    for number, beta in enumerate(settings["kl_weights"]):
        right = math.sqrt(2 * beta)

        def law(amount: float, count: int, number: int = number, beta: float = beta) -> flow_checks.Apart:
            shared = common(lab, own) | {"kl_weight": beta}
            found, _, _ = flow_checks.laws(
                landscape,
                noise=amount,
                count=count,
                step=settings["step"],
                times=[settings["time"]],
                particle_reward_weight=own["reward_weight"],
                seed=lab.stream(9, number),
                **shared,
            )
            return found[0]

        found = law(right, settings["particles"])
        checks.append(Check(f"noise_sqrt_2beta_is_right__beta{beta:g}", found.distance, found.floor, found.floor))
        wrong = {"1": 1.0, "sqrt_2": math.sqrt(2), "sqrt_beta": math.sqrt(beta), "2beta": 2 * beta}
        for name, amount in wrong.items():
            if abs(amount / right - 1) > 0.01:
                other = law(amount, settings["particles"])
                checks.append(seen(f"noise_{name}_is_wrong__beta{beta:g}", other.distance, other.floor))
        for factor in settings["factors"]:
            found = law(factor * right, settings["scan_particles"])
            points.append(Point("noise", f"β = {beta:g}", factor, found.distance, found.floor))
    return Findings(checks, points)


def convergence(lab: TheoryContext) -> Findings:
    """(g) How the time to reach ρ* grows with the distance between modes."""
    own = lab.settings["convergence"]
    found = [
        barrier_checks.escape(
            separation,
            scale=own["scale"],
            reward_weight=own["reward_weight"],
            cells=own["cells"],
            count=own["particles"],
            step=own["step"],
            simulate=number < own["simulated"],
            seed=lab.stream(10, number),
            threads=lab.threads,
        )
        for number, separation in enumerate(own["separations"])
    ]
    points = []
    for one, deviation in found:
        for series in ("gap_time", "kramers_time", "flow_time", "particle_time"):
            value = one._asdict()[series]
            if not math.isnan(value):
                floor = deviation * value if series == "particle_time" else math.nan
                points.append(Point("convergence", series, one.barrier, value, floor))
    return Findings(barrier_checks.escapes(found), points)


def prop_c1(lab: TheoryContext) -> Findings:
    """Prop. C.1 on every shipped policy and reward, and on SmolLM2 where it is installed."""
    own, checks, terms = lab.settings["prop_c1"], [], []
    for policy, reward in (pair.split("/") for pair in own["models"]):
        tasks = own["tasks"]["smollm2" if policy == "smollm2" else "tiny"]
        found, rows = gradient_checks.decompositions(policy, reward, tasks, count=own["problems"], seed=lab.seed)
        checks, terms = checks + found, terms + rows
    return Findings(checks, [], terms)


def eq25(lab: TheoryContext) -> Findings:
    """Eq. 25 and where a row's gradient is large."""
    return Findings(*gradient_checks.equation_25(**lab.settings["eq25"], seed=lab.seed))


def estimators(lab: TheoryContext) -> Findings:
    """Bias and spread of the straight-through estimator and of Gumbel-softmax."""
    text = lab.settings["text"]
    places = {"question": text["question"], "prefix": text["prefix"]}
    return Findings(*gradient_checks.estimators(**places, **lab.settings["estimators"], seed=lab.seed))


class Group(NamedTuple):
    """A function of the laboratory, and its share of the time, for the time left only."""

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
