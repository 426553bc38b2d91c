import warnings

import pytest
import torch
import toys

from nabla_reasoner.decoding.nabla_reasoner import NablaReasoner
from nabla_reasoner.dto import gradient_passes
from nabla_reasoner.engine import batching, generation
from nabla_reasoner.types import Problem


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching.BatchLimit, "tokens", 16_384)
    monkeypatch.setattr(batching.BatchLimit, "rows", 512)


def small_memory(function, largest: int, seen: list[int]):
    """`function` of a batch, on a machine whose memory holds `largest` sequences."""

    def limited(first, batch, *rest, **named):
        rows = batch if isinstance(batch, list) else first
        seen.append(len(rows))
        if len(rows) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return function(first, batch, *rest, **named)

    return limited


def test_batches_hold_every_sequence_once_and_keep_to_the_limit():
    lengths = [5, 900, 17, 3, 3000, 40, 40] * 20
    cut = batching.by_tokens(lengths)
    assert sorted(i for batch in cut for i in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[i] for i in batch) <= batching.BatchLimit.tokens for batch in cut)


def test_out_of_memory_halves_the_batch_says_so_once_and_loses_nothing():
    seen = []

    def function(chosen: list[int]) -> list[int]:
        seen.append(len(chosen))
        if len(chosen) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [10 * i for i in chosen]

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")  # as in a run: a repeated warning is shown once
        assert batching.run(function, [7] * 16) == [10 * i for i in range(16)]
    assert [str(w.message) for w in said] == ["out of memory: the batch is halved from here on; nothing is lost."]
    seen.clear()
    batching.run(function, [7] * 16)
    assert max(seen) <= 3  # what did not fit is not tried again


def test_the_cpus_allocator_counts_as_out_of_memory_and_other_errors_do_not():
    with pytest.warns(UserWarning, match="halved"):
        assert batching.attempt(lambda: torch.empty(2**60), 2) is None
    with pytest.raises(RuntimeError, match="shape"):
        batching.attempt(lambda: torch.zeros(2) @ torch.zeros(3, 3) + torch.zeros(5).reshape(2, 2), 2)


def test_a_single_sequence_that_does_not_fit_is_an_error():
    with pytest.warns(UserWarning, match="halved"), pytest.raises(RuntimeError, match="allocate"):
        batching.run(lambda chosen: [torch.empty(2**60)], [3, 3])


@pytest.mark.slow
def test_a_run_short_of_memory_gives_the_same_answers(monkeypatch: pytest.MonkeyPatch):
    problems = [Problem(f"toy/{i}", f"What is {i} + {i}?", "1", "toy") for i in range(9)]
    policy, reward = toys.policy(), toys.reward()
    method = NablaReasoner(
        max_new_tokens=8, num_iterations=3, step_size=0.3, grad_threshold=0.0, resample_temperature=1.0
    )
    expected = [(s.token_ids, s.search["revisions"]) for s in method.solve(problems, policy, reward)]
    gradients, steps = [], []
    monkeypatch.setattr(gradient_passes, "_likelihood", small_memory(gradient_passes._likelihood, 2, gradients))
    step = generation._Decoder.step

    def limited(self, drawn):
        steps.append(len(self.rows))
        if len(self.rows) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(self, drawn)

    monkeypatch.setattr(generation._Decoder, "step", limited)
    with pytest.warns(UserWarning, match="halved"):
        short = method.solve(problems, policy, reward)
    assert max(gradients) > 2
    assert max(steps) > 4
    assert [s.token_ids for s in short] == [tokens for tokens, _ in expected]
    for one, (_, revisions) in zip(short, expected, strict=True):
        assert [r["accepted"] for r in one.search["revisions"]] == [r["accepted"] for r in revisions]
