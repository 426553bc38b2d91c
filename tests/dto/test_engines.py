import pytest
import torch
import toys

from nabla_reasoner.dto import optimizer

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
def test_fast_engine_equals_the_reference(parameter, update, kind, step_size):
    policy, reward = toys.policy(), toys.reward(kind)
    settings = {"parameter": parameter, "update": update, "step_size": step_size, "num_iterations": 8}
    fast = run(policy, reward, **settings)
    plain = run(policy, reward, **settings, engine="reference")
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one.logits, other.logits, rtol=0, atol=1e-9)
        assert one.token_ids == other.token_ids
        assert one.objective == pytest.approx(other.objective, abs=1e-9)


def test_large_steps_do_flip_tokens_in_these_cases():
    """Guards the comparison above: without flips it would not exercise the cache's invalidation."""
    policy, reward = toys.policy(), toys.reward()
    results = run(policy, reward, update="all", step_size=0.6, num_iterations=8)
    assert any(result.token_ids != start for result, start in zip(results, CASES["rollout_ids"], strict=True))
    assert any(result.gradient_evaluations > 1 for result in results)


@pytest.mark.parametrize("engine", ["fast", "reference"])
@pytest.mark.parametrize("update", ["first", "all"])
def test_gradient_caching_changes_the_cost_and_not_the_trajectory(engine, update):
    policy, reward = toys.policy("llama"), toys.reward("classifier", "qwen2")
    settings = {"engine": engine, "update": update, "step_size": 0.5, "num_iterations": 6}
    cached = run(policy, reward, **settings)
    plain = run(policy, reward, **settings, gradient_caching=False)
    for one, other in zip(cached, plain, strict=True):
        torch.testing.assert_close(one.logits, other.logits, rtol=0, atol=1e-9)
        assert one.objective == pytest.approx(other.objective, abs=1e-9)
        assert one.gradient_evaluations <= other.gradient_evaluations
    assert sum(r.gradient_evaluations for r in cached) < sum(r.gradient_evaluations for r in plain)


def test_results_do_not_depend_on_the_batch():
    policy, reward = toys.policy(), toys.reward()
    together = run(policy, reward)
    for index, expected in enumerate(together):
        alone = run(policy, reward, {name: [values[index]] for name, values in CASES.items()})[0]
        torch.testing.assert_close(alone.logits, expected.logits, rtol=0, atol=1e-10)


def test_first_update_moves_one_row_and_starts_from_the_policys_own_logits():
    policy, reward = toys.policy(), toys.reward()
    still = run(policy, reward, num_iterations=1, step_size=1e-12)
    for result, chat, prefix, rollout in zip(still, *CASES.values(), strict=True):
        ids = torch.tensor([policy.prompt_ids(chat) + prefix + rollout])
        expected = policy.model(input_ids=ids).logits[0, -len(rollout) - 1]
        assert result.logits.shape == (1, policy.vocab_size)
        torch.testing.assert_close(result.logits[0], expected, rtol=0, atol=1e-9)


def test_a_step_lowers_the_relaxed_objective():
    """One small Adam step along -∂L/∂z must lower Σ softmax(z)·∂L/∂y, the linearised relaxed objective."""
    policy, reward = toys.policy(), toys.reward()
    before = run(policy, reward, num_iterations=1, step_size=1e-12)
    after = run(policy, reward, num_iterations=1, step_size=1e-3)
    from nabla_reasoner.dto import gradient_passes, gradients, objective

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
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        run(toys.policy(), toys.reward(), **setting)
