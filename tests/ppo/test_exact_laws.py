"""Exact laws against independent computation: optimisers, all tuples of draws, the package's own passes, autograd."""

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
from nabla_reasoner.ppo import exact_laws, letter_task


def random_laws(size: int = 9, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """log π and r; two answers share a reward."""
    generator = torch.Generator().manual_seed(seed)
    prior = torch.log_softmax(torch.randn(size, dtype=torch.float64, generator=generator), -1)
    rewards = torch.randn(size, dtype=torch.float64, generator=generator)
    rewards[3] = rewards[0]
    return prior, rewards


@pytest.mark.parametrize("weight", [0.3, 2.0])
def test_the_optimum_is_where_a_numerical_optimiser_ends(weight):
    prior, rewards = random_laws()

    def loss(parameters: np.ndarray) -> float:  # Eq. 3 written out anew, on the simplex through a softmax
        law = np.exp(parameters) / np.exp(parameters).sum()
        return float((law * (np.log(law) - prior.numpy() - weight * rewards.numpy())).sum())

    found = scipy.optimize.minimize(loss, np.zeros(9), method="BFGS", options={"gtol": 1e-9})
    law = torch.log_softmax(torch.tensor(found.x), -1)
    assert exact_laws.total_variation(law, exact_laws.optimum(prior, rewards, weight)) < 1e-5
    assert exact_laws.total_variation(law, exact_laws.optimum(prior, rewards, weight + 0.2)) > 0.01
    assert found.fun == pytest.approx(exact_laws.objective(law, prior, rewards, weight))


def test_the_objective_exceeds_its_minimum_by_the_divergence_from_the_optimum():
    prior, rewards = random_laws()
    law, _ = random_laws(seed=1)
    star = exact_laws.optimum(prior, rewards, 1.5)
    gap = exact_laws.objective(law, prior, rewards, 1.5) - exact_laws.objective(star, prior, rewards, 1.5)
    assert gap == pytest.approx(exact_laws.divergence(law, star))
    assert gap > 0.1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_law_of_best_of_n_equals_that_of_all_tuples_of_draws(count):
    prior, rewards = random_laws(size=6)
    expected = torch.zeros(6, dtype=torch.float64)
    for drawn in itertools.product(range(6), repeat=count):
        best = max(drawn, key=lambda i: rewards[i].item())  # the first of equals
        expected[best] += prior[list(drawn)].sum().exp()
    torch.testing.assert_close(exact_laws.best_of_n(prior, rewards, count).exp(), expected)


def test_the_divergence_of_best_of_n_stays_below_its_bound_and_count_zero_is_refused():
    prior, rewards = random_laws(size=200)
    for count in (1, 2, 8, 64):
        law = exact_laws.best_of_n(prior, rewards, count)
        assert law.exp().sum().item() == pytest.approx(1)
        assert exact_laws.divergence(law, prior) <= exact_laws.best_of_n_bound(count) + 1e-12
    assert exact_laws.best_of_n_bound(4) == pytest.approx(math.log(4) - 0.75)
    with pytest.raises(ValueError, match=r"count \(N\) must be >= 1; got 0"):
        exact_laws.best_of_n(prior, rewards, 0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_weighted_choice_among_draws_has_the_law_of_all_tuples(count):
    prior, rewards = random_laws(size=5)
    expected = torch.zeros(5, dtype=torch.float64)
    for drawn in itertools.product(range(5), repeat=count):
        shares = torch.softmax(1.5 * rewards[list(drawn)], -1)
        for index, share in zip(drawn, shares, strict=True):
            expected[index] += prior[list(drawn)].sum().exp() * share
    generator = torch.Generator().manual_seed(0)
    law = exact_laws.weighted_choice(prior, rewards, 1.5, count, draws=20_000, generator=generator)
    assert exact_laws.total_variation(law, expected.log()) < 0.005  # 1/sqrt(20,000) is 0.007


def test_every_answer_is_listed_once_in_counting_order():
    answers = exact_laws.every_answer(3, 2)
    assert answers.tolist() == [list(digits) for digits in itertools.product(range(3), repeat=2)]


def test_enumerated_probabilities_sum_to_one_and_equal_the_packages_passes():
    policy, reward = models()
    landscape = exact_laws.survey(policy, reward, [{"role": "user", "content": "abca"}], 3)
    assert landscape.prior.exp().sum().item() == pytest.approx(1, abs=1e-12)
    for number in (0, 37, 124):
        answer = landscape.answers[number].tolist()
        ids = torch.tensor([policy.prompt_ids(landscape.prompt) + answer])
        logits = policy.model(input_ids=ids).logits[0, -4:-1, : letter_task.END]
        nats = -functional.cross_entropy(logits, ids[0, -3:], reduction="sum")
        assert landscape.prior[number].item() == pytest.approx(nats.item(), abs=1e-10)
    judged = exact_laws.token_log_probabilities(
        reward.model, [reward.prompt_ids(landscape.prompt)], letter_task.END, 3
    ).sum(-1)[0]
    torch.testing.assert_close(judged, landscape.rewards)
    values, _ = scoring.rewards(reward, [reward.prompt_ids(landscape.prompt)], [landscape.answers[7].tolist()])
    assert landscape.rewards[7].item() == pytest.approx(values[0])


def test_surveyed_gradients_are_those_of_the_relaxed_objective_by_autograd():
    policy, reward = models()
    messages = [{"role": "user", "content": "bd"}]
    landscape = exact_laws.survey(policy, reward, messages, 2)
    for number in (3, 18):
        answer = landscape.answers[number].tolist()
        sequence = objective.make_sequence(policy, reward, messages, [], answer)
        onehots = functional.one_hot(torch.tensor(answer), policy.vocab_size).double().requires_grad_()
        loss = objective.relaxed_objective(policy, reward, sequence, onehots, reward_weight=0.7, nll_weight=1.0)
        (expected,) = torch.autograd.grad(loss, onehots)
        torch.testing.assert_close(landscape.energy_gradients(0.7)[number], expected, rtol=1e-6, atol=1e-8)


def test_the_floor_of_a_sample_is_the_known_bias_of_the_plug_in_divergence():
    uniform = torch.full((50,), -math.log(50), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    kl, variation = exact_laws.sampling_floor(uniform, 5000, repeats=20, generator=generator)
    assert kl == pytest.approx(49 / (2 * 5000), rel=0.2)  # (K - 1)/2n, to first order
    assert 0 < variation < 0.1


def test_divergence_is_infinite_where_the_other_law_lacks_an_answer():
    half = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    sure = torch.tensor([1.0, 0.0], dtype=torch.float64).log()
    assert exact_laws.divergence(half, sure) == math.inf
    assert exact_laws.divergence(sure, half) == pytest.approx(math.log(2))
