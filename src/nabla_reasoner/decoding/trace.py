"""Trace of the decoding loop (Figure 2): every response and every position at which DTO ran."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..engine.generation import Rollout
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .nabla_reasoner import solve_states
from .observer import DecodingObserver
from .settings import NablaSettings
from .state import DecodingState, start_state


class Response(NamedTuple):
    """A whole response: a rollout and the tokens before it.

    Attributes:
        prefix_length: number of tokens before the rollout; the last of them in a proposal is its new token.
        tokens: token ids of the whole response.
        confidence: the policy's largest probability at each token; at the first `prefix_length` tokens that of
            the current response.
        reward: r of the response, in nats for a likelihood reward; None if it was never computed.
        accepted: whether it became the current response.
    """

    prefix_length: int
    tokens: list[int]
    confidence: list[float]
    reward: float | None
    accepted: bool


class Visit(NamedTuple):
    """A position at which DTO updated the logits and a token was drawn from them.

    Attributes:
        response: index of the response that was current then.
        position: position of the token.
        old, new: token before the draw, and the token drawn.
        evaluations: number of gradients evaluated for it: 0 if the stored one was used, more if tokens flipped.
        reused: whether the stored ∂L/∂y was current.
        proposal: index of the response that followed; None if the old token was drawn, or the new one was rejected
            before a rollout.
    """

    response: int
    position: int
    old: int
    new: int
    evaluations: int
    reused: bool
    proposal: int | None


class Trace(NamedTuple):
    """Problem, solution, and every response and visit in order."""

    problem: Problem
    solution: Solution
    responses: list[Response]
    visits: list[Visit]


@dataclass
class _Record:
    """Record of one problem; `current` is the index of the current response, the last two fields are as in `Visit`."""

    responses: list[Response] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    current: int = 0
    evaluations: int = 0
    reused: bool = False


class _Recorder(DecodingObserver):
    """Observer that writes a record per problem, by slot."""

    def __init__(self, count: int, *, tests_responses: bool):
        self.tests_responses = tests_responses
        self.records = [_Record() for _ in range(count)]

    def on_select(self, state: DecodingState) -> None:
        record = self.records[state.slot]
        record.reused = state.gradient_is_current
        record.evaluations = 0

    def on_gradient(self, state: DecodingState) -> None:
        self.records[state.slot].evaluations += 1

    def on_draw(self, state: DecodingState, token: int) -> None:
        record, old = self.records[state.slot], state.tokens[state.cursor]
        record.visits.append(
            Visit(
                response=record.current,
                position=state.cursor,
                old=old,
                new=token,
                evaluations=record.evaluations,
                reused=record.reused,
                proposal=len(record.responses) if token != old else None,
            )
        )

    def on_rollout(self, state: DecodingState, prefix: Sequence[int], rollout: Rollout) -> None:
        prefix_confidence = state.predictions.confidence[: len(prefix)].tolist() if prefix else []
        rollout_confidence = rollout.predictions.confidence.tolist() if rollout.predictions is not None else []
        self.records[state.slot].responses.append(
            Response(
                prefix_length=len(prefix),
                tokens=[*prefix, *rollout.token_ids],
                confidence=prefix_confidence + rollout_confidence,
                reward=None,
                accepted=not prefix,
            )
        )

    def on_decision(self, state: DecodingState) -> None:
        record, proposal = self.records[state.slot], state.proposals[-1]
        responses = record.responses
        if record.visits[-1].proposal == len(responses):  # no rollout followed
            record.visits[-1] = record.visits[-1]._replace(proposal=None)
            return
        if self.tests_responses:  # the values compared are rewards of whole responses
            responses[record.current] = responses[record.current]._replace(reward=proposal["incumbent"])
            responses[-1] = responses[-1]._replace(reward=proposal["reward"])
        responses[-1] = responses[-1]._replace(accepted=proposal["accepted"])
        if proposal["accepted"]:
            record.current = len(responses) - 1


def record(
    settings: NablaSettings, problems: Sequence[Problem], policy: Policy, reward: RewardModel, *, seed: int = 0
) -> list[Trace]:
    """Solve problems with the fast engine and return their traces; the solutions are those of `NablaReasoner`."""
    reward.check_vocabulary(policy)
    limit = settings.max_new_tokens
    states = [start_state(problem, policy, reward, max_new_tokens=limit, seed=seed, repeat=0) for problem in problems]
    recorder = _Recorder(len(states), tests_responses=settings.acceptance == "higher")
    solutions = solve_states(settings, states, policy, reward, recorder)
    return [
        Trace(state.problem, solution, record.responses, record.visits)
        for state, solution, record in zip(states, solutions, recorder.records, strict=True)
    ]
