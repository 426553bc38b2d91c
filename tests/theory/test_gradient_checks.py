"""Gradient checks on small random models, against finite differences, sampling and deliberately wrong versions."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
import toys

from nabla_reasoner.config.theorem_settings import EstimatorSettings
from nabla_reasoner.theory import estimator_checks, estimators, gradient_checks, gradient_terms
from nabla_reasoner.theory.check import describe

WEIGHTS = {"reward_weight": 0.7, "nll_weight": 0.3}
CHAT, ROLLOUT = toys.chat("What is 12 + 34?"), [20, 31, 25, 40]


@pytest.fixture(scope="module")
def toy_pairs():
    policy, reward = toys.policy(), toys.reward("classifier")
    return policy, reward, estimators.enumerate_pairs(policy, reward, CHAT, [9], candidates=4, **WEIGHTS)


@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
def test_three_terms_sum_to_gradient_two_do_not(kind):
    policy, reward = toys.policy(), toys.reward(kind)
    whole = gradient_terms.decomposition(policy, reward, CHAT, ROLLOUT, **WEIGHTS)
    assert max(whole[:2]) < 1e-6  # Hugging Face's own output matrix may run in float32
    assert max(whole.residual, whole.likelihood_residual, whole.reward_residual) < 1e-12
    assert whole.last_postfix == 0
    for dropped in gradient_terms.TERMS:
        others = [name for name in gradient_terms.TERMS if name != dropped]
        assert gradient_terms.decomposition(policy, reward, CHAT, ROLLOUT, summed=others, **WEIGHTS).residual > 1e-3
    assert (
        gradient_terms.decomposition(policy, reward, CHAT, ROLLOUT, claimed_reward_weight=0.71, **WEIGHTS).residual
        > 1e-4
    )


def test_logit_norms_match_equation_25():
    policy, reward = toys.policy(), toys.reward()
    norms = gradient_terms.decomposition(policy, reward, CHAT, ROLLOUT, **WEIGHTS).norms
    assert norms.shape == (4, 3, 2)
    assert norms[-1, gradient_terms.TERMS.index("postfix")].abs().max() == 0
    ids = torch.tensor([policy.prompt_ids(CHAT) + ROLLOUT])
    z = policy.model(input_ids=ids).logits[0, -5, : policy.vocab_size]
    p = torch.softmax(z, -1)
    direct = -0.3 * p.log()
    assert norms[0, 0, 0].item() == pytest.approx(direct.norm().item(), rel=1e-6)
    assert norms[0, 0, 1].item() == pytest.approx((p * (direct - p @ direct)).norm().item(), rel=1e-6)


def test_equation_25_needs_right_temperature():
    settings = {"temperature": 0.5, "rows": 2, "seed": 0}
    assert gradient_terms.logits_residual(50, jacobian_temperature=0.5, **settings) < 1e-14
    assert gradient_terms.logits_residual(50, jacobian_temperature=1.0, **settings) > 0.1


def test_sweep_ends_match_hand_computed_values():
    sweep = gradient_terms.entropy_sweep(1000, sharpness=[0.0, 1.0, 3.0, 10.0, 1000.0], prefix_term=True, seed=0)
    assert sweep.entropy[0].item() == pytest.approx(math.log(1000))
    assert sweep.norm[0].item() == pytest.approx(sweep.uniform, rel=1e-12)
    assert sweep.uniform == pytest.approx(1 / math.sqrt(1000), rel=0.1)
    assert sweep.norm[-1] < 1e-12
    assert 0 < sweep.norm.argmax() < 4
    assert sweep.share.max() <= 1


def test_true_gradient_matches_finite_differences_and_score_mean(toy_pairs):
    pairs = toy_pairs[2]
    gradient = estimators.true_gradient(pairs)
    for row, column in ((0, 0), (0, 2), (1, 1), (1, 3)):
        nudge = torch.zeros_like(pairs.logits)
        nudge[row, column] = 1e-6
        up, down = ((estimators.pair_probabilities(pairs.logits + s * nudge) * pairs.losses).sum() for s in (1, -1))
        assert gradient[row, column].item() == pytest.approx((up - down).item() / 2e-6, rel=1e-5, abs=1e-8)
    score = estimators.enumerated(estimators.score_estimates(pairs), estimators.pair_probabilities(pairs.logits))
    torch.testing.assert_close(score.mean, gradient, rtol=0, atol=1e-12)


def test_enumerated_estimates_match_autograd_through_models(toy_pairs):
    policy, reward, pairs = toy_pairs
    by_autograd, losses = estimators.autograd_estimates(policy, reward, pairs, **WEIGHTS)
    torch.testing.assert_close(pairs.losses, losses, rtol=0, atol=1e-12)
    torch.testing.assert_close(estimators.straight_through_estimates(pairs), by_autograd, rtol=0, atol=1e-12)
    assert not torch.allclose(estimators.straight_through_estimates(pairs, temperature=0.9), by_autograd, atol=1e-3)


def test_sampled_mean_and_variance_match_enumeration(toy_pairs):
    pairs = toy_pairs[2]
    estimates, probabilities = estimators.straight_through_estimates(pairs), estimators.pair_probabilities(pairs.logits)
    exact = estimators.enumerated(estimates, probabilities)
    generator = torch.Generator().manual_seed(0)
    sample = estimates.reshape(-1, 2, 4)[
        torch.multinomial(probabilities.ravel(), 40000, replacement=True, generator=generator)
    ]
    error = math.sqrt(exact.variance / 40000)
    assert (sample.mean(0) - exact.mean).norm().item() < 4 * error
    assert ((sample - sample.mean(0)) ** 2).sum((1, 2)).mean().item() == pytest.approx(exact.variance, rel=0.05)


def test_estimator_unbiased_for_linear_biased_for_quadratic_loss(toy_pairs):
    pairs = toy_pairs[2]
    rows = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, -1.0, 2.0]]).double()
    linear = pairs._replace(losses=rows[0][:, None] + rows[1][None], slopes=rows.expand(4, 4, 2, 4))
    mean = estimators.enumerated(
        estimators.straight_through_estimates(linear), estimators.pair_probabilities(pairs.logits)
    ).mean
    torch.testing.assert_close(mean, estimators.true_gradient(linear), rtol=0, atol=1e-14)
    # the square of a linear function: slope 2 s at the hard token, whose mean is not the slope of the mean
    squared = pairs._replace(losses=linear.losses**2, slopes=2 * linear.losses[..., None, None] * linear.slopes)
    mean = estimators.enumerated(
        estimators.straight_through_estimates(squared), estimators.pair_probabilities(pairs.logits)
    ).mean
    assert (mean - estimators.true_gradient(squared)).norm() > 0.01 * estimators.true_gradient(squared).norm()


def test_gumbel_samples_follow_softmax_variance_grows_when_sharp(toy_pairs):
    sharp, variation = estimators.gumbel_estimator(toy_pairs[2], temperature=0.1, samples=20000, seed=0)
    soft, _ = estimators.gumbel_estimator(toy_pairs[2], temperature=1.0, samples=20000, seed=0)
    assert variation < 0.02
    assert sharp.variance > 2 * soft.variance
    assert soft.error == pytest.approx(math.sqrt(soft.variance / 20000))


FAULTS = {
    "negated": torch.neg,
    "transposed": torch.t,
    "times 10": lambda losses: 10 * losses,
    "squared": torch.square,
    "rolled": lambda losses: losses.roll(1, 0),
    "random": lambda losses: torch.rand(losses.shape, dtype=losses.dtype, generator=torch.Generator().manual_seed(0)),
    "right": lambda losses: losses,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_losses_of_the_bias_are_checked_against_the_objective(fault, toy_pairs, monkeypatch):
    policy, reward, _ = toy_pairs
    enumerate_pairs = estimators.enumerate_pairs

    def faulty(*arguments, **settings):
        pairs = enumerate_pairs(*arguments, **settings)
        return pairs._replace(losses=FAULTS[fault](pairs.losses))

    monkeypatch.setattr(estimators, "enumerate_pairs", faulty)
    settings = EstimatorSettings(models=[0], candidates=3, temperatures=[1.0], samples=2000, reward_weight=0.7)
    checks, _ = estimator_checks.model_checks("toy", policy, reward, CHAT, "1", settings, 0)
    failed = [check.name for check in checks if not check.passed]
    assert failed == ([] if fault == "right" else ["ste_losses_are_the_objective__toy"])


@pytest.mark.parametrize("share", [0.6, 0.02, 0.002])
def test_tolerance_of_gumbel_draws_is_exact_quantile_where_two_pairs_hold_the_mass(share):
    count = 20000
    probabilities = torch.tensor([[share, 1 - share], [0.0, 0.0]]).double()
    variation = estimators.sampling_variation(probabilities, count, seed=0)
    draws = np.arange(count + 1)
    chances, distances = scipy.stats.binom.pmf(draws, count, share), np.abs(draws / count - share)
    assert variation.mean == pytest.approx(chances @ distances, rel=0.02)
    assert 2e-5 < chances[distances > variation.high].sum() < 3e-4
    assert chances[distances > 2 * variation.mean].sum() > 0.05, "twice the mean is too narrow for two pairs"
    wrong = scipy.stats.binom.pmf(draws, count, share + 12 * math.sqrt(share * (1 - share) / count))
    assert wrong[distances <= variation.high].sum() < 1e-3


@pytest.mark.slow
def test_shipped_models_pass_proposition_c1_faults_fail():
    settings = {"count": 1, "seed": 0}
    right, rows = gradient_checks.decompositions("tiny-base", "likelihood", ["products"], **settings)
    assert [check.passed for check in right] == [True] * 3
    assert {row.space for row in rows} == {"y", "z"}
    assert all(row.prefix_share + row.postfix_share + row.reward_share == pytest.approx(1) for row in rows)
    dropped, _ = gradient_checks.decompositions(
        "tiny-base", "likelihood", ["products"], summed=("prefix", "reward"), **settings
    )
    assert not dropped[0].passed
    wrong, _ = gradient_checks.decompositions(
        "tiny-base", "likelihood", ["products"], claimed_reward_weight=1.01, **settings
    )
    assert not wrong[0].passed
    assert not wrong[1].passed


@pytest.mark.slow
def test_missing_models_are_skipped_with_reason(monkeypatch):
    monkeypatch.setattr(gradient_checks, "missing", lambda cell: "no weights")
    checks, rows = gradient_checks.decompositions("smollm2", "smollm2", ["products"], count=1, seed=0)
    assert [check.skipped for check in checks] == ["no weights"] * 3
    assert not any(check.passed for check in checks)
    assert rows == []
    assert describe(checks[0]).startswith("skipped")
