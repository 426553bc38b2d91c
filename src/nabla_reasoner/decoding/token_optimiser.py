"""DTO on the logits at the cursors of many problems, and the draw of a token from the optimised logits."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import cost
from ..dto import equal_kl_moves
from ..dto.batched import BatchedDescent, DescentStart, Evaluate
from ..dto.settings import DTOResult
from ..engine import numerics
from ..engine.sampling import draw
from ..models.language_models import Policy
from .observer import DecodingObserver
from .settings import NablaSettings
from .state import DecodingState, direction_stage


class TokenOptimiser:
    """Problems whose logits at the cursor are being optimised.

    Args:
        evaluate: returns ∂L/∂y at hard sequences whose tokens flipped during DTO, given the sequences and their slots.
        observer: listener that is told of the logits from which each token is drawn.

    Attributes:
        in_progress: problems with an unfinished descent, by slot.
    """

    def __init__(self, settings: NablaSettings, policy: Policy, evaluate: Evaluate, observer: DecodingObserver):
        self.settings = settings
        self.policy = policy
        self.observer = observer
        self.descents = BatchedDescent(policy, evaluate, settings.decoding_dto)
        self.in_progress: dict[int, DecodingState] = {}

    def optimise(self, states: Sequence[DecodingState]) -> list[tuple[DecodingState, int]]:
        """Start DTO for more problems, step until some descents end (all where rollouts pause), and draw their tokens.

        Without DTO the tokens of all given problems are drawn from the policy's own logits.

        Returns:
            Each problem whose descent ended, with its token.
        """
        if self.settings.use_gradient:
            ended, logits, objectives = self._descend(states)
        else:
            ended, logits, objectives = states, self._first_logits(states), [[] for _ in states]
        if not ended:
            return []
        uniforms = [state.uniforms(f"resample {state.current_pass} {state.cursor}", 1)[0] for state in ended]
        numerics.check_optimised(logits)
        for state, row, objective in zip(ended, logits, objectives, strict=True):
            self.observer.on_optimised(state, row, objective)
        tokens = draw(logits, torch.tensor(uniforms, dtype=torch.float64, device=logits.device), self.settings.resample)
        return list(zip(ended, tokens.tolist(), strict=True))

    def _descend(
        self, states: Sequence[DecodingState]
    ) -> tuple[list[DecodingState], Float[Tensor, "states vocab"], list[list[float]]]:
        """Return the problems whose descents ended, their logits after DTO or a move of equal KL, and L by iteration.

        The logits are those at the cursors; the move is the one that the settings have in DTO's place.
        """
        if states:
            self.descents.start({state.slot: self._descent_start(state) for state in states})
            self.in_progress |= {state.slot: state for state in states}
        results: dict[int, DTOResult] = self.descents.proceed() if self.descents else {}
        while self.settings.pauses and self.descents:  # no problem goes on before all have a token
            results |= self.descents.proceed()
        ended = [self.in_progress.pop(slot) for slot in results]
        for state, result in zip(ended, results.values(), strict=True):
            state.trajectory.charge(result.cost)
        objectives = [result.objective for result in results.values()]
        optimised = torch.cat([result.logits[:1] for result in results.values()]) if ended else torch.zeros(0, 0)
        if not ended or self.settings.move == "gradient":
            return ended, optimised, objectives
        first, uniforms = self._first_logits(ended), None
        if self.settings.move == "random":
            uniforms = np.stack([state.uniforms(direction_stage(state), first.shape[1]) for state in ended])
        return ended, equal_kl_moves.apply_move(self.settings.move, first, optimised, uniforms), objectives

    def _descent_start(self, state: DecodingState) -> DescentStart:
        """Return the start of DTO on the rollout from the cursor on; its first row is the one at the cursor."""
        cursor = state.cursor
        sequence = state.split_at_cursor(state.gradient_tokens)
        positions = list(range(len(sequence.rollout))) if self.descents.settings.update == "all" else [0]
        uniforms = None
        if self.settings.dto.flip == "gumbel":
            stages = [f"flip {cursor + position}" for position in positions]
            uniforms = np.stack([state.uniforms(stage, self.policy.vocab_size) for stage in stages])
        return DescentStart(
            sequence=sequence,
            gradient=state.gradient_at_cursor,
            positions=positions,
            latents=state.predictions.hidden[cursor:][positions],
            uniforms=uniforms,
        )

    def _first_logits(self, states: Sequence[DecodingState]) -> Float[Tensor, "states vocab"]:
        """Return the policy's own logits at the cursors."""
        if not states:
            return torch.zeros(0, self.policy.vocab_size)
        for state in states:
            state.trajectory.charge(cost.Cost(flops=cost.head_flops(self.policy.size, 1)))
        latents = torch.stack([state.predictions.hidden[state.cursor] for state in states])
        return numerics.at_least_float32(self.policy.logits(latents))
