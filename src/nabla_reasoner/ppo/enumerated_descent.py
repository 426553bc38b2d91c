"""DTO from every answer to one prompt at once."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..dto import batched, gradient_passes
from ..dto.batched import DescentStart
from ..dto.gradients import Gradient
from ..dto.settings import DTOSettings
from ..engine.sequences import TokenSequence
from ..models.language_models import Policy, RewardModel
from .exact_distributions import ScoredPrompt


class DescentResult(NamedTuple):
    """Result of DTO from every answer.

    Attributes:
        logits: optimised logits.
        answers: hard tokens after the last step.
        evaluations: gradient evaluations besides the first.
    """

    logits: Float[Tensor, "answers rows vocab"]
    answers: list[list[int]]
    evaluations: list[int]


class EnumeratedDescent:
    """DTO from every answer to one prompt; each answer's gradient is evaluated once for all of them.

    Args:
        reward_weight, nll_weight: λ and ν of Eq. 2.
    """

    def __init__(
        self,
        policy: Policy,
        reward: RewardModel,
        scored: ScoredPrompt,
        descent: DTOSettings,
        *,
        reward_weight: float,
        nll_weight: float = 1.0,
    ):
        self.policy = policy
        self.descent = descent
        prompts = policy.prompt_ids(scored.prompt), reward.prompt_ids(scored.prompt)
        self.sequences = [TokenSequence(*prompts, [], answer) for answer in scored.answers.tolist()]
        evaluated = gradient_passes.evaluate(
            policy, reward, self.sequences, reward_weight=reward_weight, nll_weight=nll_weight
        )
        self.gradients: dict[tuple[int, ...], Gradient] = {
            tuple(sequence.rollout): gradient for sequence, gradient in zip(self.sequences, evaluated, strict=True)
        }

    def _evaluate(self, batch: Sequence[TokenSequence], numbers: Sequence[int]) -> list[Gradient]:
        return [self.gradients[tuple(s.prefix + s.rollout)].from_position(len(s.prefix)) for s in batch]

    def run(self, first: int, rows: int) -> DescentResult:
        """Optimise `rows` rows from position `first` on, from every answer."""
        sequences = [s._replace(prefix=s.rollout[:first], rollout=s.rollout[first:]) for s in self.sequences]
        start = self._evaluate(sequences, range(len(sequences)))
        starts = [
            DescentStart(sequence=sequence, gradient=gradient, positions=range(rows), latents=gradient.hidden[:rows])
            for sequence, gradient in zip(sequences, start, strict=True)
        ]
        results = batched.descend(self.policy, starts, self._evaluate, self.descent)
        return DescentResult(
            logits=torch.stack([result.logits for result in results]).double(),
            answers=[s.prefix + result.token_ids for s, result in zip(sequences, results, strict=True)],
            evaluations=[result.gradient_evaluations for result in results],
        )
