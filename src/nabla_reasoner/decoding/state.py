"""State of one problem in the decoding loop, and the records made from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from .. import cost
from ..dto.gradients import Gradient
from ..engine.continuous_batching import TokenPredictions
from ..engine.sampling import keyed_uniforms
from ..engine.sequences import TokenSequence, token_as_read
from ..engine.trajectory import Trajectory, is_finished, search_summary
from ..models.language_models import Policy, RewardModel
from ..types import Problem, Solution
from .settings import Variant


class Prompts(NamedTuple):
    """Token ids of a problem's chat up to the answer, as the policy and as the reward model read it."""

    policy: list[int]
    reward: list[int]


@dataclass(eq=False)
class DecodingState:
    """One problem in the decoding loop.

    Attributes:
        seed, repeat: keys of every random draw, together with the problem's id.
        policy_prompt, reward_prompt: token ids of the chat by each model's template.
        slot: cache slot of the problem (batched loop).
        tokens: whole current response; committed before `cursor`.
        cursor: position in the response.
        rollouts: number of rollouts made.
        rollout_start: position of the first token of the current rollout.
        current_pass: number of left-to-right passes completed.
        reward: r of the current response; None until some step has computed it.
        incumbent: value that a proposal must exceed: `reward`, except in variant "release" and with acceptance
            "prefix_higher".
        predictions: the policy's predictions at every token of the response.
        uncertain: positions that pass the first gate.
        gradient: ∂L/∂y at the hard tokens `gradient_tokens`, for their positions from `gradient_start` on.
        prefix_gradients: prefix form only: ∂L/∂y at the last token of each evaluated prefix, by the prefix's tokens.
        gate_norms: norm of the gradient by uncertain position, with the second gate only.
        done: whether no position or no rollout is left.
        proposals: record of every proposal.
        visited: number of positions that passed both gates.
        trajectory: cost so far, and record of the best response after every rollout.
    """

    problem: Problem
    seed: int
    repeat: int
    policy_prompt: list[int]
    reward_prompt: list[int]
    slot: int = 0
    tokens: list[int] = field(default_factory=list)
    cursor: int = 0
    rollouts: int = 0
    rollout_start: int = 0
    current_pass: int = 0
    reward: float | None = None
    incumbent: float | None = None
    predictions: TokenPredictions | None = None
    uncertain: list[int] = field(default_factory=list)
    gradient: Gradient | None = None
    gradient_tokens: list[int] = field(default_factory=list)
    gradient_start: int = 0
    prefix_gradients: dict[tuple[int, ...], Gradient] = field(default_factory=dict)
    gate_norms: dict[int, float] = field(default_factory=dict)
    done: bool = False
    proposals: list[dict[str, Any]] = field(default_factory=list)
    visited: int = 0
    trajectory: Trajectory = field(default_factory=Trajectory)

    @property
    def gradient_is_current(self) -> bool:
        """Whether the gradient covers the cursor, and the tokens before the cursor are those it was evaluated at."""
        if self.gradient is None or not self.gradient_start <= self.cursor < len(self.gradient_tokens):
            return False
        return self.gradient_tokens[: self.cursor] == self.tokens[: self.cursor]

    @property
    def gradient_at_cursor(self) -> Gradient:
        """The current gradient for the rollout that begins at the cursor."""
        return self.gradient.from_position(self.cursor - self.gradient_start)

    @property
    def has_uncertain(self) -> bool:
        """Whether an uncertain position is at the cursor or after it."""
        return bool(self.uncertain) and self.uncertain[-1] >= self.cursor

    def uniforms(self, stage: str, count: int) -> np.ndarray:
        """Return uniform numbers in [0, 1) for one stage of this problem."""
        return keyed_uniforms(self.seed, self.problem.id, self.repeat, stage, count)

    def split_at_cursor(self, tokens: Sequence[int]) -> TokenSequence:
        """Return a response as a sequence whose rollout begins at the cursor."""
        return TokenSequence(
            policy_prompt=self.policy_prompt,
            reward_prompt=self.reward_prompt,
            prefix=list(tokens[: self.cursor]),
            rollout=list(tokens[self.cursor :]),
        )


def start_state(
    problem: Problem,
    policy: Policy,
    reward: RewardModel,
    *,
    max_new_tokens: int,
    seed: int,
    repeat: int,
    prompt_twice: bool = False,
    prompts: Prompts | None = None,
) -> DecodingState:
    """Return the state of a problem before its first rollout.

    Args:
        prompts: token ids to be used instead of those that the templates write for the problem's question.
        prompt_twice: whether the reward model reads the prompt inside the answer too (see `Variant`).

    Raises:
        ValueError: the prompt and `max_new_tokens` do not fit the context of the policy or of the reward model.
    """
    if prompts is None:
        prompts = Prompts(policy.prompt_ids(problem.messages), reward.prompt_ids(problem.messages))
    state = DecodingState(
        problem=problem, seed=seed, repeat=repeat, policy_prompt=prompts.policy, reward_prompt=prompts.reward
    )
    policy.check_length(len(state.policy_prompt), max_new_tokens)
    repeated = len(state.policy_prompt) if prompt_twice else 0
    reward.check_length(len(state.reward_prompt) + repeated, max_new_tokens)
    return state


def hard_sequence(
    state: DecodingState, policy: Policy, hidden: Float[Tensor, "length hidden"], variant: Variant
) -> TokenSequence:
    """Return the current response as DTO's first hard forward reads it, and charge the logits that this takes.

    Its rollout begins at the cursor.

    Args:
        hidden: the policy's hidden states that predict the tokens from the cursor on.
    """
    sequence = state.split_at_cursor(state.tokens)
    if variant.hard_tokens == "argmax":
        sequence = sequence._replace(rollout=policy.logits(hidden).argmax(-1).tolist())
        state.trajectory.charge(cost.gradient_arithmetic(cost.head_flops(policy.size, len(hidden))))
    return sequence


def scored_text(state: DecodingState, variant: Variant) -> list[int]:
    """Return the incumbent's tokens as the reward model reads them in the acceptance test."""
    return [*state.policy_prompt, *state.tokens] if variant.prompt_twice else state.tokens


def direction_stage(state: DecodingState) -> str:
    """Return the key of the uniform numbers that give a random direction of the logits at the cursor."""
    return f"direction {state.current_pass} {state.cursor}"


def is_open(state: DecodingState, policy: Policy, limit: int) -> bool:
    """Return whether the response has neither an end token nor `limit` tokens: its rollout has paused."""
    return len(state.tokens) < limit and state.tokens[-1] not in policy.eos_ids


def is_new(token: int, state: DecodingState, reward: RewardModel) -> bool:
    """Return whether a token drawn at the cursor differs from the current one in the text that the reward model reads.

    It reads all end tokens of the policy alike: no reward tells one from another, and rounding must not.
    """
    return token_as_read(token, reward) != token_as_read(state.tokens[state.cursor], reward)


def note_rollout(state: DecodingState, policy: Policy) -> None:
    """Append the best response so far, with the cost so far, to the trajectory."""
    state.trajectory.record(policy, state.rollouts, state.tokens)


def note_proposal(state: DecodingState, token: int, reward: float | None, *, accepted: bool) -> None:
    """Append the proposal that puts `token` at the cursor to the record.

    Args:
        reward: value compared with the incumbent's: r of the proposed response, or r(y_<l, token) with acceptance
            "prefix_higher"; None if nothing was compared.
    """
    state.proposals.append(
        {
            "pass": state.current_pass,
            "position": state.cursor,
            "old": state.tokens[state.cursor],
            "new": token,
            "reward": reward,
            "incumbent": state.incumbent,
            "accepted": accepted,
        }
    )


def accept_or_reject(
    state: DecodingState,
    policy: Policy,
    token: int,
    response: list[int],
    reward: float | None,
    acceptance: str,
    *,
    whole: bool = True,
) -> bool:
    """Accept or reject the response that was rolled out after `token`, record it, and move the cursor past the token.

    Args:
        whole: whether responses are complete, and so can be recorded in the trajectory.
        response: proposed response; equal to the current one before the cursor.
        reward: as in `note_proposal`.
        acceptance: see `NablaSettings`; a proposal that failed "prefix_higher" has no response.
    """
    accepted = acceptance != "higher" or reward > state.incumbent
    note_proposal(state, token, reward, accepted=accepted)
    if accepted:
        state.tokens, state.reward = response, reward if acceptance == "higher" else None
        state.incumbent, state.gradient = None, None
    state.cursor += 1
    if whole:
        note_rollout(state, policy)
    return accepted


def to_solution(state: DecodingState, policy: Policy) -> Solution:
    """Return the solution of a decoded problem, with its counts, proposals and anytime trajectory."""
    summary = search_summary(
        rollouts=state.rollouts,
        proposed=len(state.proposals),
        accepted=sum(proposal["accepted"] for proposal in state.proposals),
        visited=state.visited,
        passes=state.current_pass + 1,
    )
    return Solution(
        problem_id=state.problem.id,
        response=policy.response_text(state.tokens),
        token_ids=state.tokens,
        reward=state.reward,
        cost=state.trajectory.total_cost(policy),
        search={
            **summary,
            "finished": is_finished(policy, state.tokens),
            "revisions": state.proposals,
            "trajectory": state.trajectory.entries,
        },
    )
