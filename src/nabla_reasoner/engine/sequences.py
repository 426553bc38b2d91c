"""Token sequences, and the key-value caches of policy, reward model and reference model."""

from collections.abc import Sequence
from typing import NamedTuple

from ..models.language_models import Policy, RewardModel
from .branch_cache import BranchCache
from .kv_cache import PrefixCache, TokenCache

FILL = 8  # so many unread tokens ahead of a rollout are worth a pass of their own, without gradients


class TokenSequence(NamedTuple):
    """A prompt with a response whose tail is being optimised.

    Attributes:
        policy_prompt, reward_prompt: the chat prompt as each model's own template writes it.
        prefix: committed response tokens.
        rollout: the rest of the response, its end-of-turn token included when it has one; at least one token.
    """

    policy_prompt: list[int]
    reward_prompt: list[int]
    prefix: list[int]
    rollout: list[int]


class ModelCaches:
    """What each model has read, one slot per problem (or branch), the same slots for all models.

    Attributes:
        policy, scorer, reference: of the policy, the reward model and the reward's reference model.
    """

    def __init__(self, slots: int):
        self.policy: TokenCache = PrefixCache(slots)
        self.scorer: TokenCache = PrefixCache(slots)
        self.reference: TokenCache = PrefixCache(slots)

    @classmethod
    def branching(cls) -> "ModelCaches":
        """Caches for a search tree: any number of slots, which share what they have in common."""
        caches = cls(0)
        caches.policy, caches.scorer, caches.reference = BranchCache(), BranchCache(), BranchCache()
        return caches

    def copy(self, other: "ModelCaches", slots: Sequence[int]) -> None:
        """Take over what another object's slots hold."""
        self.policy.copy(other.policy, slots)
        self.scorer.copy(other.scorer, slots)
        self.reference.copy(other.reference, slots)


def likelihood_models(reward: RewardModel, caches: ModelCaches | None) -> list[tuple[Policy, float, TokenCache | None]]:
    """The language models of a likelihood reward, each with its sign in the reward and its cache."""
    both = (
        (reward.strong, 1.0, caches and caches.scorer),
        (reward.reference, -1.0, caches and caches.reference),
    )
    return [judge for judge in both if judge[0] is not None]


def with_end_token(sequence: TokenSequence, reward: RewardModel) -> TokenSequence:
    """The sequence as the reward model reads it: a response cut off by the length limit is closed by its end token."""
    if sequence.rollout[-1] in reward.eos_ids:
        return sequence
    return sequence._replace(rollout=[*sequence.rollout, reward.eos_ids[0]])
