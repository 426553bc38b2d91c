import numpy as np
import pytest
import small_models
import torch
import toys
from scipy import stats

from nabla_reasoner.engine import generation
from nabla_reasoner.engine import sampling as sampling_module
from nabla_reasoner.engine.sampling import Sampling, draw, filtered_probabilities, keyed_uniforms
from nabla_reasoner.models.language_models import Policy

LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 64,
    "rope_theta": 10000.0,
}
TEXTS = ["What is 12 + 34?", "6", "Add 5 and 6, then take 7.", "6"]


def prompts(policy):
    return [policy.prompt_ids(toys.chat(text)) for text in TEXTS]


def noise(count, length=12):
    return [keyed_uniforms(0, f"p{i}", 0, "rollout 0", length) for i in range(count)]


def test_greedy_equals_hugging_face_generate():
    policy = toys.policy("llama")
    rollouts = generation.sample(policy, prompts(policy), noise(4), Sampling(0.0), [12] * 4)
    for prompt, rollout in zip(prompts(policy), rollouts, strict=True):
        ids = policy.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=12
        )
        assert rollout.token_ids == ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_samples_are_independent_of_batch_padding_and_order(architecture):
    policy, sampling = toys.policy(architecture), Sampling(1.0, 0.9, 50)
    together = generation.sample(policy, prompts(policy), noise(4), sampling, [12, 5, 8, 12])
    limits = [12, 5, 8, 12]
    alone = [
        generation.sample(policy, [prompt], [numbers], sampling, [limit])[0]
        for prompt, numbers, limit in zip(prompts(policy), noise(4), limits, strict=True)
    ]
    assert [r[:2] for r in together] == [r[:2] for r in alone]


def test_tokens_invert_uncached_cumulative_distribution():
    policy = toys.policy()
    rollouts = generation.sample(policy, prompts(policy), noise(4), Sampling(0.8), [6] * 4)
    for prompt, rollout, numbers in zip(prompts(policy), rollouts, noise(4), strict=True):
        for step, token in enumerate(rollout.token_ids):
            logits = policy.model(input_ids=torch.tensor([prompt + rollout.token_ids[:step]])).logits[0, -1]
            cumulative = torch.softmax(logits / 0.8, -1).cumsum(-1)
            assert token == int((cumulative <= numbers[step]).sum())


def test_continuations_stop_at_limits_and_end_tokens():
    policy = toys.policy()
    rollouts = generation.sample(policy, prompts(policy), noise(4), Sampling(1.0), [0, 1, 3, 12])
    assert [len(r.token_ids) <= limit for r, limit in zip(rollouts, [0, 1, 3, 12], strict=True)] == [True] * 4
    assert rollouts[0] == generation.Rollout([], False)
    for rollout in rollouts:
        ends = [token in policy.eos_ids for token in rollout.token_ids]
        assert rollout.finished == (ends[-1:] == [True])
        assert not any(ends[:-1])


def test_stop_token_ends_but_does_not_finish_response():
    policy = toys.policy()
    whole = generation.sample(policy, prompts(policy), noise(4), Sampling(1.0), [12] * 4)
    assert [len(rollout.token_ids) for rollout in whole] != [1] * 4
    stops = [[rollout.token_ids[2]] if i % 2 else policy.eos_ids for i, rollout in enumerate(whole)]
    cut = generation.sample(policy, prompts(policy), noise(4), Sampling(1.0), [12] * 4, stops=stops)
    for i, (short, full) in enumerate(zip(cut, whole, strict=True)):
        end = full.token_ids.index(stops[i][0]) + 1 if i % 2 else len(full.token_ids)
        assert short.token_ids == full.token_ids[:end]
        assert short.finished == (full.finished and end == len(full.token_ids))
    assert cut[1].token_ids != whole[1].token_ids


@pytest.mark.parametrize("sampling", [Sampling(0.6, 0.95, 20), Sampling(1.0, 1.0, 1), Sampling(0.7, 0.5, 299)])
def test_draws_among_top_k_equal_draws_from_the_whole_row(sampling):
    """All entries tied at the k-th place count, as in the whole row; rounded and bfloat16 logits have many."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, 300, generator=generator)
    uniform = torch.rand(500, dtype=torch.float64, generator=generator)
    for rows in (logits, logits.round(), logits.bfloat16()):
        cumulative = filtered_probabilities(rows.double(), sampling).cumsum(-1)
        expected = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
        assert torch.equal(draw(rows, uniform, sampling), expected)


def test_draws_from_tied_rows_do_not_sort_the_vocabulary(monkeypatch):
    """The entries kept are those at least as large as the k-th, a few dozen of 5,000."""
    widths = []

    def noted(logits, sampling):
        widths.append(logits.shape[-1])
        return filtered_probabilities(logits, sampling)

    monkeypatch.setattr(sampling_module, "filtered_probabilities", noted)
    logits = (3 * torch.randn(50, 5000, generator=torch.Generator().manual_seed(0))).bfloat16()
    draw(logits, torch.full((50,), 0.5, dtype=torch.float64), Sampling(0.6, 0.95, 20))
    kept = (logits >= logits.topk(20).values[:, -1:]).sum(-1).max()
    assert widths == [kept]
    assert 20 < kept < 40


def test_draws_follow_the_distribution():
    """Chi-square test over 20,000 draws; it fails by chance with probability 1e-4."""
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0, 0.5], dtype=torch.float64)
    uniform = torch.from_numpy(keyed_uniforms(3, "p", 0, "s", 20_000))
    tokens = draw(logits.expand(20_000, -1), uniform, Sampling(0.7))
    expected = torch.softmax(logits / 0.7, -1).numpy() * 20_000
    assert stats.chisquare(np.bincount(tokens, minlength=5), expected).pvalue > 1e-4


def test_nucleus_and_top_k_give_expected_probabilities():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64))
    probabilities = filtered_probabilities(logits, Sampling(1.0, top_p=0.75))
    torch.testing.assert_close(probabilities, torch.tensor([[0.625, 0.375, 0.0, 0.0]], dtype=torch.float64))
    probabilities = filtered_probabilities(logits, Sampling(1.0, top_k=3))
    torch.testing.assert_close(probabilities * 0.95, torch.tensor([[0.5, 0.3, 0.15, 0.0]], dtype=torch.float64))
    alone = filtered_probabilities(logits, Sampling(1.0, top_p=1e-9))
    torch.testing.assert_close(alone, torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64))


def test_uniform_streams_differ_by_key_and_extend():
    base = keyed_uniforms(0, "a", 0, "s", 5)
    assert (keyed_uniforms(0, "a", 0, "s", 9)[:5] == base).all()
    for other in [(1, "a", 0, "s"), (0, "b", 0, "s"), (0, "a", 1, "s"), (0, "a", 0, "t")]:
        assert not np.isin(keyed_uniforms(*other, 5), base).any()


@pytest.mark.parametrize(
    ("sampling", "message"),
    [(Sampling(-0.1), "temperature.*-0.1"), (Sampling(1.0, 0.0), "top_p.*0"), (Sampling(1.0, 1.0, -1), "top_k.*-1")],
)
def test_sampling_out_of_range_rejected(sampling, message):
    with pytest.raises(ValueError, match=message):
        sampling.check()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("gpt2", {"n_positions": 64}),  # learned positions: one beyond the context is an error
        ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64, "max_position_embeddings": 128}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}}),
    ],
)
def test_row_that_ended_at_the_context_limit_leaves_the_others_alone(architecture, settings):
    """An ended row that grew on would pass the context, which changes the rotation of the whole batch, or fails."""
    policy = Policy.from_pretrained(
        str(small_models.folder(architecture, **{"max_position_embeddings": 64, **settings}))
    )
    assert policy.context == 64
    policy.eos_ids = [10**6]  # no sequence ends early
    generator = np.random.default_rng(0)
    lengths, limits = [60, *[4] * 7], [4, *[40] * 7]
    prefixes = [generator.integers(5, 250, length).tolist() for length in lengths]
    together = generation.sample(policy, prefixes, noise(8, 40), Sampling(0.0), limits)
    for prefix, limit, rollout in zip(prefixes, limits, together, strict=True):
        (alone,) = generation.sample(policy, [prefix], noise(1, 40), Sampling(0.0), [limit])
        assert rollout.token_ids == alone.token_ids
