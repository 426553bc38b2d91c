"""Explaining noise, moves of equal KL, and the parts of the gradient, in both engines."""

import numpy as np
import pytest
import scipy.stats
import torch
import toys

from nabla_reasoner.dto import equal_kl_moves, gradient_passes, gradients, objective, optimizer, straight_through
from nabla_reasoner.dto.reward_forms import TERMS
from nabla_reasoner.dto.settings import UPDATES
from nabla_reasoner.engine.sampling import Sampling, draw

CASES = {
    "prompts": [toys.chat("What is 12 + 34?"), toys.chat("Add 5 and 6, then take 7."), toys.chat("6")],
    "prefix_ids": [[], [9, 12], [8]],
    "rollout_ids": [[20, 31, 25, 40, 1], [50, 60, 11], [44, 1]],
}
LOGITS = torch.tensor([0.3, -1.0, 1.2, 0.0, 0.9], dtype=torch.float64)
OTHER = torch.tensor([1.0, 0.2, -0.5, 0.4, 0.8], dtype=torch.float64)
DRAWS, TEMPERATURE = 20_000, 0.7


def tokens_and_noise(top_p: float = 1.0):
    """Tokens sampled from LOGITS as rollouts are, and the noise that explains them."""
    generator = np.random.default_rng(0)
    rows = LOGITS.expand(DRAWS, -1)
    tokens = draw(rows, torch.tensor(generator.random(DRAWS)), Sampling(TEMPERATURE, top_p))
    noise = straight_through.explaining_noise(rows, tokens, generator.random((DRAWS, 5)), TEMPERATURE)
    return tokens, noise


def test_sampled_token_is_argmax_with_noise():
    for top_p in (1.0, 0.6):
        tokens, noise = tokens_and_noise(top_p)
        assert torch.equal((LOGITS + noise).argmax(-1), tokens)


def test_explaining_noise_is_gumbel_noise_over_tokens():
    """Averaged over sampled tokens the noise is plain Gumbel noise: with other logits its argmax follows their softmax.

    A test fails by chance with probability 0.001 (the draws are fixed).
    """
    _, noise = tokens_and_noise()
    for column in (noise / TEMPERATURE).T:
        assert scipy.stats.kstest(column, scipy.stats.gumbel_r.cdf).pvalue > 0.001
    counts = torch.bincount((OTHER + noise).argmax(-1), minlength=5)
    expected = DRAWS * torch.softmax(OTHER / TEMPERATURE, -1)
    assert scipy.stats.chisquare(counts, expected).pvalue > 0.001


def run(**settings):
    policy, reward = toys.policy(), toys.reward(settings.pop("kind", "likelihood"))
    generator = np.random.default_rng(3)
    uniforms = [generator.random((len(ids), policy.vocab_size)) for ids in CASES["rollout_ids"]]
    settings = {"num_iterations": 8, "step_size": 0.6, "reward_weight": 0.7, "nll_weight": 0.3, **settings}
    return optimizer.optimize(policy, reward, **CASES, draw_temperature=TEMPERATURE, uniforms=uniforms, **settings)


def assert_same(fast, plain):
    for actual, expected in zip(fast, plain, strict=True):
        torch.testing.assert_close(actual.logits, expected.logits, rtol=0, atol=1e-9)
        assert actual.token_ids == expected.token_ids
        assert actual.objective == pytest.approx(expected.objective, abs=1e-9)
        assert actual.gradient_evaluations <= expected.gradient_evaluations


@pytest.mark.slow
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("parameter", ["logits", "latents"])
def test_engines_agree_on_gumbel_flips(parameter, update):
    settings = {"flip": "gumbel", "parameter": parameter, "update": update}
    fast = run(**settings)
    assert_same(fast, run(**settings, engine="reference"))
    other = run(**{**settings, "flip": "argmax"})
    if update == "all":
        assert [r.token_ids for r in fast] != [r.token_ids for r in other], "the two definitions must differ here"


def test_tiny_steps_cause_no_gumbel_flip():
    for result, start in zip(run(flip="gumbel", update="all", step_size=1e-9), CASES["rollout_ids"], strict=True):
        assert result.token_ids == start
        assert result.gradient_evaluations == 1


def test_gumbel_flip_without_uniforms_raises():
    with pytest.raises(ValueError, match="uniforms"):
        optimizer.optimize(toys.policy(), toys.reward(), **CASES, flip="gumbel")


PARTS = [(name,) for name in TERMS] + [("prefix", "reward_prefix", "reward_postfix"), ("prefix", "postfix")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
@pytest.mark.parametrize("terms", PARTS, ids="+".join)
def test_selected_terms_equal_autograd_and_decomposition(terms, kind):
    """`evaluate` against autograd with detached inputs, and against `objective.gradient_terms`."""
    policy, reward = toys.policy(), toys.reward(kind)
    weights = {"reward_weight": 0.7, "nll_weight": 0.3}
    decomposed = objective.gradient_terms(policy, reward, **CASES, **weights)
    for number, parts in enumerate(decomposed):
        sequence = objective.make_sequence(policy, reward, *(values[number] for values in CASES.values()))
        (partial,) = gradient_passes.evaluate(policy, reward, [sequence], **weights, terms=terms)
        (whole,) = gradient_passes.evaluate(policy, reward, [sequence], **weights)
        rows = gradients.onehot_gradient([partial], [range(len(sequence.rollout))])
        leaf = torch.nn.functional.one_hot(torch.tensor(sequence.rollout), policy.vocab_size).double().requires_grad_()
        loss = objective.relaxed_objective(policy, reward, sequence, leaf, **weights, terms=terms)
        (plain,) = torch.autograd.grad(loss + 0 * leaf.sum(), leaf)
        torch.testing.assert_close(rows, plain, rtol=0, atol=1e-10)
        assert partial.loss == pytest.approx(whole.loss, abs=1e-12)
        assert partial.from_position(1).loss == pytest.approx(whole.from_position(1).loss, abs=1e-12)
        known = sum(getattr(parts, name) for name in ("prefix", "postfix") if name in terms)
        if {"reward_prefix", "reward_postfix"} <= set(terms):
            known = known + parts.reward
        if not any(name.startswith("reward") for name in terms) or len(terms) == 3:
            torch.testing.assert_close(rows, known, rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
def test_engines_agree_without_some_terms(kind):
    settings = {"kind": kind, "update": "all", "terms": ("prefix", "reward_postfix")}
    fast = run(**settings)
    assert_same(fast, run(**settings, engine="reference"))
    whole = run(kind=kind, update="all")
    assert any((a.logits - b.logits).abs().max() > 1e-3 for a, b in zip(fast, whole, strict=True))


def test_move_along_direction_reaches_target_kl():
    generator = torch.Generator().manual_seed(0)
    first = 3 * torch.randn(6, 40, generator=generator, dtype=torch.float64)
    direction = torch.randn(6, 40, generator=generator, dtype=torch.float64)
    target = torch.tensor([0.0, 1e-4, 0.02, 0.1, 0.2, 0.3], dtype=torch.float64)
    for along in (first, direction):
        moved = equal_kl_moves.equal_kl(first, along, target)
        torch.testing.assert_close(equal_kl_moves.divergence(moved, first), target, rtol=1e-6, atol=1e-9)
    sharpened = equal_kl_moves.equal_kl(first, first, target)
    scale = sharpened / first
    torch.testing.assert_close(scale, scale[:, :1].expand_as(scale))
    assert (scale[1:] > 1).all()


def test_target_above_largest_kl_gives_one_hot_row():
    first = torch.tensor([[2.0, 0.0, 1.0]])
    moved = equal_kl_moves.equal_kl(first, first, torch.tensor([5.0]))
    torch.testing.assert_close(torch.softmax(moved, -1), torch.tensor([[1.0, 0.0, 0.0]]))


def test_replacing_moves_reach_kl_of_dto():
    first, optimised = torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[0.8, 0.9, 0.0]])
    uniforms = np.random.default_rng(1).random((1, 3))
    assert equal_kl_moves.apply_move("gradient", first, optimised, None) is optimised
    for move in ("sharpen", "random"):
        moved = equal_kl_moves.apply_move(move, first, optimised, uniforms)
        reached = equal_kl_moves.divergence(moved.double(), first.double())
        wanted = equal_kl_moves.divergence(optimised.double(), first.double())
        torch.testing.assert_close(reached, wanted, rtol=1e-3, atol=1e-6)
        assert not torch.allclose(moved, optimised)
