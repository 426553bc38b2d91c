"""The ∇-Reasoner loop for many problems at once (Alg. 1 and 3, arXiv 2603.04948).

The same five steps as in `reference`, one method each, for all problems of a batch:

    select     the next uncertain position; everything before it is committed
    gradient   ∂L/∂y from there on, unless the stored one is current (`gradient_reuse`); skip positions of small norm
    optimise   update the logits of the position by DTO, and draw a token from them
    propose    if the token is new: sample a rollout after it, and score the whole response
    accept     keep the proposed response if its reward is higher than the current one's

With acceptance "prefix_higher" the new token itself is tested, before anything is rolled out; with "always" nothing is.

A problem ends when its positions or its N_max rollouts are used up. Decoding itself yields confidences and first
logits. Keys and values of the current and the proposed response are cached for both models, so that rollouts, gradients
and scores read new tokens only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from ..engine import scoring
from ..engine.continuous_batching import TokenPredictions
from ..engine.sequences import ModelCaches
from ..engine.trajectory import shared_seconds
from ..models.language_models import Policy, RewardModel
from .gradient_reuse import GradientReuse
from .observer import DecodingObserver
from .rollouts import RolloutSampler, set_predictions
from .settings import NablaSettings
from .state import DecodingState, accept_or_reject, is_new, note_rollout, scored_text
from .token_optimiser import TokenOptimiser
from .token_test import NewToken, TokenTest


class Proposal(NamedTuple):
    """A response that differs from the current one at the cursor and after it.

    Attributes:
        state: the problem.
        token: new token at the cursor.
        response: token ids of the whole response.
        reward: value that the test compares (see `state.note_proposal`); None if there is no test.
        predictions: the policy's predictions at the tokens after the cursor; None if there are none.
    """

    state: DecodingState
    token: int
    response: list[int]
    reward: float | None
    predictions: TokenPredictions | None


@dataclass
class BatchedDecoder:
    """The loop for one batch of problems, each with a slot in the caches.

    Attributes:
        states: all problems; they hold the outcome after `run`.
        observer: listener that is told of every event.
    """

    settings: NablaSettings
    states: list[DecodingState]
    policy: Policy
    reward: RewardModel
    observer: DecodingObserver = field(default_factory=DecodingObserver)

    def __post_init__(self) -> None:
        for slot, state in enumerate(self.states):
            state.slot = slot
        self.current = ModelCaches(len(self.states))
        self.proposed = ModelCaches(len(self.states))
        self.gradients = GradientReuse(
            self.settings, self.states, self.policy, self.reward, self.current, self.observer
        )
        self.rollouts = RolloutSampler(self.settings, self.policy, self.current, self.observer)
        self.optimiser = TokenOptimiser(self.settings, self.policy, self.gradients.evaluate_flips, self.observer)
        self.token_test = TokenTest(self.reward, self.current, self.observer)

    def run(self) -> None:
        """Sample the first rollouts, then search, propose and accept until every problem is done."""
        self.first_rollouts()
        while active := [state for state in self.states if not state.done]:
            new_tokens = self.search(active)
            if new_tokens:
                self.accept(self.propose(new_tokens))
        if self.settings.pauses:
            self.rollouts.complete(self.states)
            for state in self.states:
                note_rollout(state, self.policy)

    def first_rollouts(self) -> None:
        """Sample the first response of every problem."""
        with shared_seconds([state.trajectory for state in self.states]):
            rollouts = self.rollouts.roll_out(self.states, [[] for _ in self.states], self.current)
        for state, rollout in zip(self.states, rollouts, strict=True):
            state.tokens = rollout.token_ids
            set_predictions(state, rollout.predictions, self.settings)
            if not self.settings.pauses:
                note_rollout(state, self.policy)
            state.done = self.settings.max_rollouts == 1

    def search(self, states: Sequence[DecodingState]) -> list[NewToken]:
        """Advance every problem to the next position with a new token, or to its end; return the new tokens.

        Problems advance independently: one whose token did not change, or failed the test of acceptance
        "prefix_higher", selects its next position at once, and its descent there joins those in progress.
        """
        new_tokens, advancing = [], list(states)
        in_progress = self.optimiser.in_progress
        while True:
            self.rollouts.reach_uncertain(advancing)
            arrived = [state for state in advancing if not self.rollouts.may_reach_uncertain(state)]
            selected = [state for state in arrived if self.select(state)]
            if not selected and not in_progress:
                return new_tokens
            with shared_seconds([state.trajectory for state in [*selected, *in_progress.values()]]):
                passed = self.gradient(selected)
                draws = self.optimise(passed)
            advancing = [state for state in selected if state not in passed]
            changed = [NewToken(state, token) for state, token in draws if is_new(token, state, self.reward)]
            if self.settings.acceptance == "prefix_higher":
                changed = self.token_test.passing(changed)
            proposing = [new.state for new in changed]
            advancing += [state for state, _ in draws if state not in proposing]
            new_tokens += changed
            for state in advancing:
                state.cursor += 1
            if self.settings.pauses:  # they go on together with those whose token is new, in the next call
                advancing = []

    def select(self, state: DecodingState) -> bool:
        """Move the cursor to the next uncertain position, in the next pass if this one has none left.

        Returns:
            False if no pass is left; the problem is done then.
        """
        while True:
            position = next((position for position in state.uncertain if position >= state.cursor), None)
            if position is not None:
                state.cursor = position
                return True
            if state.current_pass + 1 == self.settings.num_passes:
                state.done = True
                return False
            state.cursor = 0
            state.current_pass += 1

    def gradient(self, states: Sequence[DecodingState]) -> list[DecodingState]:
        """Provide ∂L/∂y at every cursor; return the problems whose gradient passes the second gate."""
        for state in states:
            self.observer.on_select(state)
        self.gradients.ensure_gradients(states)
        passed = [state for state in states if self.gradients.is_large(state)]
        for state in passed:
            state.visited += 1
        return passed

    def optimise(self, states: Sequence[DecodingState]) -> list[tuple[DecodingState, int]]:
        """Start DTO at the cursors of these problems; return the tokens drawn for all descents that have ended."""
        draws = self.optimiser.optimise(states)
        for state, token in draws:
            self.observer.on_draw(state, token)
        return draws

    def propose(self, new_tokens: Sequence[NewToken]) -> list[Proposal]:
        """Sample a rollout after every new token; with a test of whole responses, score them and the incumbents."""
        states = [new.state for new in new_tokens]
        slots = [state.slot for state in states]
        prefixes = [state.tokens[: state.cursor] + [token] for state, token, _ in new_tokens]
        rewards: Sequence[float | None] = [new.reward for new in new_tokens]
        with shared_seconds([state.trajectory for state in states]):
            if self.tests_responses:
                self.score_incumbents(states)
                self.proposed.copy(self.current, slots)
            rollouts = self.rollouts.roll_out(states, prefixes, self.proposed if self.tests_responses else self.current)
            responses = [prefix + rollout.token_ids for prefix, rollout in zip(prefixes, rollouts, strict=True)]
            if self.tests_responses:
                rewards, costs = scoring.rewards(
                    self.reward, [state.reward_prompt for state in states], responses, caches=self.proposed, slots=slots
                )
                for state, spent in zip(states, costs, strict=True):
                    state.trajectory.charge(spent)
        return [
            Proposal(state=state, token=token, response=response, reward=reward, predictions=rollout.predictions)
            for (state, token, _), response, reward, rollout in zip(
                new_tokens, responses, rewards, rollouts, strict=True
            )
        ]

    @property
    def tests_responses(self) -> bool:
        """Whether proposed responses are scored as a whole; otherwise all of them are kept."""
        return self.settings.acceptance == "higher"

    def accept(self, proposals: Sequence[Proposal]) -> None:
        """Keep every proposed response that passes the test; its caches become the current ones."""
        accepted = []
        for state, token, response, reward, predictions in proposals:
            known = [part[: state.cursor + 1] for part in state.predictions]
            acceptance, whole = self.settings.acceptance, not self.settings.pauses
            if accept_or_reject(state, self.policy, token, response, reward, acceptance, whole=whole):
                accepted.append(state.slot)
                new = predictions or [part[:0] for part in known]
                joined = (torch.cat(parts) for parts in zip(known, new, strict=True))
                set_predictions(state, TokenPredictions(*joined), self.settings)
            state.done = state.done or state.rollouts == self.settings.max_rollouts
            self.observer.on_decision(state)
        if accepted and self.tests_responses:
            self.current.copy(self.proposed, accepted)

    def score_incumbents(self, states: Sequence[DecodingState]) -> None:
        """Set the value that each proposal must exceed.

        The reward of the current response is known from its gradient evaluation or from its own acceptance; it is
        computed (and paid for) only if neither took place.
        """
        twice = self.settings.variant.prompt_twice
        for state in states:
            if state.incumbent is None and not twice:
                state.incumbent = state.reward
        unscored = [state for state in states if state.incumbent is None]
        if not unscored:
            return
        rewards, costs = scoring.rewards(
            self.reward,
            [state.reward_prompt for state in unscored],
            [scored_text(state, self.settings.variant) for state in unscored],
            caches=None if twice else self.current,
            slots=[state.slot for state in unscored],
            pools=range(len(unscored)),
        )
        for state, value, spent in zip(unscored, rewards, costs, strict=True):
            state.incumbent = value
            state.trajectory.charge(spent)
            if not twice:
                state.reward = value
