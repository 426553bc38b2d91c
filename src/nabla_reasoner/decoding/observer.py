"""Events of the batched decoding loop, for a listener that must not change it."""

from collections.abc import Sequence

from ..engine.generation import Rollout
from .state import DecodingState


class DecodingObserver:
    """Listener of `BatchedDecoder`; every method is called after the event and does nothing by default."""

    def on_select(self, state: DecodingState) -> None:
        """The cursor moved to an uncertain position; ∂L/∂y there has not been evaluated yet."""

    def on_gradient(self, state: DecodingState) -> None:
        """∂L/∂y was evaluated for the current position."""

    def on_draw(self, state: DecodingState, token: int) -> None:
        """A token was drawn from the optimised logits at the cursor."""

    def on_rollout(self, state: DecodingState, prefix: Sequence[int], rollout: Rollout) -> None:
        """A response was completed after `prefix`; `state` still holds the current response."""

    def on_decision(self, state: DecodingState) -> None:
        """A proposal was accepted or rejected, as the last entry of `state.proposals` says."""
