import warnings

import pytest
import torch
import toys

from nabla_reasoner.baselines.discrete_langevin import DiscreteLangevin
from nabla_reasoner.cost import Cost
from nabla_reasoner.decoding.nabla_reasoner import NablaReasoner
from nabla_reasoner.dto import likelihood_passes
from nabla_reasoner.engine import batching, continuous_batching
from nabla_reasoner.engine.prefix_rewards import PrefixRequest, candidate_prefix_rewards
from nabla_reasoner.engine.sequences import ModelCaches
from nabla_reasoner.models.language_models import BatchLimits
from nabla_reasoner.types import Problem


def small_memory(function, largest: int, sizes: list[int]):
    """Wrap `function` of a batch as if only `largest` sequences fitted in memory; append batch sizes to `sizes`."""

    def limited(first, batch, *rest, **named):
        rows = batch if isinstance(batch, list) else first
        sizes.append(len(rows))
        if len(rows) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return function(first, batch, *rest, **named)

    return limited


def test_batches_hold_each_sequence_once_within_limit():
    lengths = [5, 900, 17, 3, 3000, 40, 40] * 20
    batches = batching.by_tokens(lengths, 16_384)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 16_384 for batch in batches)


@pytest.mark.slow
def test_out_of_memory_halves_batches_and_warns_once():
    sizes, limits = [], BatchLimits()

    def function(indices: list[int]) -> list[int]:
        sizes.append(len(indices))
        if len(indices) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [10 * i for i in indices]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # as in a run: a repeated warning is shown once
        assert batching.run(function, [7] * 16, limits) == [10 * i for i in range(16)]
    assert [str(w.message) for w in caught] == ["out of memory: batches are halved from here on; no result is lost."]
    sizes.clear()
    batching.run(function, [7] * 16, limits)
    assert max(sizes) <= 3  # a size that did not fit is not tried again


def test_limits_lowered_by_one_model_leave_others_unchanged():
    policy, other = toys.policy(), toys.policy()
    with pytest.warns(UserWarning, match="halved"), pytest.raises(RuntimeError, match="allocate"):
        batching.run(lambda indices: [torch.empty(2**60)], [3, 3], policy.batch_limits)
    assert policy.batch_limits.tokens == 3
    assert other.batch_limits == BatchLimits()


def test_only_allocator_errors_count_as_out_of_memory():
    with pytest.warns(UserWarning, match="halved"):
        assert batching.attempt(lambda: torch.empty(2**60), 2) is None
    with pytest.raises(RuntimeError, match="shape"):
        batching.attempt(lambda: torch.zeros(2) @ torch.zeros(3, 3) + torch.zeros(5).reshape(2, 2), 2)


def test_single_sequence_too_large_raises():
    with pytest.warns(UserWarning, match="halved"), pytest.raises(RuntimeError, match="allocate"):
        batching.run(lambda indices: [torch.empty(2**60)], [3, 3], BatchLimits())


@pytest.mark.slow
def test_solve_short_of_memory_gives_same_answers(monkeypatch: pytest.MonkeyPatch):
    problems = [Problem(f"toy/{i}", f"What is {i} + {i}?", "1", "toy") for i in range(9)]
    policy, reward = toys.policy(), toys.reward()
    method = NablaReasoner(
        max_new_tokens=8, num_iterations=3, step_size=0.3, grad_threshold=0.0, resample_temperature=1.0
    )
    expected = [(s.token_ids, s.search["revisions"]) for s in method.solve(problems, policy, reward)]
    gradients, steps = [], []
    limited_pass = small_memory(likelihood_passes.log_likelihoods, 2, gradients)
    monkeypatch.setattr(likelihood_passes, "log_likelihoods", limited_pass)
    step = continuous_batching.ContinuousBatch.step

    def limited(self, tokens):
        steps.append(len(self.rows))
        if len(self.rows) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(self, tokens)

    monkeypatch.setattr(continuous_batching.ContinuousBatch, "step", limited)
    with pytest.warns(UserWarning, match="halved"):
        short = method.solve(problems, policy, reward)
    assert max(gradients) > 2
    assert max(steps) > 4
    assert [s.token_ids for s in short] == [tokens for tokens, _ in expected]
    for solution, (_, revisions) in zip(short, expected, strict=True):
        assert [r["accepted"] for r in solution.search["revisions"]] == [r["accepted"] for r in revisions]


def short_of_memory_once(model, fail_at: int):
    """Let the given forward pass of several texts, counted from 1, fail as if memory were too small."""
    module, passes = model.model.base_model, []
    plain = module.forward

    def forward(*arguments, **named):
        passes.append(named["inputs_embeds"].shape[0] > 1)
        if passes[-1] and sum(passes) == fail_at:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(*arguments, **named)

    module.forward = forward


@pytest.mark.parametrize("fail_at", [1, 2])
@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
@pytest.mark.parametrize(
    "method",
    [
        NablaReasoner(grad_threshold=0.0, max_new_tokens=6, step_size=0.3, num_iterations=3),
        DiscreteLangevin(num_steps=1, max_new_tokens=6),
    ],
    ids=["NablaReasoner", "DiscreteLangevin"],
)
def test_cost_does_not_depend_on_a_pass_that_ran_out_of_memory(method, kind, fail_at):
    problems = [Problem(f"toy/{i}", text, "1", "toy") for i, text in enumerate(toys.TEXTS[:2])]
    expected = method.solve(problems, toys.policy(), toys.reward(kind))
    reward = toys.reward(kind)
    short_of_memory_once(reward, fail_at)
    with pytest.warns(UserWarning, match="halved"):
        short = method.solve(problems, toys.policy(), reward)
    for actual, solution in zip(short, expected, strict=True):
        assert actual.token_ids == solution.token_ids
        for name in {*actual.cost._fields} - {"seconds", "peak_bytes"}:
            assert getattr(actual.cost, name) == getattr(solution.cost, name), name


@pytest.mark.parametrize("branching", [False, True])
@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
def test_prefix_read_before_memory_ran_out_is_counted(kind, branching):
    def costs(fail_at: int) -> list[Cost]:
        reward = toys.reward(kind, reference=kind == "likelihood")
        caches = ModelCaches.branching() if branching else ModelCaches(2)
        prompts = [reward.prompt_ids(toys.chat(text)) for text in toys.TEXTS[:2]]
        requests = [PrefixRequest(i, prompt, [9], [50, 60]) for i, prompt in enumerate(prompts)]
        candidate_prefix_rewards(reward, requests, caches)
        short_of_memory_once(reward.reference or reward, fail_at)
        longer = [request._replace(prefix=[9, *range(40, 52)]) for request in requests]
        return candidate_prefix_rewards(reward, longer, caches)[1]

    expected = costs(0)
    with pytest.warns(UserWarning, match="halved"):
        assert costs(2 if kind == "classifier" else 1) == expected  # after the first pass over the prefix
