"""Landscapes, the flow of L_PPO and particles, against distributions known in closed form."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import toys

from nabla_reasoner.config.compose import compose_settings
from nabla_reasoner.config.targets import find
from nabla_reasoner.dto import gradient_passes
from nabla_reasoner.theory import barrier_checks, flow_checks, fokker_planck, landscapes, particles, relaxed_text, suite
from nabla_reasoner.theory.context import TheoryContext
from nabla_reasoner.theory.landscapes import FlowProblem, Landscape
from nabla_reasoner.theory.particles import Runs

LINE = landscapes.mixture(
    weights=[0.6, 0.4], means=[[-1.0], [1.1]], scale=0.5, heights=[1.0], centres=[[1.1]], width=0.6, reach=4.4
)
PLANE = landscapes.mixture(
    weights=[0.6, 0.4],
    means=[[-0.8, 0.3], [0.9, -0.2]],
    scale=0.6,
    heights=[1.0, -0.5],
    centres=[[0.9, -0.2], [0.0, 0.0]],
    width=0.7,
    reach=4.0,
)
PROBLEM = FlowProblem(LINE, reward_weight=1.5, kl_weight=1.0, cells=200, bins=20)
RUNS = Runs(count=20000, step=0.004, seed=[0])
DESCENT = {"noise": math.sqrt(2), "times": [0.3]}


def gaussian(scale: float = 1.0) -> Landscape:
    """Build a normal π without reward; the flow is an Ornstein-Uhlenbeck process, which keeps densities normal."""
    return landscapes.mixture(
        weights=[1.0], means=[[0.0]], scale=scale, heights=[0.0], centres=[[0.0]], width=1.0, reach=7.0
    )


def gaussian_problem(cells: int = 100, *, scale: float = 1.0, kl_weight: float = 1.0) -> FlowProblem:
    return FlowProblem(gaussian(scale), reward_weight=0.0, kl_weight=kl_weight, cells=cells)


def normal_masses(grid: landscapes.Grid, mean: float, variance: float) -> np.ndarray:
    return landscapes.normalised(-0.5 * (grid.centres[:, 0] - mean) ** 2 / variance)


@pytest.mark.parametrize(("landscape", "dimension"), [(LINE, 1), (PLANE, 2)])
def test_slopes_are_derivatives_of_values(landscape, dimension):
    points, loss = np.random.default_rng(0).uniform(-2, 2, (20, dimension)), landscape.loss(1.5, 0.7)
    _, slope = loss(points)
    for axis in range(dimension):
        nudge = 1e-6 * np.eye(dimension)[axis]
        np.testing.assert_allclose(
            slope[:, axis], (loss(points + nudge)[0] - loss(points - nudge)[0]) / 2e-6, rtol=1e-6, atol=1e-8
        )


def test_loss_equals_equation_2_term_by_term():
    points = np.array([[-1.0], [0.3]])
    density = np.exp(-((points + 1) ** 2) / 0.5) * 0.6 + np.exp(-((points - 1.1) ** 2) / 0.5) * 0.4
    reward = np.exp(-((points - 1.1) ** 2) / 0.72)
    np.testing.assert_allclose(LINE.loss(1.5, 0.7)(points)[0], (-1.5 * reward - 0.7 * np.log(density))[:, 0])
    np.testing.assert_allclose(LINE.reward(points), reward[:, 0])


def test_chebyshev_polynomial_matches_function_and_slope():
    def function(first, second):
        return np.sin(2 * first) * second**2 + first * second

    axes = [relaxed_text.chebyshev_nodes(count) for count in (14, 5)]
    field = relaxed_text.polynomial(relaxed_text.fitted(function(axes[0][:, None], axes[1][None, :])))
    points = np.random.default_rng(0).random((30, 2))
    value, slope = field(points)
    first, second = points.T
    np.testing.assert_allclose(value, function(first, second), atol=1e-9)
    np.testing.assert_allclose(slope[:, 0], 2 * np.cos(2 * first) * second**2 + second, atol=1e-8)
    np.testing.assert_allclose(slope[:, 1], 2 * np.sin(2 * first) * second + first, atol=1e-8)


@pytest.mark.slow
def test_relaxed_text_matches_objective_and_rejects_bad_tokens():
    policy, reward = toys.policy("llama"), toys.reward("classifier", "qwen2")
    text = relaxed_text.RelaxedText(
        policy, reward, toys.chat("Add"), prefix="1", text="2;3", positions=[0, 2], others=["4", "5"]
    )
    ids = [policy.tokenizer.encode(part, add_special_tokens=False) for part in ("4;5", "1")]
    replaced = text.sequence._replace(rollout=ids[0], prefix=ids[1])
    (hard,) = gradient_passes.evaluate(policy, reward, [replaced], reward_weight=0.5, nll_weight=1.0)
    corner = text.loss(torch.ones(2, dtype=torch.float64), reward_weight=0.5, nll_weight=1.0)
    assert corner.item() == pytest.approx(hard.loss, abs=1e-9)
    points = np.random.default_rng(0).random((5, 2))
    rough, fine = (text.surrogate_error(text.landscape([count, count]), points, 0.5) for count in (3, 12))
    assert fine[0] < rough[0] / 3
    assert fine[1] < rough[1] / 3
    with pytest.raises(ValueError, match="two positions below 3"):
        relaxed_text.RelaxedText(
            policy, reward, toys.chat("a"), prefix="", text="2;3", positions=[0, 3], others=["4", "5"]
        )
    with pytest.raises(ValueError, match="one token"):
        relaxed_text.RelaxedText(
            policy, reward, toys.chat("a"), prefix="", text="2;3", positions=[0, 2], others=["45", "5"]
        )


def test_ppo_objective_matches_hand_computed_value():
    value = fokker_planck.ppo_objective(
        torch.tensor([0.25, 0.75]),
        torch.tensor([0.5, 0.5]).log(),
        torch.tensor([2.0, 4.0]),
        reward_weight=3.0,
        kl_weight=0.5,
    )
    divergence = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert value.item() == pytest.approx(-3 * 3.5 + 0.5 * divergence, rel=1e-6)


@pytest.mark.parametrize("landscape", [LINE, PLANE])
def test_generator_conserves_mass_and_keeps_rho_star(landscape):
    problem = FlowProblem(landscape, reward_weight=1.5, kl_weight=0.7, cells=40)
    rates = fokker_planck.flow(problem)
    assert np.abs(rates.sum(0)).max() < 1e-9
    assert (rates - np.diag(rates.diagonal())).min() >= 0
    assert np.abs(rates @ problem.optimum).max() < 1e-12


@pytest.mark.slow
def test_flow_jko_and_particles_follow_ornstein_uhlenbeck_process():
    beta, time = 1.7, 0.4
    problem = gaussian_problem(400, scale=0.8, kl_weight=beta)
    grid = problem.grid
    rate = beta / 0.64  # drift -β x / 0.64, noise √(2β): stationary variance 0.64
    mean, variance = 1.5 * math.exp(-rate * time), 0.64 + (0.3 - 0.64) * math.exp(-2 * rate * time)
    (evolved,) = fokker_planck.evolve(fokker_planck.flow(problem), normal_masses(grid, 1.5, 0.3), [time])
    assert particles.total_variation(evolved, normal_masses(grid, mean, variance)) < 2e-3
    levels = (np.arange(600) + 0.5) / 600
    start, expected = (
        fokker_planck.quantiles(normal_masses(grid, *moments), grid, levels)
        for moments in ((1.5, 0.3), (mean, variance))
    )
    stepped = fokker_planck.jko(problem, start, step=time / 80, count=80)
    assert np.sqrt(np.mean((stepped - expected) ** 2)) < 0.01 < np.sqrt(np.mean((start - expected) ** 2))
    random = np.random.default_rng(0)
    points = random.normal(1.5, math.sqrt(0.3), (40000, 1))
    (moved,) = particles.noisy_descent(problem, points, random, noise=math.sqrt(2 * beta), step=0.002, times=[time])
    assert moved.mean() == pytest.approx(mean, abs=5 * math.sqrt(variance / 40000) + 0.002)
    assert moved.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / 40000) + 0.005)


def test_euler_has_predicted_bias_and_metropolis_none():
    problem, step, random = gaussian_problem(), 0.5, np.random.default_rng(0)
    start = random.normal(0, 1, (40000, 1))
    (euler,) = particles.noisy_descent(problem, start, random, noise=math.sqrt(2), step=step, times=[30.0])
    assert euler.var() == pytest.approx(1 / (1 - step / 2), rel=0.04)  # x' = (1 - dt) x + √(2 dt) ξ
    (exact,), accepted = particles.metropolis(problem, start, random, step=step, times=[30.0])
    assert exact.var() == pytest.approx(1.0, rel=0.04)
    assert 0.5 < accepted < 0.99


def test_single_well_relaxation_time_is_variance_over_beta():
    problem = gaussian_problem(600, scale=1.3, kl_weight=2.0)
    assert fokker_planck.relaxation_time(problem) == pytest.approx(1.69 / 2, rel=1e-3)
    with pytest.raises(ValueError, match="two wells"):
        fokker_planck.barrier_times(gaussian_problem(100))


def test_walls_reflect_particles():
    square = Landscape(LINE.loss, (0.0, 0.0), (1.0, 1.0), walls=True)
    folded = particles.reflect(np.array([[1.2, -0.3], [2.1, 0.5], [-1.4, 0.0]]), square)
    np.testing.assert_allclose(folded, [[0.8, 0.3], [0.1, 0.5], [0.6, 0.0]], atol=1e-12)
    np.testing.assert_array_equal(particles.reflect(np.array([[1.2]]), LINE), [[1.2]])


def test_prior_samples_match_binned_masses():
    problem = FlowProblem(PLANE, reward_weight=1.5, kl_weight=1.0, cells=40, bins=8)
    prior = problem.bin_masses(problem.prior)
    samples = particles.sample_prior(PLANE, 40000, np.random.default_rng(0))
    assert particles.total_variation(problem.bin_points(samples), prior) < 0.02
    assert prior.sum() == pytest.approx(1)


@pytest.mark.slow
def test_closed_form_with_wrong_lambda_is_not_minimiser(monkeypatch):
    minimise = fokker_planck.minimiser
    for landscape, cells in ((LINE, 100), (PLANE, 16)):
        problem = FlowProblem(landscape, reward_weight=1.5, kl_weight=1.0, cells=cells)
        # once for both claims, which do not change the problem; 600 steps are ten times closer than the check needs
        known = {problem: minimise(problem, steps=600)}
        monkeypatch.setattr(fokker_planck, "minimiser", known.__getitem__)
        right, wrong = (flow_checks.minimiser(problem, claimed_reward_weight=weight) for weight in (1.5, 1.52))
        assert right.passed
        assert not wrong.passed


def test_velocity_needs_gradient_of_log_density():
    for landscape, cells in ((LINE, 200), (PLANE, 40)):
        problem = FlowProblem(landscape, reward_weight=1.5, kl_weight=1.0, cells=cells)
        right, wrong = (flow_checks.velocity(problem, width=1.0, entropy_weight=weight) for weight in (1.0, 0.0))
        assert right.passed
        assert not wrong.passed


def with_scaled_slopes(problem: FlowProblem, factor: float) -> FlowProblem:
    """Return the problem with another ∇L, as particles and DTO see it; values, and so the functional, stay."""

    def loss(*weights):
        field = problem.landscape.loss(*weights)

        def scaled(points):
            value, slope = field(points)
            return value, factor * slope

        return scaled

    return replace(problem, landscape=problem.landscape._replace(loss=loss))


@pytest.mark.slow
def test_velocity_on_shipped_spaces_notices_small_faults():
    # a coarser polynomial for the text: both velocities are its own, however far it is from the models
    context = TheoryContext(compose_settings(find("theorem"), ["text.nodes=[30,15]"]))
    for space in context.spaces():

        def passed(entropy_weight=1.0, slopes=1.0, space=space):
            problem = with_scaled_slopes(space.problem, slopes)
            return flow_checks.velocity(problem, width=space.settings.probe_width, entropy_weight=entropy_weight).passed

        assert passed(), space.name
        assert not any(passed(entropy_weight=weight) for weight in (0.9, 1.1, 0.0, -1.0)), space.name
        assert not any(passed(slopes=factor) for factor in (1.1, 1.3, 0.7, 0.0, -1.0)), space.name


@pytest.mark.slow
def test_no_amount_of_noise_is_tried_twice_as_wrong():
    settings = compose_settings(
        find("theorem"),
        ["noise.particles=50", "noise.scan_particles=50", "noise.factors=[1.0]", "noise.time=0.02", "threads=1"],
    )
    names = [check.name for check in suite.noise(TheoryContext(settings)).checks if "is_wrong" in check.name]
    assert names == [
        *(f"noise_{name}_is_wrong__beta0.5_seen" for name in ("sqrt_2", "sqrt_beta")),
        *(f"noise_{name}_is_wrong__beta1_seen" for name in ("1", "2beta")),
        *(f"noise_{name}_is_wrong__beta1.5_seen" for name in ("1", "sqrt_2", "sqrt_beta", "2beta")),
    ]


@pytest.mark.slow
def test_jko_steps_of_another_functional_fail():
    problem, settings = replace(PROBLEM, cells=400), {"nodes": 800, "steps": 100, "time": 0.5}
    assert flow_checks.jko(problem, jko_kl_weight=1.0, **settings).passed
    assert not flow_checks.jko(problem, jko_kl_weight=1.1, **settings).passed


@functools.cache
def right_descent() -> flow_checks.SampleDistance:
    """Return the distance of particles without a fault from the flow."""
    return flow_checks.noisy_descent(PROBLEM, RUNS, **DESCENT)[0][0]


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{"noise": 1.0}, {"noise": 2.0}, {"particle_reward_weight": 3.0}])
def test_particles_with_wrong_noise_or_lambda_leave_flow(fault):
    right = right_descent()
    (wrong,), _ = flow_checks.noisy_descent(PROBLEM, RUNS, **DESCENT | fault)
    assert right.distance <= right.floor
    assert wrong.distance > 2 * wrong.floor


def test_noise_floor_is_twice_distance_of_pooled_runs():
    masses = PROBLEM.bin_masses(PROBLEM.prior)
    measured = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        runs = tuple(particles.sample_prior(LINE, 2000, random) for _ in range(2))
        measured.append(flow_checks.sample_distance(runs, PROBLEM, masses))
    ratios = np.array([row.distance / row.floor for row in measured])
    floors = [row.floor for row in measured]
    assert ratios.mean() == pytest.approx(0.5, abs=0.06)
    assert ratios.max() < 1, "a right distribution must hardly ever fail"
    assert np.std(floors) < 0.05 * np.mean(floors)


def test_results_do_not_depend_on_threads():
    first, second = (
        flow_checks.noisy_descent(PROBLEM, RUNS._replace(count=500, threads=threads), **DESCENT) for threads in (1, 2)
    )
    assert first == second


@pytest.mark.slow
def test_checks_without_noise_tell_minima_from_rho_star():
    runs = Runs(count=4000, step=0.1, seed=[0])
    checks, _ = flow_checks.without_noise(PROBLEM, runs, noise=0.0, time=20.0)
    assert [check.passed for check in checks] == [True] * 3
    noisy, _ = flow_checks.without_noise(PROBLEM, runs._replace(step=0.02), noise=math.sqrt(2), time=20.0)
    assert not any(check.passed for check in noisy if check.name != "without_noise_minima_have_pi_basin_mass")


def test_escape_times_agree_and_wrong_exponent_fails():
    settings = {"scale": 0.5, "reward_weight": 0.5, "cells": 300, "runs": Runs(count=1000, step=0.02, seed=[0])}
    separations = [2.0, 2.5, 3.0, 3.5, 4.0, 4.25, 4.5]
    escapes = [barrier_checks.escape(s, simulate=s == 2.0, **settings) for s in separations]
    checks = {check.name: check for check in barrier_checks.escape_checks(escapes)}
    assert len(checks) == 4
    assert all(check.passed for check in checks.values())
    wrong = [row._replace(gap_time=row.gap_time**1.05) for row in escapes]
    failed = [check.name for check in barrier_checks.escape_checks(wrong) if not check.passed]
    assert "convergence_time_grows_as_exp_of_barrier" in failed
    for factor in (0.5, 1.4, 2.0, 2 * math.pi):  # a level that the growth with the barrier does not show
        scaled = [row._replace(kramers_time=factor * row.kramers_time) for row in escapes]
        failed = [check.name for check in barrier_checks.escape_checks(scaled) if not check.passed]
        assert failed == ["convergence_time_is_1_to_1.5_kramers_times"]
    late = [row._replace(particle_time=1.5 * row.particle_time) for row in escapes]
    assert not barrier_checks.escape_checks(late)[0].passed
