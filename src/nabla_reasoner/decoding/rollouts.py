"""Rollouts of the batched loop, each whole or in parts that pause at uncertain tokens."""

from collections.abc import Sequence

import torch

from .. import cost
from ..engine.continuous_batching import TokenPredictions
from ..engine.generation import Rollout
from ..engine.sequences import ModelCaches
from ..engine.trajectory import shared_seconds
from ..models.language_models import Policy
from ..serving.rollouts import check_local, rollouts_of
from .observer import DecodingObserver
from .pauses import PART
from .selection import passes_first_gate, uncertain
from .settings import NablaSettings
from .state import DecodingState, is_open


class RolloutSampler:
    """Sampler of rollouts for a batch of problems.

    Args:
        caches: keys and values of the current responses.
        observer: listener that is told of every rollout.

    Raises:
        ValueError: rollouts that pause, of a policy for which a server samples.
    """

    def __init__(self, settings: NablaSettings, policy: Policy, caches: ModelCaches, observer: DecodingObserver):
        if settings.pauses:
            check_local(policy, "pauses its rollouts")
        self.settings = settings
        self.policy = policy
        self.caches = caches
        self.observer = observer

    def roll_out(
        self, states: Sequence[DecodingState], prefixes: Sequence[list[int]], caches: ModelCaches
    ) -> list[Rollout]:
        """Sample one rollout per problem after the prefix of its response; after an end token nothing is sampled.

        Where rollouts pause, one that follows a revision begins with the next call of `reach_uncertain` or `complete`,
        together with those that go on.
        """
        for state, prefix in zip(states, prefixes, strict=True):
            state.rollout_start = len(prefix)
            state.rollouts += 1
        if self.settings.pauses and any(prefixes):
            rollouts = [Rollout([], False) for _ in states]
        else:
            rollouts = self._sample(states, prefixes, caches, pause=self.settings.pauses)
        for state, prefix, rollout in zip(states, prefixes, rollouts, strict=True):
            self.observer.on_rollout(state, prefix, rollout)
        return rollouts

    def reach_uncertain(self, states: Sequence[DecodingState]) -> None:
        """Continue the open responses without an uncertain token from the cursor on: to the next one, or by `PART`."""
        self._go_on([state for state in states if not state.has_uncertain], pause=True)

    def may_reach_uncertain(self, state: DecodingState) -> bool:
        """Return whether a response may have an uncertain token from the cursor on that is not decoded yet."""
        return self.settings.pauses and not state.has_uncertain and self._is_open(state)

    def complete(self, states: Sequence[DecodingState]) -> None:
        """Continue the open responses to their ends."""
        self._go_on(states, pause=False)

    def _go_on(self, states: Sequence[DecodingState], *, pause: bool) -> None:
        states = [state for state in states if self._is_open(state)]
        if not states:
            return
        with shared_seconds([state.trajectory for state in states]):
            rollouts = self._sample(states, [state.tokens for state in states], self.caches, pause=pause)
        for state, rollout in zip(states, rollouts, strict=True):
            state.tokens = state.tokens + rollout.token_ids
            parts = zip(state.predictions, rollout.predictions, strict=True)
            set_predictions(state, TokenPredictions(*map(torch.cat, parts)), self.settings)

    def _is_open(self, state: DecodingState) -> bool:
        return is_open(state, self.policy, self.settings.max_new_tokens)

    def _sample(
        self, states: Sequence[DecodingState], prefixes: Sequence[list[int]], caches: ModelCaches, *, pause: bool
    ) -> list[Rollout]:
        """Continue the current rollout of each problem after a prefix of its response, and charge the cost.

        A token has the same uniform number wherever its rollout paused.
        """
        limit = self.settings.max_new_tokens
        part = PART if pause else limit
        ended = [prefix and prefix[-1] in self.policy.eos_ids for prefix in prefixes]
        options = {"stop": lambda predictions: passes_first_gate(predictions, self.settings)} if pause else {}
        rollouts = rollouts_of(self.policy)(
            self.policy,
            [state.policy_prompt + prefix for state, prefix in zip(states, prefixes, strict=True)],
            [
                state.uniforms(f"rollout {state.rollouts - 1}", limit)[len(prefix) - state.rollout_start :]
                for state, prefix in zip(states, prefixes, strict=True)
            ],
            self.settings.rollout,
            [0 if end else min(limit - len(prefix), part) for end, prefix in zip(ended, prefixes, strict=True)],
            store=caches.policy,
            slots=[state.slot for state in states],
            predictions=True,
            **options,
        )
        for state, rollout in zip(states, rollouts, strict=True):
            if rollout.token_ids:
                state.trajectory.charge(cost.prefill(self.policy.size, rollout.prefilled))
                state.trajectory.charge(cost.decoding(self.policy.size, rollout.decoded))
            if rollout.reread:
                state.trajectory.charge(cost.policy_forward(self.policy.size, rollout.reread))
        return rollouts


def set_predictions(state: DecodingState, predictions: TokenPredictions, settings: NablaSettings) -> None:
    """Set the policy's predictions along the current response, and the positions that pass the first gate."""
    state.predictions = predictions
    state.uncertain = uncertain(predictions, settings)
