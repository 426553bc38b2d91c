"""Trace of the decoding loop (Figure 2): every response and every position at which DTO ran."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..engine import numerics
from ..engine.generation import Rollout
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .nabla_reasoner import solve_states
from .observer import DecodingObserver
from .selection import gate_norms
from .settings import NablaSettings
from .state import DecodingState, start_state

SHOWN = 5  # likeliest tokens that a visit lists


class Response(NamedTuple):
    """A whole response: a rollout and the tokens before it.

    Attributes:
        prefix_length: number of tokens before the rollout; the last of them in a proposal is its new token.
        tokens: token ids of the whole response.
        confidence: the policy's largest probability at each token; at the first `prefix_length` tokens that of
            the current response.
        reward: r of the response, in nats for a likelihood reward; None if it was never computed.
        accepted: whether it became the current response.
        norms: by position, the norm of ∂L/∂y (or of ∂L/∂z, as the variant's gate has it) at this response; at those
            positions only for which a gradient was evaluated.
    """

    prefix_length: int
    tokens: list[int]
    confidence: list[float]
    reward: float | None
    accepted: bool
    norms: dict[int, float]


class Candidate(NamedTuple):
    """A token at a visited position.

    Attributes:
        before, after: its probability by the policy, and by the logits from which the token was drawn.
        scores: by reward form, the reward with it in place of the current token, all other tokens as they are
            (see `candidate_scores`); empty if they were not computed.
    """

    token: int
    before: float
    after: float
    scores: dict[str, float]


class Visit(NamedTuple):
    """A position at which DTO updated the logits and a token was drawn from them.

    Attributes:
        response: index of the response that was current then.
        current_pass: number of left-to-right passes completed before.
        position: position of the token.
        old, new: token before the draw, and the token drawn.
        evaluations: number of gradients evaluated for it: 0 if the stored one was used, more if tokens flipped.
        reused: whether the stored ∂L/∂y was current.
        proposal: index of the response that followed; None without a new token, or if it was rejected before a
            rollout.
        objective: L at each iteration of DTO; empty without DTO.
        candidates: the likeliest tokens before or after, and the two above; the likeliest after first.
        decision: entry of `Solution.search["revisions"]`; None if the old token was drawn.
    """

    response: int
    current_pass: int
    position: int
    old: int
    new: int
    evaluations: int
    reused: bool
    proposal: int | None
    objective: list[float]
    candidates: list[Candidate]
    decision: dict[str, Any] | None


class Trace(NamedTuple):
    """Problem, solution, and every response and visit in order."""

    problem: Problem
    solution: Solution
    responses: list[Response]
    visits: list[Visit]


@dataclass
class _Record:
    """Record of one problem; `current` is the index of the current response, the others are as in `Visit`."""

    responses: list[Response] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    current: int = 0
    evaluations: int = 0
    reused: bool = False
    objective: list[float] = field(default_factory=list)
    logits: Float[Tensor, " vocab"] | None = None


class TraceRecorder(DecodingObserver):
    """Observer that writes a record per problem, by slot; it changes no number of the search and costs little.

    Args:
        settings: those of the observed search, with whole rollouts.
        count: number of problems.

    Raises:
        ValueError: rollouts that pause: what follows a pause is not known when a response is recorded.
    """

    def __init__(self, settings: NablaSettings, policy: Policy, count: int):
        if settings.pauses:
            raise ValueError(
                f"a trace needs whole rollouts; got rollout_end={settings.rollout_end}. Give it "
                "settings.with_whole_rollouts()."
            )
        self.settings = settings
        self.policy = policy
        self.records = [_Record() for _ in range(count)]

    def traces(self, problems: Sequence[Problem], solutions: Sequence[Solution]) -> list[Trace]:
        """Return the traces of the observed search, whose problems and solutions are given in their order."""
        return [
            Trace(problem, solution, record.responses, record.visits)
            for problem, solution, record in zip(problems, solutions, self.records, strict=True)
        ]

    def on_select(self, state: DecodingState) -> None:
        record = self.records[state.slot]
        record.reused = state.gradient_is_current
        record.evaluations = 0

    def on_gradient(self, state: DecodingState) -> None:
        self.records[state.slot].evaluations += 1

    def on_optimised(self, state: DecodingState, logits: Float[Tensor, " vocab"], objective: list[float]) -> None:
        record = self.records[state.slot]
        record.logits, record.objective = logits, objective
        if state.gradient is None:
            return
        norms, start = record.responses[record.current].norms, state.gradient_start
        missing = [i for i in range(start, len(state.gradient_tokens)) if i not in norms]
        hidden, offsets = state.predictions.hidden[start:], [position - start for position in missing]
        (values,) = gate_norms(self.policy, [(state.gradient, hidden)], [offsets], self.settings)
        norms.update(zip(missing, values, strict=True))

    def on_draw(self, state: DecodingState, token: int) -> None:
        record, old = self.records[state.slot], state.tokens[state.cursor]
        first = numerics.at_least_float32(self.policy.logits(state.predictions.hidden[state.cursor]))
        record.visits.append(
            Visit(
                response=record.current,
                current_pass=state.current_pass,
                position=state.cursor,
                old=old,
                new=token,
                evaluations=record.evaluations,
                reused=record.reused,
                proposal=None,
                objective=record.objective,
                candidates=_candidates(first, record.logits, [old, token]),
                decision=None,
            )
        )

    def on_rollout(self, state: DecodingState, prefix: Sequence[int], rollout: Rollout) -> None:
        record = self.records[state.slot]
        if prefix:
            record.visits[-1] = record.visits[-1]._replace(proposal=len(record.responses))
        prefix_confidence = state.predictions.confidence[: len(prefix)].tolist() if prefix else []
        rollout_confidence = rollout.predictions.confidence.tolist() if rollout.predictions is not None else []
        record.responses.append(
            Response(
                prefix_length=len(prefix),
                tokens=[*prefix, *rollout.token_ids],
                confidence=prefix_confidence + rollout_confidence,
                reward=None,
                accepted=not prefix,
                norms={},
            )
        )

    def on_decision(self, state: DecodingState) -> None:
        record, proposal = self.records[state.slot], state.proposals[-1]
        responses = record.responses
        record.visits[-1] = record.visits[-1]._replace(decision=proposal)
        if record.visits[-1].proposal is None:
            return
        if self.settings.acceptance == "higher":  # the values compared are rewards of whole responses
            responses[record.current] = responses[record.current]._replace(reward=proposal["incumbent"])
            responses[-1] = responses[-1]._replace(reward=proposal["reward"])
        responses[-1] = responses[-1]._replace(accepted=proposal["accepted"])
        if proposal["accepted"]:
            record.current = len(responses) - 1


def _candidates(
    before: Float[Tensor, " vocab"], after: Float[Tensor, " vocab"], included: Sequence[int]
) -> list[Candidate]:
    """Return the likeliest tokens by either logits and the included ones, without scores; see `Visit`."""
    first, last = before.softmax(-1), after.softmax(-1)
    likely = torch.maximum(first, last).topk(min(SHOWN, len(first))).indices.tolist()
    tokens = sorted({*likely, *included}, key=lambda token: -last[token].item())
    return [Candidate(token, first[token].item(), last[token].item(), {}) for token in tokens]


def record(
    settings: NablaSettings, problems: Sequence[Problem], policy: Policy, reward: RewardModel, *, seed: int = 0
) -> list[Trace]:
    """Solve problems with the fast engine and return their traces; the solutions are those of `NablaReasoner`.

    Rollouts that pause are made whole: the same responses at a higher cost.
    """
    settings = settings.with_whole_rollouts()
    reward = reward.for_policy(policy)
    limit = settings.max_new_tokens
    states = [start_state(problem, policy, reward, max_new_tokens=limit, seed=seed, repeat=0) for problem in problems]
    recorder = TraceRecorder(settings, policy, len(states))
    return recorder.traces(problems, solve_states(settings, states, policy, reward, recorder))
