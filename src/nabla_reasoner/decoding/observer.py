"""Events of the batched decoding loop, for a listener that must not change it."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from ..engine.generation import Rollout
from .state import DecodingState


class DecodingObserver:
    """Listener of `BatchedDecoder`; every method does nothing by default."""

    def on_select(self, state: DecodingState) -> None:
        """Handle a move of the cursor to an uncertain position; ∂L/∂y there has not been evaluated yet."""

    def on_gradient(self, state: DecodingState) -> None:
        """Handle an evaluation of ∂L/∂y for the current position."""

    def on_optimised(self, state: DecodingState, logits: Float[Tensor, " vocab"], objective: list[float]) -> None:
        """Handle the logits at the cursor from which a token is drawn next.

        Args:
            objective: L at each iteration of DTO (see `DTOResult`); empty without DTO.
        """

    def on_draw(self, state: DecodingState, token: int) -> None:
        """Handle a token drawn from the optimised logits at the cursor."""

    def on_rollout(self, state: DecodingState, prefix: Sequence[int], rollout: Rollout) -> None:
        """Handle a rollout sampled after `prefix`; `state` still holds the current response.

        Where rollouts pause, it is empty or ends at the first pause; what follows is not told.
        """

    def on_decision(self, state: DecodingState) -> None:
        """Handle the decision on a proposal, recorded in the last entry of `state.proposals`."""


class ObserverGroup(DecodingObserver):
    """Listener that passes every event on to several others, in their order."""

    def __init__(self, observers: Sequence[DecodingObserver]):
        self.observers = observers

    def on_select(self, state: DecodingState) -> None:
        for observer in self.observers:
            observer.on_select(state)

    def on_gradient(self, state: DecodingState) -> None:
        for observer in self.observers:
            observer.on_gradient(state)

    def on_optimised(self, state: DecodingState, logits: Float[Tensor, " vocab"], objective: list[float]) -> None:
        for observer in self.observers:
            observer.on_optimised(state, logits, objective)

    def on_draw(self, state: DecodingState, token: int) -> None:
        for observer in self.observers:
            observer.on_draw(state, token)

    def on_rollout(self, state: DecodingState, prefix: Sequence[int], rollout: Rollout) -> None:
        for observer in self.observers:
            observer.on_rollout(state, prefix, rollout)

    def on_decision(self, state: DecodingState) -> None:
        for observer in self.observers:
            observer.on_decision(state)


def check_observer(observer: object) -> None:
    """Raise TypeError unless this is an observer, or None."""
    if observer is not None and not isinstance(observer, DecodingObserver):
        raise TypeError(f"observer must be a DecodingObserver; got {observer!r}. Derive its class from that one.")
