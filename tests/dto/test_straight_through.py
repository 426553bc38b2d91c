"""The straight-through estimator, its chain rule, and the rule of the hard token."""

import torch

from nabla_reasoner.dto import straight_through
from nabla_reasoner.engine import numerics


def rows(seed=0):
    return torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_straight_through_is_hard_forward_soft_backward():
    logits, tokens = rows().requires_grad_(), torch.tensor([0, 3, 8, 8, 1])
    y = straight_through.straight_through(logits, tokens, temperature=0.6)
    torch.testing.assert_close(y, torch.nn.functional.one_hot(tokens, 9).double())
    weights = rows(1)
    (actual,) = torch.autograd.grad((y * weights).sum(), logits)
    (expected,) = torch.autograd.grad((torch.softmax(logits / 0.6, -1) * weights).sum(), logits)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-14)


def test_equation_25_equals_autograd():
    logits, gradient = rows().requires_grad_(), rows(2)
    y = straight_through.straight_through(logits, torch.zeros(5, dtype=torch.long), temperature=1.7)
    (expected,) = torch.autograd.grad((y * gradient).sum(), logits)
    actual = straight_through.logits_gradient(logits.detach(), gradient, temperature=1.7)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-14)


def test_certain_row_has_almost_no_gradient():
    """At probability 1 - 4e-9 the gradient is below 1e-7 whatever ∂L/∂y is; therefore such positions are skipped."""
    logits = torch.tensor([[20.0, 0.0, 0.0]], dtype=torch.float64)
    assert straight_through.logits_gradient(logits, torch.tensor([[3.0, -9.0, 5.0]]).double()).abs().max() < 1e-7


def test_confidence_and_entropy_have_known_values():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64))
    torch.testing.assert_close(numerics.confidence(logits), torch.tensor([0.5]).double())
    torch.testing.assert_close(numerics.entropy(logits), torch.tensor([1.0397207708]).double())


def test_hard_token_is_sampled_until_argmax_changes():
    sampled, first_argmax = torch.tensor([2, 2]), torch.tensor([0, 0])
    logits = torch.tensor([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0]])
    assert straight_through.hard_tokens(logits, first_argmax, sampled).tolist() == [2, 1]
    noise = torch.tensor([[0.0, 5.0, 0.0], [5.0, 0.0, 0.0]])
    assert straight_through.hard_tokens(logits, first_argmax, sampled, noise).tolist() == [1, 2]
