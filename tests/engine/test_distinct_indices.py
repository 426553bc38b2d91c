"""Assignments to the caches in deterministic mode, in which cells run."""

import pytest
import test_cached_forward as cached
import torch
import toys
from torch.utils._python_dispatch import TorchDispatchMode

from nabla_reasoner.dto import gradient_passes
from nabla_reasoner.dto.objective import make_sequence
from nabla_reasoner.engine import generation
from nabla_reasoner.engine.branch_cache import BranchCache
from nabla_reasoner.engine.kv_cache import PrefixCache, distinct_indices
from nabla_reasoner.engine.sampling import Sampling, keyed_uniforms
from nabla_reasoner.engine.sequences import ModelCaches

ASSIGNMENT = torch.ops.aten.index_put_.default


class Assignments(TorchDispatchMode):
    """Whether PyTorch was in deterministic mode, for each assignment by index to a floating-point tensor."""

    def __init__(self):
        super().__init__()
        self.deterministic = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is ASSIGNMENT and args[0].ndim > 1:
            self.deterministic.append(torch.are_deterministic_algorithms_enabled())
        return operation(*args, **(kwargs or {}))


@pytest.fixture(params=[True, False])
def warn_only(request):
    torch.use_deterministic_algorithms(True, warn_only=request.param)
    yield request.param
    torch.use_deterministic_algorithms(False)


def test_mode_is_restored_after_errors_too(warn_only):
    def fail():
        with distinct_indices():
            assert not torch.are_deterministic_algorithms_enabled()
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled() == warn_only


@pytest.mark.parametrize("make_cache", [PrefixCache, lambda slots: BranchCache()])
def test_decoding_assigns_by_the_plain_kernel(warn_only, make_cache):
    policy = toys.policy()
    prompts = [policy.prompt_ids(chat) for chat in cached.CHATS]
    noise = [keyed_uniforms(0, f"p{i}", 0, "rollout", 6) for i in range(len(prompts))]
    store, count = make_cache(len(prompts)), len(prompts)
    with Assignments() as assignments:
        generation.sample(
            policy, prompts, noise, Sampling(1.0), [6] * count, store=store, slots=list(range(count)), output_slots=None
        )
    layers = policy.model.config.num_hidden_layers
    assert len(assignments.deterministic) >= 2 * layers * 5  # keys and values at each step after the first
    assert not any(assignments.deterministic)


def test_gradient_passes_assign_by_the_plain_kernel(warn_only):
    policy, reward = toys.policy(), toys.reward("likelihood", "llama")
    texts = cached.responses(policy, 0)
    sequences = [make_sequence(policy, reward, c, [], t) for c, t in zip(cached.CHATS, texts, strict=True)]
    caches = ModelCaches(len(texts))
    with Assignments() as assignments:
        gradient_passes.evaluate(
            policy, reward, sequences, caches=caches, slots=list(range(len(texts))), keep=True, **cached.WEIGHTS
        )
        ModelCaches(len(texts)).copy(caches, [0, 2])
    assert assignments.deterministic
    assert not any(assignments.deterministic)
