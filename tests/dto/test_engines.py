"""DTO: the fast engine against the reference engine, caching, and checks of settings."""

import pytest
import torch
import toys
from jaxtyping import TypeCheckError

from nabla_reasoner.dto import gradient_passes, gradients, objective, optimizer
from nabla_reasoner.dto.settings import DTOSettings

CASES = {
    "prompts": [toys.chat("What is 12 + 34?"), toys.chat("Add 5 and 6, then take 7."), toys.chat("6")],
    "prefix_ids": [[], [9, 12], [8]],
    "rollout_ids": [[20, 31, 25, 40, 1], [50, 60, 11], [44, 1]],
}


def run(policy, reward, cases=CASES, **settings):
    return optimizer.optimize(policy, reward, **cases, reward_weight=0.7, nll_weight=0.3, **settings)


@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
@pytest.mark.parametrize("update", ["first", "all"])
@pytest.mark.parametrize("parameter", ["logits", "latents"])
@pytest.mark.parametrize("step_size", [0.01, 0.6])
def test_fast_engine_equals_reference(parameter, update, kind, step_size):
    policy, reward = toys.policy(), toys.reward(kind)
    settings = {"parameter": parameter, "update": update, "step_size": step_size, "num_iterations": 8}
    fast = run(policy, reward, **settings)
    plain = run(policy, reward, **settings, engine="reference")
    for actual, expected in zip(fast, plain, strict=True):
        torch.testing.assert_close(actual.logits, expected.logits, rtol=0, atol=1e-9)
        assert actual.token_ids == expected.token_ids
        assert actual.objective == pytest.approx(expected.objective, abs=1e-9)


def test_large_steps_flip_tokens():
    """Without flips the comparison above would not test the cache's invalidation."""
    policy, reward = toys.policy(), toys.reward()
    results = run(policy, reward, update="all", step_size=0.6, num_iterations=8)
    assert any(result.token_ids != start for result, start in zip(results, CASES["rollout_ids"], strict=True))
    assert any(result.gradient_evaluations > 1 for result in results)


@pytest.mark.parametrize("engine", ["fast", "reference"])
@pytest.mark.parametrize("update", ["first", "all"])
def test_gradient_caching_keeps_trajectory_and_lowers_cost(engine, update):
    policy, reward = toys.policy("llama"), toys.reward("classifier", "qwen2")
    settings = {"engine": engine, "update": update, "step_size": 0.5, "num_iterations": 6}
    cached = run(policy, reward, **settings)
    plain = run(policy, reward, **settings, gradient_caching=False)
    for actual, expected in zip(cached, plain, strict=True):
        torch.testing.assert_close(actual.logits, expected.logits, rtol=0, atol=1e-9)
        assert actual.objective == pytest.approx(expected.objective, abs=1e-9)
        assert actual.gradient_evaluations <= expected.gradient_evaluations
    assert sum(r.gradient_evaluations for r in cached) < sum(r.gradient_evaluations for r in plain)


def test_results_are_independent_of_batch():
    policy, reward = toys.policy(), toys.reward()
    together = run(policy, reward)
    for index, expected in enumerate(together):
        alone = run(policy, reward, {name: [values[index]] for name, values in CASES.items()})[0]
        torch.testing.assert_close(alone.logits, expected.logits, rtol=0, atol=1e-10)


def test_first_update_moves_one_row_from_policy_logits():
    policy, reward = toys.policy(), toys.reward()
    still = run(policy, reward, num_iterations=1, step_size=1e-12)
    for result, chat, prefix, rollout in zip(still, *CASES.values(), strict=True):
        ids = torch.tensor([policy.prompt_ids(chat) + prefix + rollout])
        expected = policy.model(input_ids=ids).logits[0, -len(rollout) - 1]
        assert result.logits.shape == (1, policy.vocab_size)
        torch.testing.assert_close(result.logits[0], expected, rtol=0, atol=1e-9)


def test_small_step_lowers_linearised_objective():
    """The linearised relaxed objective is Σ softmax(z)·∂L/∂y."""
    policy, reward = toys.policy(), toys.reward()
    before = run(policy, reward, num_iterations=1, step_size=1e-12)
    after = run(policy, reward, num_iterations=1, step_size=1e-3)
    for low, high, chat, prefix, rollout in zip(after, before, *CASES.values(), strict=True):
        sequence = objective.make_sequence(policy, reward, chat, prefix, rollout)
        (gradient,) = gradient_passes.evaluate(policy, reward, [sequence], reward_weight=0.7, nll_weight=0.3)
        row = gradients.onehot_gradient([gradient], [[0]])
        assert (low.logits.softmax(-1) * row).sum() < (high.logits.softmax(-1) * row).sum()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"parameter": "hidden"}, "logits, latents"),
        ({"update": "none"}, "first, all"),
        ({"engine": "warp"}, "fast, reference"),
        ({"num_iterations": 0}, "num_iterations"),
        ({"step_size": 0.0}, "step_size"),
        ({"min_step_ratio": 2.0}, "min_step_ratio"),
        ({"ste_temperature": 0.0}, "ste_temperature"),
    ],
)
def test_setting_out_of_range_raises(setting, message):
    with pytest.raises(ValueError, match=message):
        run(toys.policy(), toys.reward(), **setting)


def test_unknown_keyword_raises_and_lists_settings():
    with pytest.raises(TypeError, match=r"unknown setting stepsize; valid settings are .*step_size"):
        run(toys.policy(), toys.reward(), stepsize=0.1)


def test_keywords_replace_fields_of_given_settings():
    policy, reward = toys.policy(), toys.reward()
    settings = DTOSettings(step_size=0.6, num_iterations=3)
    given = run(policy, reward, settings=settings, num_iterations=8)
    expected = run(policy, reward, step_size=0.6, num_iterations=8)
    assert [result.objective for result in given] == [result.objective for result in expected]


def test_wrong_inputs_of_the_public_entry_are_named():
    policy, reward, chat = toys.policy(), toys.reward(), toys.chat("1+1?")
    with torch.inference_mode(), pytest.raises(ValueError, match="inference mode"):
        optimizer.optimize(policy, reward, [chat], [[]], [[5, 6]])
    with pytest.raises(ValueError, match="equally many; got 1, 1 and 2"):
        optimizer.optimize(policy, reward, [chat], [[]], [[5], [6]])
    with pytest.raises((ValueError, TypeCheckError), match="prompt"):
        optimizer.optimize(policy, reward, ["1+1?"], [[]], [[5]])
