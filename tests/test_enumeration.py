"""Exact laws against independent computation: optimisers, all tuples of draws, the package's own passes, autograd."""

import itertools
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import torch
from torch.nn import functional

from nabla_reasoner import enumeration, letters, objective, scoring
from nabla_reasoner.models import Policy, RewardModel

SHAPE = {
    "model_type": "qwen2", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.5,
}  # fmt: skip


def models() -> tuple[Policy, RewardModel]:
    """Random models over the letters, in 64-bit arithmetic."""
    folder = Path(tempfile.mkdtemp(prefix="nabla-letters-"))
    for number, name in enumerate(("policy", "judge")):
        torch.manual_seed(number)
        model = letters.build_model(SHAPE)
        if name == "judge":
            model.generation_config.eos_token_id = list(range(letters.END))
        model.save_pretrained(folder / name)
        letters.build_tokenizer().save_pretrained(folder / name)
    policy = Policy.from_pretrained(str(folder / "policy"), dtype="float64")
    return policy, RewardModel.from_pretrained(str(folder / "judge"), kind="likelihood", dtype="float64")


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
    assert enumeration.total_variation(law, enumeration.optimum(prior, rewards, weight)) < 1e-5
    assert enumeration.total_variation(law, enumeration.optimum(prior, rewards, weight + 0.2)) > 0.01
    assert found.fun == pytest.approx(enumeration.objective(law, prior, rewards, weight))


def test_the_objective_exceeds_its_minimum_by_the_divergence_from_the_optimum():
    prior, rewards = random_laws()
    law, _ = random_laws(seed=1)
    star = enumeration.optimum(prior, rewards, 1.5)
    gap = enumeration.objective(law, prior, rewards, 1.5) - enumeration.objective(star, prior, rewards, 1.5)
    assert gap == pytest.approx(enumeration.divergence(law, star))
    assert gap > 0.1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_law_of_best_of_n_equals_that_of_all_tuples_of_draws(count):
    prior, rewards = random_laws(size=6)
    expected = torch.zeros(6, dtype=torch.float64)
    for drawn in itertools.product(range(6), repeat=count):
        best = max(drawn, key=lambda i: rewards[i].item())  # the first of equals
        expected[best] += prior[list(drawn)].sum().exp()
    torch.testing.assert_close(enumeration.best_of_n(prior, rewards, count).exp(), expected)


def test_the_divergence_of_best_of_n_stays_below_its_bound_and_count_zero_is_refused():
    prior, rewards = random_laws(size=200)
    for count in (1, 2, 8, 64):
        law = enumeration.best_of_n(prior, rewards, count)
        assert law.exp().sum().item() == pytest.approx(1)
        assert enumeration.divergence(law, prior) <= enumeration.best_of_n_bound(count) + 1e-12
    assert enumeration.best_of_n_bound(4) == pytest.approx(math.log(4) - 0.75)
    with pytest.raises(ValueError, match=r"count \(N\) must be >= 1; got 0"):
        enumeration.best_of_n(prior, rewards, 0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_weighted_choice_among_draws_has_the_law_of_all_tuples(count):
    prior, rewards = random_laws(size=5)
    expected = torch.zeros(5, dtype=torch.float64)
    for drawn in itertools.product(range(5), repeat=count):
        shares = torch.softmax(1.5 * rewards[list(drawn)], -1)
        for index, share in zip(drawn, shares, strict=True):
            expected[index] += prior[list(drawn)].sum().exp() * share
    generator = torch.Generator().manual_seed(0)
    law = enumeration.weighted_choice(prior, rewards, 1.5, count, draws=20_000, generator=generator)
    assert enumeration.total_variation(law, expected.log()) < 0.005  # 1/sqrt(20,000) is 0.007


def test_every_answer_is_listed_once_in_counting_order():
    answers = enumeration.every_answer(3, 2)
    assert answers.tolist() == [list(digits) for digits in itertools.product(range(3), repeat=2)]


def test_enumerated_probabilities_sum_to_one_and_equal_the_packages_passes():
    policy, reward = models()
    landscape = enumeration.survey(policy, reward, [{"role": "user", "content": "abca"}], 3)
    assert landscape.prior.exp().sum().item() == pytest.approx(1, abs=1e-12)
    for number in (0, 37, 124):
        answer = landscape.answers[number].tolist()
        ids = torch.tensor([policy.prompt_ids(landscape.prompt) + answer])
        logits = policy.model(input_ids=ids).logits[0, -4:-1, : letters.END]
        nats = -functional.cross_entropy(logits, ids[0, -3:], reduction="sum")
        assert landscape.prior[number].item() == pytest.approx(nats.item(), abs=1e-10)
    judged = enumeration.token_log_probabilities(
        reward.model, [reward.prompt_ids(landscape.prompt)], letters.END, 3
    ).sum(-1)[0]
    torch.testing.assert_close(judged, landscape.rewards)
    values, _ = scoring.rewards(reward, [reward.prompt_ids(landscape.prompt)], [landscape.answers[7].tolist()])
    assert landscape.rewards[7].item() == pytest.approx(values[0])


def test_surveyed_gradients_are_those_of_the_relaxed_objective_by_autograd():
    policy, reward = models()
    messages = [{"role": "user", "content": "bd"}]
    landscape = enumeration.survey(policy, reward, messages, 2)
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
    kl, variation = enumeration.sampling_floor(uniform, 5000, repeats=20, generator=generator)
    assert kl == pytest.approx(49 / (2 * 5000), rel=0.2)  # (K - 1)/2n, to first order
    assert 0 < variation < 0.1


def test_divergence_is_infinite_where_the_other_law_lacks_an_answer():
    half = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    sure = torch.tensor([1.0, 0.0], dtype=torch.float64).log()
    assert enumeration.divergence(half, sure) == math.inf
    assert enumeration.divergence(sure, half) == pytest.approx(math.log(2))
