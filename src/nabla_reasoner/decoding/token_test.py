"""Test of a new token by the reward of the prefix that it ends (acceptance "prefix_higher"), before any rollout."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..engine.prefix_rewards import PrefixRequest, candidate_prefix_rewards
from ..engine.sequences import ModelCaches
from ..engine.trajectory import shared_seconds
from ..models.language_models import RewardModel
from .observer import DecodingObserver
from .state import DecodingState, note_proposal


class NewToken(NamedTuple):
    """A token drawn at the cursor that differs from the current one; `reward` is r(y_<l, token) if it was tested."""

    state: DecodingState
    token: int
    reward: float | None = None


@dataclass(frozen=True)
class TokenTest:
    """The test for a batch of problems.

    Attributes:
        caches: keys and values of the current responses.
        observer: listener that is told of every rejection.
    """

    reward: RewardModel
    caches: ModelCaches
    observer: DecodingObserver

    def passing(self, new_tokens: Sequence[NewToken]) -> list[NewToken]:
        """Return the tokens with r(y_<l, new) > r(y_<l, old), l the cursor; record the others as rejected."""
        if not new_tokens:
            return []
        with shared_seconds([new.state.trajectory for new in new_tokens]):
            requests = [self._request(state, token) for state, token, _ in new_tokens]
            values, costs = candidate_prefix_rewards(self.reward, requests, self.caches)
        passing = []
        for (state, token, _), (value, *old), spent in zip(new_tokens, values, costs, strict=True):
            state.trajectory.charge(spent)
            state.incumbent = old[0] if old else _known_reward(state)
            if value > state.incumbent:
                passing.append(NewToken(state, token, value))
            else:
                note_proposal(state, token, value, accepted=False)
                self.observer.on_decision(state)
        return passing

    def _request(self, state: DecodingState, token: int) -> PrefixRequest:
        """Ask for r at the new token, and at the old one unless the evaluation of ∂L/∂y has read it."""
        old = [state.tokens[state.cursor]] if _known_reward(state) is None else []
        predictors = state.gradient_at_cursor.predictors[1:] if state.gradient_is_current else []
        return PrefixRequest(
            slot=state.slot,
            prompt=state.reward_prompt,
            prefix=state.tokens[: state.cursor],
            tokens=[token, *old],
            hidden=[states[0] for states in predictors],
        )


def _known_reward(state: DecodingState) -> float | None:
    """Return r(y_≤l|x) at the cursor if the evaluation of ∂L/∂y has read it."""
    if not state.gradient_is_current or state.gradient_tokens[state.cursor] != state.tokens[state.cursor]:
        return None
    rewards = state.gradient_at_cursor.prefix_rewards
    return None if rewards is None else rewards[0].item()
