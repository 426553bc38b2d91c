"""DTO: the fast engine against the reference engine, caching, and checks of settings."""

import numpy as np
import pytest
import torch
import toys
from jaxtyping import TypeCheckError

from nabla_reasoner.dto import batched, gradient_passes, gradients, objective, optimizer
from nabla_reasoner.dto.settings import DTOSettings

CASES = {
    "prompts": [toys.chat("What is 12 + 34?"), toys.chat("Add 5 and 6, then take 7."), toys.chat("6")],
    "prefix_ids": [[], [9, 12], [8]],
    "rollout_ids": [[20, 31, 25, 40, 1], [50, 60, 11], [44, 1]],
}


def run(policy, reward, cases=CASES, **settings):
    return optimizer.optimize(policy, reward, **cases, reward_weight=0.7, nll_weight=0.3, **settings)


@pytest.mark.slow
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


@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
@pytest.mark.parametrize("reward_form", ["outcome", "prefix"])
def test_engines_agree_where_policy_and_reward_have_other_precisions(reward_form, kind):
    """Transformers loads a model in the precision of its file, which may be another than the reward's."""
    policy, reward = toys.policy(dtype="float32"), toys.reward(kind)
    settings = {"update": "all", "step_size": 0.01, "num_iterations": 3, "reward_form": reward_form}
    fast = run(policy, reward, **settings)
    plain = run(policy, reward, **settings, engine="reference")
    for actual, expected in zip(fast, plain, strict=True):
        torch.testing.assert_close(actual.logits, expected.logits, rtol=0, atol=1e-4, check_dtype=False)
        assert actual.objective == pytest.approx(expected.objective, abs=1e-3)


def test_large_steps_flip_tokens():
    """Without flips the comparison above would not test the cache's invalidation."""
    policy, reward = toys.policy(), toys.reward()
    results = run(policy, reward, update="all", step_size=0.6, num_iterations=8)
    assert any(result.token_ids != start for result, start in zip(results, CASES["rollout_ids"], strict=True))
    assert any(result.gradient_evaluations > 1 for result in results)


@pytest.mark.slow
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
        assert actual.gradient_evaluations <= expected.gradient_evaluations == settings["num_iterations"]
    assert sum(r.gradient_evaluations for r in cached) < sum(r.gradient_evaluations for r in plain)


def test_results_are_independent_of_batch():
    policy, reward = toys.policy(), toys.reward()
    together = run(policy, reward)
    for index, expected in enumerate(together):
        alone = run(policy, reward, {name: [values[index]] for name, values in CASES.items()})[0]
        torch.testing.assert_close(alone.logits, expected.logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
@pytest.mark.parametrize("reward_form", ["outcome", "prefix"])
def test_costs_are_independent_of_batch(reward_form, kind):
    """A rollout of one token is read like the prompt; a longer one beside it is not."""
    policy, reward, chat = toys.policy(), toys.reward(kind), toys.chat("1+1")
    cases = {"prompts": [chat, chat], "prefix_ids": [[], []], "rollout_ids": [[7], [7, 8, 9]]}
    settings = {"reward_form": reward_form, "update": "all", "gradient_caching": False, "num_iterations": 4}
    together = run(policy, reward, cases, **settings)
    for index, expected in enumerate(together):
        alone = run(policy, reward, {name: [values[index]] for name, values in cases.items()}, **settings)[0]
        assert alone.cost == expected.cost


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
    with pytest.raises((ValueError, TypeCheckError), match="prompt"):
        optimizer.optimize(policy, reward, ["1+1?"], [[]], [[5]])


CHAT = toys.chat("1+1?")
WRONG = {  # arguments of the entry and the message that they get
    "fewer prompts": (([CHAT], [[]], [[5], [6]]), "one of prompts, prefix_ids, rollout_ids .* got 1 prompts, 1 prefix"),
    "an empty chat": (([[]], [[]], [[5]]), r"prompts must hold chats, lists of messages; got \[\]"),
    "a message without content": (([[{"role": "user"}]], [[]], [[5]]), "a role and a content, both text; got .*'user'"),
    "a token below 0": (([CHAT], [[]], [[5, -1]]), "rollout_ids must hold tokens of the policy's vocabulary; got -1"),
    "a token beyond": (
        ([CHAT], [[10**6]], [[5]]),
        "prefix_ids must hold tokens of the policy's vocabulary; got 1000000",
    ),
    "no rollout": (([CHAT], [[5]], [[]]), "at least one token"),
}


@pytest.mark.parametrize("entry", [optimizer.optimize, objective.gradient_terms], ids=["optimize", "gradient_terms"])
def test_wrong_sequences_are_named(entry):
    policy, reward = toys.policy(), toys.reward()
    for arguments, message in WRONG.values():
        with pytest.raises(ValueError, match=message):
            entry(policy, reward, *arguments)
    assert entry(policy, reward, [], [], []) == []


def test_a_padding_row_is_no_token():
    policy, reward = toys.policy(), toys.reward()
    policy.vocab_size -= 5  # its matrices have rows for tokens that its tokenizer lacks
    with pytest.raises(ValueError, match=f"got {policy.vocab_size}. Write .* from 0 to {policy.vocab_size - 1}"):
        optimizer.optimize(policy, reward, [CHAT], [[]], [[5, policy.vocab_size]])


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_tokens_may_be_arrays_or_tensors(engine):
    policy, reward = toys.policy(), toys.reward()
    assert optimizer.optimize(policy, reward, [], [], [], engine=engine) == []
    results = [
        optimizer.optimize(policy, reward, [CHAT], [kind([5])], [kind([6, 7])], engine=engine, num_iterations=2)[0]
        for kind in (list, np.array, torch.tensor)
    ]
    assert len({tuple(result.objective) for result in results}) == 1
    assert all(torch.equal(result.logits, results[0].logits) for result in results)


def test_uniforms_of_another_shape_or_range_are_refused():
    policy, reward = toys.policy(), toys.reward()
    numbers = np.random.default_rng(0).random((2, policy.vocab_size))
    wrong = {
        "shape": ([numbers[:1]], rf"must have shape \(2, {policy.vocab_size}\).* got \(1, {policy.vocab_size}\)"),
        "width": ([numbers[:, :3]], r"got \(2, 3\)"),
        "range": ([numbers + 1], r"must lie in \[0, 1\); got 1\."),
        "missing": ([], "one of prompts, uniforms for every sequence; got 1 prompts, 0 uniforms"),
    }
    for uniforms, message in wrong.values():
        with pytest.raises(ValueError, match=message):
            optimizer.optimize(policy, reward, [CHAT], [[]], [[5, 6]], flip="gumbel", uniforms=uniforms)


@pytest.mark.slow
@pytest.mark.parametrize("update", ["first", "all"])
def test_blocks_of_descents_change_nothing(update, monkeypatch):
    """One descent after another, two together, and all together, with tokens that flip on the way."""
    policy, reward = toys.policy(), toys.reward()
    rows = 1 if update == "first" else max(map(len, CASES["rollout_ids"]))
    results = []
    for limit in (1, 2 * rows * policy.vocab_size, 10**12):
        monkeypatch.setattr(batched, "CACHED_ELEMENTS", limit)
        results.append(run(policy, reward, update=update, step_size=0.6, num_iterations=8))
    assert any(result.gradient_evaluations > 1 for result in results[0])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one.logits, two.logits)
            assert one._replace(logits=None) == two._replace(logits=None)
