"""L, ∂L/∂y and its three terms against autograd, finite differences and Hugging Face's own forward passes."""

import pytest
import torch
import toys

from nabla_reasoner.dto import gradient_passes, gradients, objective
from nabla_reasoner.engine import scoring

WEIGHTS = {"reward_weight": 0.7, "nll_weight": 0.3}
REWARDS = [("classifier", False), ("likelihood", False), ("likelihood", True)]


def sequences(policy, reward):
    end = policy.eos_ids[0]
    cases = [("What is 12 + 34?", [], [20, 31, 25, 40, end]), ("Add", [9, 12], [50, 60, 11]), ("6", [8], [end])]
    return [
        objective.make_sequence(policy, reward, toys.chat(text), prefix, rollout) for text, prefix, rollout in cases
    ]


def onehots(policy, sequence):
    return torch.nn.functional.one_hot(torch.tensor(sequence.rollout), policy.vocab_size).double()


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
@pytest.mark.parametrize(("kind", "reference"), REWARDS)
def test_batched_gradient_equals_autograd_through_onehots(architecture, kind, reference):
    policy, reward = toys.policy(architecture), toys.reward(kind, reference=reference)
    batch = sequences(policy, reward)
    for sequence, gradient in zip(batch, gradient_passes.evaluate(policy, reward, batch, **WEIGHTS), strict=True):
        leaf = onehots(policy, sequence).requires_grad_()
        loss = objective.relaxed_objective(policy, reward, sequence, leaf, **WEIGHTS)
        (expected,) = torch.autograd.grad(loss, leaf)
        assert gradient.loss == pytest.approx(loss.item(), abs=1e-10)
        actual = gradients.onehot_gradient([gradient], [range(len(sequence.rollout))])
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("kind", "reference"), REWARDS)
def test_gradient_agrees_with_finite_differences(kind, reference):
    policy, reward = toys.policy(), toys.reward(kind, reference=reference)
    sequence = sequences(policy, reward)[0]
    gradient = gradient_passes.evaluate(policy, reward, [sequence], **WEIGHTS)[0]
    rows = gradients.onehot_gradient([gradient], [range(len(sequence.rollout))])
    start, step = onehots(policy, sequence), 1e-6
    for position, token in [(0, 3), (0, 20), (2, 100), (4, 250), (3, 40)]:
        nudge = torch.zeros_like(start)
        nudge[position, token] = step
        with torch.no_grad():
            up = objective.relaxed_objective(policy, reward, sequence, start + nudge, **WEIGHTS)
            down = objective.relaxed_objective(policy, reward, sequence, start - nudge, **WEIGHTS)
        assert rows[position, token].item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
def test_terms_sum_to_autograd_and_postfix_ends(kind):
    policy, reward = toys.policy("llama"), toys.reward(kind, "qwen2")
    chat, prefix, rollout = toys.chat("What is 12 + 34?"), [5, 6], [20, 31, 25, 40]
    (terms,) = objective.gradient_terms(policy, reward, [chat], [prefix], [rollout], **WEIGHTS)
    sequence = objective.make_sequence(policy, reward, chat, prefix, rollout)
    leaf = onehots(policy, sequence).requires_grad_()
    (expected,) = torch.autograd.grad(objective.relaxed_objective(policy, reward, sequence, leaf, **WEIGHTS), leaf)
    torch.testing.assert_close(terms.prefix + terms.postfix + terms.reward, expected, rtol=0, atol=1e-10)
    assert terms.postfix[-1].abs().max() == 0
    assert terms.postfix[0].abs().max() > 1e-6
    # each term alone, from an objective that holds only that part
    (likelihood_only,) = torch.autograd.grad(
        objective.relaxed_objective(policy, reward, sequence, leaf, reward_weight=0.0, nll_weight=0.3), leaf
    )
    torch.testing.assert_close(terms.prefix + terms.postfix, likelihood_only, rtol=0, atol=1e-10)


def test_log_likelihood_equals_hugging_face_loss():
    policy, reward = toys.policy(), toys.reward()
    for sequence in sequences(policy, reward):
        ids = torch.tensor([sequence.policy_prompt + sequence.prefix + sequence.rollout])
        labels = ids.clone()
        labels[:, : -len(sequence.rollout)] = -100
        mean = policy.model(input_ids=ids, labels=labels).loss  # in float32, whatever the model's dtype
        (gradient,) = gradient_passes.evaluate(policy, reward, [sequence], **WEIGHTS)
        assert gradient.log_probabilities.sum().item() == pytest.approx(-mean.item() * len(sequence.rollout), rel=1e-6)


def test_classifier_reward_equals_hugging_face_forward():
    policy, reward = toys.policy(), toys.reward("classifier")
    for sequence in sequences(policy, reward):
        end_token = [] if sequence.rollout[-1] in reward.eos_ids else [reward.eos_ids[0]]
        response = sequence.prefix + sequence.rollout
        ids = torch.tensor([sequence.reward_prompt + response + end_token + reward.suffix_ids])
        expected = reward.model(input_ids=ids).logits.item()
        (gradient,) = gradient_passes.evaluate(policy, reward, [sequence], **WEIGHTS)
        (value,), _ = scoring.rewards(reward, [sequence.reward_prompt], [response])
        assert gradient.reward == pytest.approx(expected, abs=1e-9)
        assert value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("kind", "reference"), REWARDS)
def test_forward_rewards_equal_those_of_gradient_pass(kind, reference):
    policy, reward = toys.policy(), toys.reward(kind, reference=reference)
    batch = sequences(policy, reward)
    values, costs = scoring.rewards(reward, [s.reward_prompt for s in batch], [s.prefix + s.rollout for s in batch])
    gradients = gradient_passes.evaluate(policy, reward, batch, **WEIGHTS)
    assert values == pytest.approx([gradient.reward for gradient in gradients], abs=1e-9)
    for spent, gradient in zip(costs, gradients, strict=True):
        assert spent.reward_forward_tokens == gradient.cost.reward_forward_tokens


def test_gradients_are_independent_of_batch_and_prefix():
    policy, reward = toys.policy(), toys.reward("classifier")
    batch = sequences(policy, reward)
    alone = [gradient_passes.evaluate(policy, reward, [sequence], **WEIGHTS)[0] for sequence in batch]
    together = gradient_passes.evaluate(policy, reward, batch[::-1], **WEIGHTS)[::-1]
    for single, batched in zip(alone, together, strict=True):
        torch.testing.assert_close(
            gradients.onehot_gradient([single], [[0]]), gradients.onehot_gradient([batched], [[0]]), rtol=0, atol=1e-11
        )
    whole = batch[0]
    later = whole._replace(prefix=whole.rollout[:2], rollout=whole.rollout[2:])
    (moved,) = gradient_passes.evaluate(policy, reward, [later], **WEIGHTS)
    torch.testing.assert_close(
        gradients.onehot_gradient([alone[0]], [[2, 3]]),
        gradients.onehot_gradient([moved], [[0, 1]]),
        rtol=0,
        atol=1e-11,
    )


def test_negative_weight_and_empty_rollout_raise():
    policy, reward = toys.policy(), toys.reward()
    with pytest.raises(ValueError, match="reward_weight.*-1"):
        objective.gradient_terms(policy, reward, [toys.chat("a")], [[]], [[5]], reward_weight=-1.0)
    with pytest.raises(ValueError, match="reward_form must be one of outcome, process, prefix; got 'x'"):
        objective.gradient_terms(policy, reward, [toys.chat("a")], [[]], [[5]], reward_form="x")
    for value in ("1", None, True):
        with pytest.raises(ValueError, match=rf"reward_weight \(λ\) must be a number; got {value!r}"):
            objective.check_weights(value, 1.0)
    with pytest.raises(ValueError, match="at least one token"):
        objective.make_sequence(policy, reward, toys.chat("a"), [], [])
