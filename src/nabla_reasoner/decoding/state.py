"""One problem on its way through the decoding loop: its state, the gate, and what is written down about it."""

from dataclasses import dataclass, field
from typing import Any

from .. import cost
from ..cost import Cost
from ..dto.gradients import Gradient
from ..engine.generation import TokenPredictions
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .settings import Variant


@dataclass
class DecodingState:
    """One problem on its way through the loop; `tokens` is the whole current response, committed up to `cursor`."""

    problem: Problem
    policy_prompt: list[int]
    reward_prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    cursor: int = 0
    rollouts: int = 0
    current_pass: int = 0
    reward: float | None = None
    incumbent: float | None = None  # what a proposal must beat; differs from `reward` in variant "release" only
    states: TokenPredictions | None = None  # the policy's own predictions, at every token
    uncertain: list[int] = field(default_factory=list)  # positions that pass the first gate
    view: Gradient | None = None  # ∂L/∂y at `hard`, positions counted from `base`
    hard: list[int] = field(default_factory=list)
    base: int = 0
    norms: dict[int, float] = field(default_factory=dict)  # of the view, where the second gate asks for them
    done: bool = False
    spent: list[Cost] = field(default_factory=list)
    proposals: list[dict[str, Any]] = field(default_factory=list)
    visited: int = 0
    trajectory: list[dict[str, Any]] = field(default_factory=list)


def start_state(problem: Problem, policy: Policy, reward: RewardModel, max_new_tokens: int) -> DecodingState:
    """A problem before its first rollout."""
    walk = DecodingState(problem, policy.prompt_ids(problem.messages), reward.prompt_ids(problem.messages))
    policy.check_length(len(walk.policy_prompt), max_new_tokens)
    return walk


def scored_text(walk: DecodingState, variant: Variant) -> list[int]:
    """The incumbent's response as the reward model is shown it in the acceptance test."""
    return [*walk.policy_prompt, *walk.tokens] if variant.prompt_twice else walk.tokens


def direction_key(walk: DecodingState, count: int) -> tuple[str, int]:
    """Stage and number of the uniform numbers that a random direction of the logits at the cursor is made from."""
    return f"direction {walk.current_pass} {walk.cursor}", count


def note_rollout(walk: DecodingState, policy: Policy) -> None:
    """Write down the best response so far and what it took, after a rollout."""
    spent = cost.total(walk.spent)
    walk.trajectory.append(
        {
            "rollouts": walk.rollouts,
            "model_calls": spent.model_calls,
            "flops": spent.flops,
            "seconds": spent.seconds,
            "response": policy.decode(walk.tokens),
            "finished": walk.tokens[-1] in policy.eos_ids,
        }
    )


def accept_or_reject(
    walk: DecodingState, policy: Policy, position: int, token: int, response: list[int], value: float, acceptance: str
) -> bool:
    """Accept or reject one proposal: the response that keeps `position` earlier tokens and puts `token` there."""
    accepted = acceptance == "always" or value > walk.incumbent
    walk.proposals.append(
        {
            "pass": walk.current_pass,
            "position": position,
            "old": walk.tokens[position],
            "new": token,
            "reward": value,
            "incumbent": walk.incumbent,
            "accepted": accepted,
        }
    )
    if accepted:
        walk.tokens, walk.reward, walk.incumbent, walk.view = response, value, None, None
    walk.cursor = position + 1
    note_rollout(walk, policy)
    return accepted


def to_solution(walk: DecodingState, policy: Policy) -> Solution:
    """The record of a finished walk."""
    accepted = sum(proposal["accepted"] for proposal in walk.proposals)
    spent = cost.total(walk.spent)
    return Solution(
        problem_id=walk.problem.id,
        response=policy.decode(walk.tokens),
        token_ids=walk.tokens,
        reward=walk.reward,
        cost=spent._replace(peak_bytes=cost.peak_bytes(policy.device)),
        search={
            "rollouts": walk.rollouts,
            "proposed": len(walk.proposals),
            "accepted": accepted,
            "rejected": len(walk.proposals) - accepted,
            "visited": walk.visited,
            "passes": walk.current_pass + 1,
            "finished": walk.tokens[-1] in policy.eos_ids,
            "revisions": walk.proposals,
            "trajectory": walk.trajectory,
        },
    )
