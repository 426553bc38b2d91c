"""One evaluation of ∂L/∂y per distinct hard sequence.

∂L/∂y depends on the hard tokens alone. One evaluation therefore serves the second gate, every DTO step until a token
flips, and all later positions until a revision is accepted.

In the prefix form ∂L/∂y_l depends on y_≤l alone, and one token forward and backward is all that it costs. It is
evaluated at the cursor only: an accepted revision replaces the later tokens, and what had been evaluated there would be
lost. What was evaluated is kept by its tokens, for later passes over the response.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .. import cost
from ..dto import gradient_passes
from ..dto.gradient_passes import Known
from ..dto.gradients import Gradient, row_cost
from ..dto.reward_forms import PREFIX
from ..engine.sequences import ModelCaches, TokenSequence
from ..models.language_models import Policy, RewardModel
from .observer import DecodingObserver
from .selection import gate_norms
from .settings import NablaSettings
from .state import DecodingState, hard_sequence


@dataclass(frozen=True)
class GradientReuse:
    """Gradients of the current responses of a batch.

    Attributes:
        states: all problems of the batch; `states[i].slot` is i.
        caches: keys and values of the current responses.
        observer: listener that is told of every evaluation.
    """

    settings: NablaSettings
    states: Sequence[DecodingState]
    policy: Policy
    reward: RewardModel
    caches: ModelCaches
    observer: DecodingObserver

    def ensure_gradients(self, states: Sequence[DecodingState]) -> None:
        """Evaluate ∂L/∂y from the cursor on for the problems whose stored gradient is stale or missing."""
        stale = [state for state in states if not state.gradient_is_current]
        if not stale or not (self.settings.use_gradient or self.settings.grad_threshold > 0):
            return
        variant, dto = self.settings.variant, self.settings.decoding_dto
        sequences = [
            dto.relevant_part(hard_sequence(state, self.policy, state.predictions.hidden[state.cursor :], variant))
            for state in stale
        ]
        texts = [tuple(sequence.prefix + sequence.rollout) for sequence in sequences]
        new = [
            i for i, (state, text) in enumerate(zip(stale, texts, strict=True)) if text not in state.prefix_gradients
        ]
        evaluated = dict(zip(new, self._evaluate_new([(stale[i], sequences[i]) for i in new]), strict=True))
        for i, (state, text) in enumerate(zip(stale, texts, strict=True)):
            if i in evaluated:
                state.trajectory.charge(evaluated[i].cost)
            state.gradient = evaluated[i] if i in evaluated else state.prefix_gradients[text]
            state.gradient_tokens = list(text)
            state.gradient_start = state.cursor
            if dto.reward_form == PREFIX:
                state.prefix_gradients[text] = state.gradient
            if variant.hard_tokens == "sampled" and state.reward is None:
                state.reward = state.gradient.reward
        if self.settings.grad_threshold > 0:
            self.set_norms(stale)

    def _evaluate_new(self, pairs: Sequence[tuple[DecodingState, TokenSequence]]) -> list[Gradient]:
        """Evaluate ∂L/∂y of current responses; decoding has left the policy's states that predict their tokens."""
        known = []
        for state, sequence in pairs:
            count = len(sequence.rollout)
            decoded = self.settings.variant.hard_tokens == "sampled" or count == 1
            known.append([state.predictions.hidden[state.cursor :][:count]] if decoded else [])
        states, sequences = [state for state, _ in pairs], [sequence for _, sequence in pairs]
        return self._evaluate(states, sequences, known, keep=True) if pairs else []

    def set_norms(self, states: Sequence[DecodingState]) -> None:
        """Set the norms that ε_grad is compared with, for every uncertain position that the gradients cover."""
        positions = [
            [p for p in state.uncertain if state.gradient_start <= p < len(state.gradient_tokens)] for state in states
        ]
        responses = [(state.gradient, state.predictions.hidden[state.gradient_start :]) for state in states]
        offsets = [[p - state.gradient_start for p in part] for state, part in zip(states, positions, strict=True)]
        norms = gate_norms(self.policy, responses, offsets, self.settings)
        for state, part, values in zip(states, positions, norms, strict=True):
            state.gate_norms = dict(zip(part, values, strict=True))
            state.trajectory.charge(row_cost(state.gradient, len(part)))
            if self.settings.variant.gate == "logits":
                state.trajectory.charge(cost.gradient_arithmetic(cost.head_flops(self.policy.size, len(part))))

    def is_large(self, state: DecodingState) -> bool:
        """Return whether the gradient at the cursor passes the second gate."""
        threshold = self.settings.grad_threshold
        return threshold == 0 or state.gate_norms[state.cursor] >= threshold

    def evaluate_flips(self, sequences: Sequence[TokenSequence], slots: Sequence[int]) -> list[Gradient]:
        """Return ∂L/∂y at hard sequences whose tokens flipped during DTO."""
        states = [self.states[slot] for slot in slots]
        known: list[Known] = [[] for _ in states]
        if self.settings.dto.reward_form == PREFIX:  # the states before the token at the cursor do not depend on it
            known = [state.gradient_at_cursor.predictors for state in states]
        return self._evaluate(states, sequences, known, keep=False)

    def _evaluate(
        self,
        states: Sequence[DecodingState],
        sequences: Sequence[TokenSequence],
        known: Sequence[Known],
        *,
        keep: bool,
    ) -> list[Gradient]:
        for state in states:
            self.observer.on_gradient(state)
        return gradient_passes.evaluate(
            self.policy,
            self.reward,
            sequences,
            caches=self.caches,
            slots=[state.slot for state in states],
            keep=keep,
            known=known,
            **self.settings.dto.objective,
        )
