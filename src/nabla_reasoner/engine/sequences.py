"""Token sequences, and the key-value caches of policy, reward model and reference model."""

from collections.abc import Sequence
from typing import NamedTuple

from ..models.language_models import Policy, RewardModel
from .branch_cache import BranchCache
from .kv_cache import PrefixCache, TokenCache


class TokenSequence(NamedTuple):
    """A prompt with a response whose tail is being optimised.

    Attributes:
        policy_prompt, reward_prompt: the chat prompt by each model's own template.
        prefix: committed response tokens.
        rollout: the rest of the response, at least one token; includes the end-of-turn token if there is one.
    """

    policy_prompt: list[int]
    reward_prompt: list[int]
    prefix: list[int]
    rollout: list[int]


class ModelCaches:
    """Caches of the policy, the reward model (`scorer`) and the reward's reference model.

    Slots are numbered alike in all three, one per problem or branch.
    """

    def __init__(self, slots: int):
        self.policy: TokenCache = PrefixCache(slots)
        self.scorer: TokenCache = PrefixCache(slots)
        self.reference: TokenCache = PrefixCache(slots)

    @classmethod
    def branching(cls) -> "ModelCaches":
        """Return caches for a search tree, with any number of slots that share common prefixes."""
        caches = cls(0)
        caches.policy = BranchCache()
        caches.scorer = BranchCache()
        caches.reference = BranchCache()
        return caches

    @property
    def all(self) -> list[TokenCache]:
        """All caches, the policy's first."""
        return [self.policy, self.scorer, self.reference]

    def copy(self, other: "ModelCaches", slots: Sequence[int]) -> None:
        """Copy slots of other caches into the same slots here."""
        for target, source in zip(self.all, other.all, strict=True):
            target.copy(source, slots)


def likelihood_models(reward: RewardModel, caches: ModelCaches | None) -> list[tuple[Policy, float, TokenCache | None]]:
    """Return the language models of a likelihood reward, each with its sign in the reward and its cache."""
    models = (
        (reward.strong, 1.0, caches and caches.scorer),
        (reward.reference, -1.0, caches and caches.reference),
    )
    return [entry for entry in models if entry[0] is not None]


def with_end_token(sequence: TokenSequence, reward: RewardModel) -> TokenSequence:
    """Return the sequence as the reward model reads it: its end token in place of the policy's, or appended."""
    sequence = as_read(sequence, reward)
    return sequence._replace(rollout=end_response(sequence.rollout, reward))


def as_read(sequence: TokenSequence, reward: RewardModel) -> TokenSequence:
    """Return the sequence with the reward model's end token in place of the policy's.

    A descent may put a policy's end token in the middle of its rollout.
    """
    return sequence._replace(rollout=[token_as_read(token, reward) for token in sequence.rollout])


def token_as_read(token: int, reward: RewardModel) -> int:
    """Return the token, or the reward model's end token for one of the policy's."""
    return reward.eos_ids[0] if token in reward.replaced_ends else token


def replaced_columns(reward: RewardModel, vocab_size: int) -> tuple[list[int], int] | None:
    """Return the end tokens below `vocab_size` that the reward model reads as its own end token, and that token.

    Returns:
        None if there are none: the usual case, where policy and reward model end a turn alike.
    """
    ids, end = sorted(i for i in reward.replaced_ends if 0 <= i < vocab_size), reward.eos_ids[0]
    return (ids, end) if ids and end < vocab_size else None


def end_response(response: list[int], reward: RewardModel) -> list[int]:
    """Return the response as the reward model's chat template ends it.

    A policy's own end token is replaced by the reward model's; a response that was cut off gets it appended.
    """
    if response[-1] in reward.replaced_ends:
        return [*response[:-1], reward.eos_ids[0]]
    return response if response[-1] in reward.eos_ids else [*response, reward.eos_ids[0]]
