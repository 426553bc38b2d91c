"""Who samples continuations: the policy itself, or a server that runs the same model.

Methods ask `rollouts_of(policy)` and do not know which of the two answers.
"""

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from ..engine import generation
from ..engine.generation import Rollout
from ..engine.kv_cache import TokenCache
from ..engine.sampling import Sampling
from ..models.language_models import Policy


@runtime_checkable
class Rollouts(Protocol):
    """A sampler of continuations: `generation.sample`, or a server (`served.ServedRollouts`)."""

    def __call__(
        self,
        policy: Policy,
        prefixes: Sequence[Sequence[int]],
        noise: Sequence[np.ndarray],
        sampling: Sampling,
        max_new_tokens: Sequence[int],
        *,
        store: TokenCache | None = None,
        slots: Sequence[int] = (),
        output_slots: Sequence[int | None] | None = None,
        stops: Sequence[Collection[int]] | None = None,
        predictions: bool = False,
    ) -> list[Rollout]:
        """Continue every prefix; arguments and result as of `generation.sample`."""
        ...


class ServedPolicy(Policy):
    """A policy whose continuations another engine samples; logits, gradients and texts are its own.

    Attributes:
        rollouts: the other engine.
    """

    def __init__(self, policy: Policy, rollouts: Rollouts):
        super().__init__(policy.model, policy.tokenizer, policy.name, eos_ids=policy.eos_ids)
        self.batch_limits = policy.batch_limits
        self.rollouts = rollouts


def rollouts_of(policy: Policy) -> Rollouts:
    """Return the sampler of a policy's continuations."""
    return policy.rollouts if isinstance(policy, ServedPolicy) else generation.sample


def check_local(policy: Policy, reason: str) -> None:
    """Raise ValueError if a server samples for this policy.

    Args:
        reason: why only the policy itself can do the work, as the rest of a sentence.
    """
    if isinstance(policy, ServedPolicy):
        raise ValueError(f"rollouts=vllm cannot serve a method that {reason}. Use rollouts=hf.")
