"""One evaluation of ∂L/∂y per distinct hard sequence.

∂L/∂y depends on the hard tokens alone. One evaluation therefore serves the second gate, every DTO step until a token
flips, and all later positions until a revision is accepted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..dto import gradient_passes
from ..dto.gradients import Gradient
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
        variant = self.settings.variant
        sequences = [
            hard_sequence(state, self.policy, state.predictions.hidden[state.cursor :], variant) for state in stale
        ]
        for state, sequence, gradient in zip(
            stale, sequences, self._evaluate(stale, sequences, keep=True), strict=True
        ):
            state.gradient = gradient
            state.gradient_tokens = sequence.prefix + sequence.rollout
            state.gradient_start = state.cursor
            state.trajectory.charge(gradient.cost)
            if variant.hard_tokens == "sampled" and state.reward is None:
                state.reward = gradient.reward
            if self.settings.grad_threshold > 0:
                state.gate_norms = self.norms(state)

    def norms(self, state: DecodingState) -> dict[int, float]:
        """Return the norm that ε_grad is compared with, for every uncertain position from the cursor on."""
        start = state.gradient_start
        positions = [position for position in state.uncertain if position >= start]
        latents = state.predictions.hidden[start:]
        offsets = [position - start for position in positions]
        norms = gate_norms(self.policy, state.gradient, latents, offsets, self.settings)
        return dict(zip(positions, norms, strict=True))

    def is_large(self, state: DecodingState) -> bool:
        """Return whether the gradient at the cursor passes the second gate."""
        threshold = self.settings.grad_threshold
        return threshold == 0 or state.gate_norms[state.cursor] >= threshold

    def evaluate_flips(self, sequences: Sequence[TokenSequence], slots: Sequence[int]) -> list[Gradient]:
        """Return ∂L/∂y at hard sequences whose tokens flipped during DTO."""
        return self._evaluate([self.states[slot] for slot in slots], sequences, keep=False)

    def _evaluate(
        self, states: Sequence[DecodingState], sequences: Sequence[TokenSequence], keep: bool
    ) -> list[Gradient]:
        for state in states:
            self.observer.on_gradient(state)
        return gradient_passes.evaluate(
            self.policy,
            self.reward,
            sequences,
            terms=self.settings.dto.terms,
            caches=self.caches,
            slots=[state.slot for state in states],
            keep=keep,
            **self.settings.dto.weights,
        )
