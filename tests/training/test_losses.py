"""Losses of reinforcement learning against numbers computed by hand."""

import math

import pytest
import torch

from nabla_reasoner.training import losses
from nabla_reasoner.training.losses import EPSILON, clipped_objective, group_advantages, policy_loss

NAN = float("nan")


def test_advantages_equal_standardised_rewards_of_the_group():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    deviations = torch.tensor([[math.sqrt(7)], [math.sqrt(3)]], dtype=torch.float64)  # (4+1+9)/2 and (1+1+4)/2
    centred = torch.tensor([[-2.0, -1.0, 3.0], [-1.0, -1.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(group_advantages(rewards), centred / (deviations + EPSILON))
    torch.testing.assert_close(group_advantages(rewards, scale=False), centred)


@pytest.mark.parametrize("failed", [NAN, math.inf, -math.inf])
def test_failed_reward_is_left_out_of_its_group(failed):
    rewards = torch.tensor([[1.0, failed, 3.0]], dtype=torch.float64)
    expected = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(group_advantages(rewards, scale=False), expected)
    torch.testing.assert_close(group_advantages(rewards), expected / (math.sqrt(2) + EPSILON))


def test_groups_without_a_difference_get_zero_advantages():
    rewards = torch.tensor([[2.0, 2.0, 2.0], [NAN, 5.0, NAN], [NAN, NAN, NAN]])
    for scale in (True, False):
        assert group_advantages(rewards, scale=scale).tolist() == [[0.0] * 3] * 3


def test_group_of_one_is_refused():
    with pytest.raises(ValueError, match=r"group_size must be >= 2; got 1"):
        group_advantages(torch.ones(3, 1))


def test_group_of_equal_rewards_gives_no_gradient():
    present = torch.randn(3, 2, requires_grad=True)
    advantages = group_advantages(torch.full((1, 3), 4.0)).flatten()
    loss = policy_loss(present, present.detach(), advantages, torch.ones(3, 2, dtype=torch.bool), max_length=2)
    loss.backward()
    assert present.grad.abs().max() == 0


def test_clipped_objective_is_the_smaller_product():
    ratios = torch.tensor([[1.5, 1.1, 0.5], [1.5, 0.9, 0.5]], dtype=torch.float64)
    advantages = torch.tensor([2.0, -2.0], dtype=torch.float64)
    objective = clipped_objective(ratios.log(), torch.zeros_like(ratios), advantages, clip_low=0.2, clip_high=0.3)
    expected = torch.tensor([[2.6, 2.2, 1.0], [-3.0, -1.8, -1.6]], dtype=torch.float64)  # bounds 0.8 and 1.3
    torch.testing.assert_close(objective, expected)


def test_gradient_is_zero_exactly_at_clipped_tokens():
    present = torch.tensor([[math.log(1.5), math.log(1.1)], [math.log(0.5), math.log(0.9)]], requires_grad=True)
    clipped_objective(present, torch.zeros(2, 2), torch.tensor([1.0, -1.0])).sum().backward()
    torch.testing.assert_close(present.grad, torch.tensor([[0.0, 1.1], [0.0, -0.9]]))


@pytest.mark.parametrize(
    ("normalisation", "expected"),
    [("sequence", (6.0 / 3 + 10.0) / 2), ("token", 16.0 / 4), ("length", 16.0 / (2 * 5))],
)
def test_normalisations_equal_averages_computed_by_hand(normalisation, expected):
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, 99.0, NAN]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    average = losses.average_tokens(values, mask, normalisation=normalisation, max_length=5)
    assert average.item() == pytest.approx(expected)


def test_unknown_normalisation_error_names_valid_ones():
    mask = torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="sequence, token, length; got 'batch'"):
        losses.average_tokens(torch.ones(1, 1), mask, normalisation="batch", max_length=1)


def test_divergence_estimate_is_unbiased_and_non_negative():
    policy = torch.log_softmax(torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), -1)
    other = torch.log_softmax(torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), -1)
    estimates = losses.reference_divergence(policy[:, None], other[:, None])[:, 0]
    assert (estimates > 0).all()
    exact = torch.nn.functional.kl_div(other, policy, log_target=True, reduction="sum")
    torch.testing.assert_close((policy.exp() * estimates).sum(), exact)
    assert losses.reference_divergence(policy[:, None], policy[:, None]).abs().max() == 0


def test_loss_is_negative_objective_plus_weighted_divergence():
    present = torch.tensor([[math.log(0.5)], [math.log(0.2)]], dtype=torch.float64)
    old = torch.tensor([[math.log(0.4)], [math.log(0.25)]], dtype=torch.float64)
    reference = torch.tensor([[math.log(0.25)], [math.log(0.4)]], dtype=torch.float64)
    loss = policy_loss(
        present,
        old,
        torch.tensor([1.0, -1.0], dtype=torch.float64),
        torch.ones(2, 1, dtype=torch.bool),
        reference_log_probabilities=reference,
        kl_weight=0.5,
        max_length=1,
    )
    objectives = [1.2, -0.8]  # ratios 1.25 and 0.8, bounds 1.2 and 0.8
    divergences = [0.5 - math.log(0.5) - 1, 2 - math.log(2) - 1]
    expected = sum(0.5 * d - o for o, d in zip(objectives, divergences, strict=True)) / 2
    assert loss.item() == pytest.approx(expected)


def test_kl_weight_without_reference_is_refused():
    zeros = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="needs a reference policy"):
        policy_loss(zeros, zeros, torch.zeros(1), torch.ones(1, 1, dtype=torch.bool), kl_weight=0.1, max_length=1)
