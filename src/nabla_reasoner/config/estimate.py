"""Typical sizes of a scale's tasks and the machine that it is meant for, from which `plan` estimates a run."""

from typing import Annotated

from pydantic import Field

from .schema import Count, Positive, Settings

Share = Annotated[float, Field(ge=0, le=1)]


class TaskEstimate(Settings):
    """Typical numbers of one task, per problem.

    Attributes:
        prompt_tokens, response_tokens: mean lengths.
        uncertain: positions of a response that pass ∇-Reasoner's gates.
        proposals: new tokens that ∇-Reasoner would try in one pass over a response if N_max were unlimited.
        distinct: share of the tokens of several responses to a problem that no earlier one of them begins with.
    """

    prompt_tokens: Positive
    response_tokens: Positive
    uncertain: Positive
    proposals: Positive
    distinct: Share


class Estimate(Settings):
    """Typical numbers of a scale.

    Attributes:
        machine: name in `planning.machines`, used unless `gpu=` names another.
        spread: standard deviation of the response length over its mean.
        gradients_per_proposal: evaluations of ∂L/∂y after the first, per proposal of ∇-Reasoner.
        later_passes: proposals of a further pass over a response, as a share of the pass before it.
        classifier_proposals_ratio: proposals under a reward model with a score head, as a multiple of those under a
            likelihood reward.
        langevin_change_share: share of the proposals of discrete Langevin sampling that differ from the state.
        critique_tokens: tokens of TPO's critiques and instructions.
        tasks: typical numbers by task.
    """

    machine: str
    spread: Share
    gradients_per_proposal: Positive
    later_passes: Share
    classifier_proposals_ratio: Positive
    langevin_change_share: Share
    critique_tokens: Count
    tasks: dict[str, TaskEstimate]
