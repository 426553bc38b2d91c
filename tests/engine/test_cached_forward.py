"""Cached against uncached results, after different earlier passes."""

import numpy as np
import pytest
import torch
import toys

from nabla_reasoner.dto import gradient_passes, gradients
from nabla_reasoner.dto.objective import make_sequence
from nabla_reasoner.engine import generation, numerics, scoring
from nabla_reasoner.engine.cached_forward import read
from nabla_reasoner.engine.kv_cache import PrefixCache
from nabla_reasoner.engine.sampling import Sampling, keyed_uniforms
from nabla_reasoner.engine.sequences import ModelCaches

WEIGHTS = {"reward_weight": 0.7, "nll_weight": 0.3}
CHATS = [toys.chat("What is 12 + 34?"), toys.chat("Add 5 and 6, then take 7."), toys.chat("6"), toys.chat("99 + 1?")]
REWARDS = [("likelihood", False), ("likelihood", True), ("classifier", False)]


def responses(policy, seed: int) -> list[list[int]]:
    """Return random responses of different lengths, some with an end token."""
    generator = np.random.default_rng(seed)
    samples = [generator.integers(5, 250, 6 + 5 * i).tolist() for i in range(len(CHATS))]
    return [ids + policy.eos_ids[:1] * (i % 2) for i, ids in enumerate(samples)]


def rows(gradient) -> torch.Tensor:
    return gradients.onehot_gradient([gradient], [range(len(gradient.hidden))])


def assert_same(cached, fresh):
    for actual, expected in zip(cached, fresh, strict=True):
        torch.testing.assert_close(rows(actual), rows(expected), rtol=0, atol=1e-10)
        torch.testing.assert_close(actual.hidden, expected.hidden, rtol=0, atol=1e-10)
        assert actual.reward == pytest.approx(expected.reward, abs=1e-10)
        assert actual.loss == pytest.approx(expected.loss, abs=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "reference"), REWARDS)
@pytest.mark.parametrize("architectures", [("qwen2", "llama"), ("llama", "qwen2")])
def test_gradients_after_cached_prefix_equal_uncached_ones(kind, reference, architectures):
    policy, reward = toys.policy(architectures[0]), toys.reward(kind, architectures[1], reference=reference)
    caches, slots = ModelCaches(len(CHATS) + 1), [3, 0, 4, 1]
    texts = responses(policy, 0)
    for step, begin in enumerate([0, 3, 1, 5, 4]):  # prefixes grow and shrink, tokens change inside and after them
        for text in texts:
            text[min(2 * step, len(text) - 2)] = 17 + step
        sequences = [
            make_sequence(policy, reward, chat, text[:begin], text[begin:])
            for chat, text in zip(CHATS, texts, strict=True)
        ]
        fresh = gradient_passes.evaluate(policy, reward, sequences, **WEIGHTS)
        keep = step != 2
        cached = gradient_passes.evaluate(policy, reward, sequences, caches=caches, slots=slots, keep=keep, **WEIGHTS)
        assert_same(cached, fresh)
    assert all(a.cost.flops < b.cost.flops for a, b in zip(cached, fresh, strict=True))


@pytest.mark.parametrize(("kind", "reference"), REWARDS)
def test_cached_scores_equal_uncached_ones(kind, reference):
    policy, reward = toys.policy(), toys.reward(kind, reference=reference)
    prompts = [reward.prompt_ids(chat) for chat in CHATS]
    caches, slots = ModelCaches(len(CHATS)), range(len(CHATS))
    for seed in range(3):
        texts = responses(policy, 0)
        for text in texts:
            text[3 - seed :] = responses(policy, seed)[-1][3 - seed : len(text)]
        values, costs = scoring.rewards(reward, prompts, texts, caches=caches, slots=slots)
        fresh, whole = scoring.rewards(reward, prompts, texts)
        assert values == pytest.approx(fresh, abs=1e-10)
    assert all(a.flops < b.flops for a, b in zip(costs, whole, strict=True))


def tokens_by_hand(reward, prompts, texts) -> list[int]:
    """Tokens that must be read for each response if those of an equal prompt share what they can, by pairwise search.

    A likelihood reads the last shared token again: its hidden state predicts the first token that is not shared.
    """
    whole = []
    for prompt, text in zip(prompts, texts, strict=True):
        ended = text if text[-1] in reward.eos_ids else [*text, reward.eos_ids[0]]
        whole.append(prompt + ended + (reward.suffix_ids if reward.kind == "classifier" else []))
    counts = []
    for i, text in enumerate(whole):
        shared = [0]
        for j in range(i):
            if prompts[j] == prompts[i]:
                shared.append(next((n for n, (a, b) in enumerate(zip(text, whole[j], strict=False)) if a != b), None))
        again = reward.kind == "likelihood" and max(filter(None, shared), default=0) > 0
        counts.append(0 if None in shared else len(text) - max(shared) + again)
    return counts


@pytest.mark.parametrize(("kind", "reference"), REWARDS)
def test_equal_and_shared_prefixes_read_once(kind, reference):
    policy, reward = toys.policy(), toys.reward(kind, reference=reference)
    a, b, c, d = responses(policy, 0)
    texts = [a, d, a, a[:3] + b, a[:3] + b[:4] + c, d[:9] + c, d, b, a[:5], c[:1], a[:5] + policy.eos_ids[:1], b]
    prompts = [reward.prompt_ids(CHATS[i % 5 // 4]) for i in range(len(texts))]
    together, costs = scoring.rewards(reward, prompts, texts)
    alone = [scoring.rewards(reward, [p], [t])[0][0] for p, t in zip(prompts, texts, strict=True)]
    assert together == pytest.approx(alone, abs=1e-10)
    expected = tokens_by_hand(reward, prompts, texts)
    assert [spent.reward_forward_tokens for spent in costs] == expected
    assert [spent.model_calls for spent in costs] == [int(count > 0) for count in expected]
    assert 0 in expected
    few = 7  # the first responses cost the same without those after them
    assert scoring.rewards(reward, prompts[:few], texts[:few])[1] == costs[:few]
    _, apart = scoring.rewards(reward, prompts, texts, pools=range(len(texts)))
    single = [scoring.rewards(reward, [p], [t])[1][0] for p, t in zip(prompts, texts, strict=True)]
    assert apart == single


@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
def test_beginnings_of_each_other_scored_in_any_order(kind):
    policy, reward = toys.policy(), toys.reward(kind)
    text = responses(policy, 0)[-1]
    texts = [text[:n] for n in (9, 2, 12, 5, 1, 10)]
    prompts = [reward.prompt_ids(CHATS[0])] * len(texts)
    together, _ = scoring.rewards(reward, prompts, texts, close=False)
    alone = [scoring.rewards(reward, [p], [t], close=False)[0][0] for p, t in zip(prompts, texts, strict=True)]
    assert together == pytest.approx(alone, abs=1e-10)


@pytest.mark.slow
def test_samples_with_shared_cache_equal_single_samples():
    """Three rows serve eleven sequences: rows are reused and removed, and their keys copied to the store."""
    policy = toys.policy("llama")
    prompts = [policy.prompt_ids(CHATS[i % 4]) for i in range(11)]
    noise = [keyed_uniforms(0, str(i), 0, "t", 12) for i in range(11)]
    limits = [12, 3, 0, 7, 12, 1, 9, 12, 5, 12, 12]
    expected = [
        generation.sample(policy, [p], [n], Sampling(1.0), [limit])[0].token_ids
        for p, n, limit in zip(prompts, noise, limits, strict=True)
    ]
    policy.batch_limits.rows = 3
    store = PrefixCache(11)
    for storage in ({}, {"store": store, "slots": list(range(11))[::-1]}):
        rollouts = generation.sample(policy, prompts, noise, Sampling(1.0), limits, **storage, predictions=True)
        assert [r.token_ids for r in rollouts] == expected
    for i, (prompt, rollout) in enumerate(zip(prompts, rollouts, strict=True)):
        if not rollout.token_ids:
            continue
        text = prompt + rollout.token_ids
        assert store.ids[10 - i] == text[:-1]
        reading = read(policy, [text], [len(text) - 1], store, [10 - i])
        whole = policy.hidden_states(policy.embedding[torch.tensor([text])])[0]
        torch.testing.assert_close(reading.hidden[0, -1], whole[-1], rtol=0, atol=1e-10)
        predictions = rollout.predictions
        torch.testing.assert_close(predictions.hidden, whole[len(prompt) - 1 : -1], rtol=0, atol=1e-10)
        probabilities = torch.softmax(policy.logits(predictions.hidden), -1)
        torch.testing.assert_close(predictions.confidence, probabilities.amax(-1), rtol=0, atol=1e-12)
        torch.testing.assert_close(
            predictions.entropy, -(probabilities * probabilities.log()).sum(-1), rtol=0, atol=1e-9
        )


def test_cache_copy_independent_of_source():
    policy = toys.policy()
    texts = [policy.prompt_ids(chat) for chat in CHATS]
    first, second = PrefixCache(4), PrefixCache(4)
    reading = read(policy, texts, [len(t) - 1 for t in texts], first, range(4))
    first.put(range(4), texts, reading.starts, reading.cache)
    second.copy(first, [1, 3])
    before = first.layers[0][0].clone()
    changed = [texts[1][:3] + [50, 60, 70], texts[3][:4] + [80]]
    reading = read(policy, changed, [5, 4], second, [1, 3])
    assert reading.starts == [3, 4]
    second.put([1, 3], changed, reading.starts, reading.cache)
    assert torch.equal(first.layers[0][0], before)
    assert first.ids == texts
    assert second.ids == [[], changed[0], [], changed[1]]


def test_likelihood_in_chunks_equals_autograd(monkeypatch):
    policy = toys.policy()
    hidden = torch.randn(7, policy.embedding.shape[1], dtype=torch.float64, requires_grad=True)
    targets = torch.arange(7) * 3
    expected = torch.log_softmax(policy.logits(hidden), -1)[torch.arange(7), targets]
    (slope,) = torch.autograd.grad(expected.sum(), hidden)
    monkeypatch.setattr(numerics, "CHUNK", 2 * policy.vocab_size)  # chunks of two rows
    values, slopes = numerics.likelihood(policy, hidden.detach(), targets, gradient=True)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(slopes, slope, rtol=0, atol=1e-12)


def test_half_precision_products_computed_in_float32(monkeypatch):
    matrix = torch.randn(50, 8).bfloat16()
    monkeypatch.setattr(numerics, "CPU_SLICE", 3 * 8)
    rows = torch.randn(4, 8)
    torch.testing.assert_close(numerics.project_to_vocab(rows, matrix), rows @ matrix.float().T)
    rows = torch.randn(4, 50)
    torch.testing.assert_close(numerics.project_to_hidden(rows, matrix), rows @ matrix.float())
