"""Events of the batched decoding loop, for a listener that must not change it."""

from collections.abc import Sequence

from ..engine.generation import Rollout
from .state import DecodingState


class DecodingObserver:
    """Listener of `BatchedDecoder`; every method does nothing by default."""

    def on_select(self, state: DecodingState) -> None:
        """Handle a move of the cursor to an uncertain position; ∂L/∂y there has not been evaluated yet."""

    def on_gradient(self, state: DecodingState) -> None:
        """Handle an evaluation of ∂L/∂y for the current position."""

    def on_draw(self, state: DecodingState, token: int) -> None:
        """Handle a token drawn from the optimised logits at the cursor."""

    def on_rollout(self, state: DecodingState, prefix: Sequence[int], rollout: Rollout) -> None:
        """Handle a rollout sampled after `prefix`; `state` still holds the current response."""

    def on_decision(self, state: DecodingState) -> None:
        """Handle the decision on a proposal, recorded in the last entry of `state.proposals`."""
