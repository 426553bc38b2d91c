"""Exact distributions against optimisers, all tuples of samples, the package's own passes, and autograd."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import torch
from letter_models import models
from torch.nn import functional

from nabla_reasoner.dto import objective
from nabla_reasoner.engine import scoring
from nabla_reasoner.ppo import exact_distributions as exact
from nabla_reasoner.ppo import letter_task


def random_prompt(size: int = 9, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random log π and r; two answers share a reward."""
    generator = torch.Generator().manual_seed(seed)
    prior = torch.log_softmax(torch.randn(size, dtype=torch.float64, generator=generator), -1)
    rewards = torch.randn(size, dtype=torch.float64, generator=generator)
    rewards[3] = rewards[0]
    return prior, rewards


def objective_value(distribution: torch.Tensor, prior: torch.Tensor, rewards: torch.Tensor, weight: float) -> float:
    """Return L_PPO of Eq. 3."""
    return exact.divergence(distribution, prior) - weight * exact.expected(distribution, rewards)


@pytest.mark.parametrize("weight", [0.3, 2.0])
def test_optimum_matches_numerical_optimiser(weight):
    prior, rewards = random_prompt()

    def loss(parameters: np.ndarray) -> float:  # Eq. 3 on the simplex, parametrised by a softmax
        distribution = np.exp(parameters) / np.exp(parameters).sum()
        return float((distribution * (np.log(distribution) - prior.numpy() - weight * rewards.numpy())).sum())

    result = scipy.optimize.minimize(loss, np.zeros(9), method="BFGS", options={"gtol": 1e-9})
    distribution = torch.log_softmax(torch.tensor(result.x), -1)
    assert exact.total_variation(distribution, exact.optimum(prior, rewards, weight)) < 1e-5
    assert exact.total_variation(distribution, exact.optimum(prior, rewards, weight + 0.2)) > 0.01
    assert result.fun == pytest.approx(objective_value(distribution, prior, rewards, weight))


def test_objective_gap_is_divergence_from_optimum():
    prior, rewards = random_prompt()
    distribution, _ = random_prompt(seed=1)
    star = exact.optimum(prior, rewards, 1.5)
    gap = objective_value(distribution, prior, rewards, 1.5) - objective_value(star, prior, rewards, 1.5)
    assert gap == pytest.approx(exact.divergence(distribution, star))
    assert gap > 0.1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_best_of_n_matches_all_tuples_of_samples(count):
    prior, rewards = random_prompt(size=6)
    expected = torch.zeros(6, dtype=torch.float64)
    for samples in itertools.product(range(6), repeat=count):
        best = max(samples, key=lambda i: rewards[i].item())  # the first of equals
        expected[best] += prior[list(samples)].sum().exp()
    torch.testing.assert_close(exact.best_of_n(prior, rewards, count).exp(), expected)


def test_best_of_n_respects_bound_rejects_zero_count():
    prior, rewards = random_prompt(size=200)
    for count in (1, 2, 8, 64):
        distribution = exact.best_of_n(prior, rewards, count)
        assert distribution.exp().sum().item() == pytest.approx(1)
        assert exact.divergence(distribution, prior) <= exact.best_of_n_bound(count) + 1e-12
    assert exact.best_of_n_bound(4) == pytest.approx(math.log(4) - 0.75)
    with pytest.raises(ValueError, match=r"count \(N\) must be >= 1; got 0"):
        exact.best_of_n(prior, rewards, 0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_weighted_choice_matches_all_tuples_of_samples(count):
    prior, rewards = random_prompt(size=5)
    expected = torch.zeros(5, dtype=torch.float64)
    for samples in itertools.product(range(5), repeat=count):
        shares = torch.softmax(1.5 * rewards[list(samples)], -1)
        for index, share in zip(samples, shares, strict=True):
            expected[index] += prior[list(samples)].sum().exp() * share
    generator = torch.Generator().manual_seed(0)
    distribution = exact.weighted_choice(prior, rewards, 1.5, count, draws=20_000, generator=generator)
    assert exact.total_variation(distribution, expected.log()) < 0.005  # 1/sqrt(20,000) is 0.007


def test_every_answer_is_listed_once_in_order():
    answers = exact.every_answer(3, 2)
    assert answers.tolist() == [list(digits) for digits in itertools.product(range(3), repeat=2)]


def test_scored_prompt_matches_models_own_passes():
    policy, reward = models()
    scored = exact.score_prompt(policy, reward, [{"role": "user", "content": "abca"}], 3)
    assert scored.prior.exp().sum().item() == pytest.approx(1, abs=1e-12)
    for number in (0, 37, 124):
        answer = scored.answers[number].tolist()
        ids = torch.tensor([policy.prompt_ids(scored.prompt) + answer])
        logits = policy.model(input_ids=ids).logits[0, -4:-1, : letter_task.END]
        nats = -functional.cross_entropy(logits, ids[0, -3:], reduction="sum")
        assert scored.prior[number].item() == pytest.approx(nats.item(), abs=1e-10)
    reward_log_probabilities = exact.token_log_probabilities(
        reward.model, [reward.prompt_ids(scored.prompt)], letter_task.END, 3
    ).sum(-1)[0]
    torch.testing.assert_close(reward_log_probabilities, scored.rewards)
    values, _ = scoring.rewards(reward, [reward.prompt_ids(scored.prompt)], [scored.answers[7].tolist()])
    assert scored.rewards[7].item() == pytest.approx(values[0])


def test_scored_gradients_match_autograd_of_relaxed_objective():
    policy, reward = models()
    messages = [{"role": "user", "content": "bd"}]
    scored = exact.score_prompt(policy, reward, messages, 2)
    for number in (3, 18):
        answer = scored.answers[number].tolist()
        sequence = objective.make_sequence(policy, reward, messages, [], answer)
        onehots = functional.one_hot(torch.tensor(answer), policy.vocab_size).double().requires_grad_()
        loss = objective.relaxed_objective(policy, reward, sequence, onehots, reward_weight=0.7, nll_weight=1.0)
        (expected,) = torch.autograd.grad(loss, onehots)
        torch.testing.assert_close(scored.energy_gradients(0.7)[number], expected, rtol=1e-6, atol=1e-8)


def test_sampling_floor_matches_known_plug_in_bias():
    uniform = torch.full((50,), -math.log(50), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    kl, variation = exact.sampling_floor(uniform, 5000, repeats=20, generator=generator)
    assert kl == pytest.approx(49 / (2 * 5000), rel=0.2)  # (K - 1)/2n, to first order
    assert 0 < variation < 0.1


def test_divergence_is_infinite_without_common_support():
    half = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    sure = torch.tensor([1.0, 0.0], dtype=torch.float64).log()
    assert exact.divergence(half, sure) == math.inf
    assert exact.divergence(sure, half) == pytest.approx(math.log(2))
