"""One problem on its way through the decoding loop: its state, the gate, and what is written down about it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from . import cost, gradients, relaxation
from .cost import Cost
from .gradients import Gradient
from .models import Policy, RewardModel
from .problems import Problem
from .records import Solution
from .rollouts import States


class Variant(NamedTuple):
    """The points on which the paper's text, its released code and the mended code differ.

    Attributes:
        selection: "confidence": top probability <= confidence_threshold; "entropy": H > entropy_threshold.
        gate: ε_grad is compared with the norm of ∂L/∂"onehot" or of ∂L/∂"logits".
        update: rows that DTO moves, "first" or "all".
        hard_tokens: DTO's hard forward reads the "sampled" tokens or the "argmax" of the rollout's logits.
        prompt_twice: the incumbent is scored with the chat prompt repeated inside its answer.
    """

    selection: str
    gate: str
    update: str
    hard_tokens: str
    prompt_twice: bool


VARIANTS = {
    "fixed": Variant("confidence", "onehot", "first", "sampled", prompt_twice=False),
    "release": Variant("confidence", "onehot", "first", "argmax", prompt_twice=True),  # decoding.py:280, optimize.py:33
    "paper": Variant("entropy", "logits", "all", "sampled", prompt_twice=False),
}


ACCEPTANCES = ("higher", "always")  # a proposal stays if its reward is higher, or in any case


@dataclass
class Walk:
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
    states: States | None = None  # the policy's own predictions, at every token
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


def start(problem: Problem, policy: Policy, reward: RewardModel, max_new_tokens: int) -> Walk:
    """A problem before its first rollout."""
    walk = Walk(problem, policy.prompt_ids(problem.messages), reward.prompt_ids(problem.messages))
    policy.check_length(len(walk.policy_prompt), max_new_tokens)
    return walk


def uncertain(states: States, variant: Variant, confidence_threshold: float, entropy_threshold: float) -> list[int]:
    """Positions of a response that pass the first gate, in order."""
    if variant.selection == "confidence":
        passed = states.confidence <= confidence_threshold
    else:
        passed = states.entropy > entropy_threshold
    return passed.nonzero()[:, 0].tolist()


def gate_norms(
    policy: Policy,
    gradient: Gradient,
    latents: Float[Tensor, "length hidden"],
    positions: Sequence[int],
    variant: Variant,
    temperature: float,
) -> list[float]:
    """What ε_grad is compared with: the Euclidean norm of ∂L/∂y, or of ∂L/∂z, at each position.

    Formed for a few positions at a time: a long response never holds [length, vocab] numbers.
    """
    norms: list[float] = []
    for part in gradients.chunks(len(positions), policy.vocab_size):
        own = list(positions[part])
        rows = gradients.onehot_gradient([gradient], [own])
        if variant.gate == "logits":
            logits = gradients.precise(policy.logits(latents[own]))
            rows = relaxation.logits_gradient(logits, rows, temperature=temperature)
        norms += rows.norm(dim=-1).tolist()
    return norms


def scored_text(walk: Walk, variant: Variant) -> list[int]:
    """The incumbent's response as the reward model is shown it in the acceptance test."""
    return [*walk.policy_prompt, *walk.tokens] if variant.prompt_twice else walk.tokens


def direction_key(walk: Walk, count: int) -> tuple[str, int]:
    """Stage and number of the uniform numbers that a random direction of the logits at the cursor is made from."""
    return f"direction {walk.current_pass} {walk.cursor}", count


def note_rollout(walk: Walk, policy: Policy) -> None:
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


def settle(
    walk: Walk, policy: Policy, position: int, token: int, response: list[int], value: float, acceptance: str
) -> bool:
    """Accept or reject one proposal: the response that keeps `position` earlier tokens and puts `token` there."""
    accepted = acceptance == "always" or value > walk.incumbent
    walk.proposals.append(
        {"pass": walk.current_pass, "position": position, "old": walk.tokens[position], "new": token,
         "reward": value, "incumbent": walk.incumbent, "accepted": accepted}
    )  # fmt: skip
    if accepted:
        walk.tokens, walk.reward, walk.incumbent, walk.view = response, value, None, None
    walk.cursor = position + 1
    note_rollout(walk, policy)
    return accepted


def solution(walk: Walk, policy: Policy) -> Solution:
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
