"""The decoding loop with everything it does written down (Figure 2); the decisions are `lockstep`'s own."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..dto.batched import BatchedDescent
from ..engine.generation import Rollout
from ..engine.sequences import ModelCaches, TokenSequence
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from . import batched
from .state import DecodingState, start_state, to_solution


class Response(NamedTuple):
    """A rollout, with what was kept ahead of it.

    Attributes:
        kept: number of tokens that were there before; for a proposal the new token is one of them, the last.
        tokens: ids of the whole response.
        confidence: the policy's largest probability at each token; of the current response's where tokens were kept.
        reward: r of the response, in nats for a likelihood reward; None where it was never asked for.
        accepted: whether it became the current response.
    """

    kept: int
    tokens: list[int]
    confidence: list[float]
    reward: float | None
    accepted: bool


class Visit(NamedTuple):
    """A position at which DTO moved the logits and a token was drawn from them.

    Attributes:
        response: number of the response that was current then, counted from 0.
        position: of the token.
        old, new: the token there, and the one drawn.
        evaluations: gradients computed for it: 0 where the one at hand served, more where tokens flipped.
        reused: whether ∂L/∂y was at hand.
        proposal: number of the response that followed; None where the draw was the old token.
    """

    response: int
    position: int
    old: int
    new: int
    evaluations: int
    reused: bool
    proposal: int | None


class Trace(NamedTuple):
    """What happened to one problem."""

    problem: Problem
    solution: Solution
    responses: list[Response]
    visits: list[Visit]


class _Recorder(batched.BatchedDecoder):
    """`LockStep` with notes, by walk: `responses`, `visits`, which response is `at`, and gradients since the last."""

    def __init__(self, method: Any, walks: list[DecodingState], policy: Policy, reward: RewardModel, seed: int):
        super().__init__(method, walks, policy, reward, seed, 0)
        self.responses: list[list[Response]] = [[] for _ in walks]
        self.visits: list[list[Visit]] = [[] for _ in walks]
        self.at, self.computed, self.reused = [0] * len(walks), [0] * len(walks), [False] * len(walks)

    def roll_out(self, walks: Sequence[DecodingState], kept: Sequence[list[int]], caches: ModelCaches) -> list[Rollout]:
        drawn = super().roll_out(walks, kept, caches)
        for number, each, ids, rollout in zip(self.slots(walks), walks, kept, drawn, strict=True):
            known = each.states.confidence[: len(ids)].tolist() if ids else []
            own = rollout.predictions.confidence.tolist() if rollout.predictions is not None else []
            self.responses[number].append(Response(len(ids), ids + rollout.token_ids, known + own, None, not ids))
        return drawn

    def look(self, walks: Sequence[DecodingState]) -> None:
        for number, each in zip(self.slots(walks), walks, strict=True):
            self.reused[number], self.computed[number] = self.view_holds(each), 0
        super().look(walks)

    def evaluate(
        self, sequences: Sequence[TokenSequence], walks: Sequence[DecodingState], *, keep: bool = False
    ) -> list:
        for number in self.slots(walks):
            self.computed[number] += 1
        return super().evaluate(sequences, walks, keep=keep)

    def redraw(
        self, found: dict[int, DecodingState], optimised: dict[int, DecodingState], descents: BatchedDescent
    ) -> dict[int, int]:
        drawn = super().redraw(found, optimised, descents)
        for number, token in drawn.items():
            each = self.walks[number]
            old = each.tokens[each.cursor]
            proposal = len(self.responses[number]) if token != old else None
            self.visits[number].append(
                Visit(self.at[number], each.cursor, old, token, self.computed[number], self.reused[number], proposal)
            )
        return drawn

    def propose(self, proposals: Sequence[tuple[DecodingState, int, int]]) -> None:
        super().propose(proposals)
        for each, _, _ in proposals:
            (number,), fate = self.slots([each]), each.proposals[-1]
            own, current = self.responses[number], self.at[number]
            own[current] = own[current]._replace(reward=fate["incumbent"])
            own[-1] = own[-1]._replace(reward=fate["reward"], accepted=fate["accepted"])
            if fate["accepted"]:
                self.at[number] = len(own) - 1


def record(
    method: Any, problems: Sequence[Problem], policy: Policy, reward: RewardModel, *, seed: int = 0
) -> list[Trace]:
    """Solve problems with `decoding.NablaReasoner`'s settings and fast engine; the same solutions, and their traces."""
    reward.check_vocabulary(policy)
    walks = [start_state(problem, policy, reward, method.max_new_tokens) for problem in problems]
    recorder = _Recorder(method, walks, policy, reward, seed)
    recorder.run()
    return [
        Trace(each.problem, to_solution(each, policy), responses, visits)
        for each, responses, visits in zip(walks, recorder.responses, recorder.visits, strict=True)
    ]
