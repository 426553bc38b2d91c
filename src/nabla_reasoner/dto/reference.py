"""DTO as it is printed (Alg. 2 and 4, arXiv 2603.04948): the engine that the fast one is tested against."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import cost
from ..engine.numerics import NonFiniteError
from ..engine.sequences import TokenSequence
from ..models.language_models import Policy, RewardModel
from . import objective, straight_through
from .reward_forms import OUTCOME, Objective
from .settings import DTOResult, DTOSettings


def optimize(
    policy: Policy,
    reward: RewardModel,
    sequence: TokenSequence,
    settings: DTOSettings,
    *,
    uniforms: Float[np.ndarray, "length vocab"] | None = None,
    latents: Float[Tensor, "length hidden"] | None = None,
) -> DTOResult:
    """Optimise one sequence: every row is a parameter, with autograd through both models at every evaluation.

    Args:
        uniforms: source of the noise of flip "gumbel", in [0, 1).
        latents: hidden states that yield z^(1); None takes the policy's own for this sequence.
    """
    if latents is None:
        latents = first_latents(policy, sequence)

    def rows(parameter: Tensor) -> Float[Tensor, "length vocab"]:
        return policy.logits(parameter) if settings.parameter == "latents" else parameter

    start = policy.logits(latents)
    sampled = torch.tensor(sequence.rollout, device=latents.device)
    noise = None
    if settings.flip == "gumbel":
        noise = straight_through.explaining_noise(start, sampled, uniforms, settings.draw_temperature)
    first_argmax = straight_through.argmax(start, noise)
    parameter = (latents if settings.parameter == "latents" else start).clone().requires_grad_()
    adam = torch.optim.Adam([parameter], lr=settings.step_size)
    trace, evaluations, onehot_gradient, evaluated_at = [], 0, None, None
    for iteration in range(settings.num_iterations):
        with torch.enable_grad():
            logits = rows(parameter)
            hard = straight_through.hard_tokens(logits, first_argmax, sampled, noise)
            onehots = straight_through.straight_through(logits, hard, temperature=settings.ste_temperature)
            if onehot_gradient is None or not settings.gradient_caching or not torch.equal(hard, evaluated_at):
                loss, onehot_gradient = _gradient_at(policy, reward, sequence, hard, onehots, settings)
                evaluations, evaluated_at = evaluations + 1, hard
            trace.append(loss)
            (gradient,) = torch.autograd.grad((onehots * onehot_gradient).sum(), parameter)  # through the estimator
        if settings.update == "first":
            gradient[1:] = 0
        parameter.grad = gradient
        adam.param_groups[0]["lr"] = settings.step(iteration)
        adam.step()
    final = rows(parameter.detach())
    return DTOResult(
        logits=final[:1] if settings.update == "first" else final,
        objective=trace,
        gradient_evaluations=evaluations,
        token_ids=straight_through.hard_tokens(final, first_argmax, sampled, noise).tolist(),
        cost=cost.total([_evaluation_cost(policy, reward, sequence, settings)] * evaluations),
    )


def _gradient_at(
    policy: Policy,
    reward: RewardModel,
    sequence: TokenSequence,
    hard: Int[Tensor, " length"],
    onehots: Float[Tensor, "length vocab"],
    settings: DTOSettings,
) -> tuple[float, Float[Tensor, "length vocab"]]:
    """Return L and ∂L/∂y at the hard tokens."""
    leaf = onehots.detach().requires_grad_()
    # the hard tokens decide whether the reward model adds an end token
    part = settings.relevant_part(sequence._replace(rollout=hard.tolist()))
    loss = objective.relaxed_objective(policy, reward, part, leaf[: len(part.rollout)], **settings.objective)
    (gradient,) = torch.autograd.grad(loss + 0 * leaf.sum(), leaf)  # + 0: no term may depend on the leaf
    if not (loss.isfinite() and gradient.isfinite().all()):
        raise NonFiniteError(f"the objective and its gradient by {policy.name} and {reward.name}")
    return loss.item(), gradient


def _evaluation_cost(policy: Policy, reward: RewardModel, sequence: TokenSequence, settings: DTOSettings) -> cost.Cost:
    """Return the cost of one evaluation of ∂L/∂y: both models read prompt and response, backward where it is needed.

    The process and prefix forms read the reward model once for every rollout token, each time from the prompt on.
    """
    sequence = settings.relevant_part(sequence)
    count = len(sequence.rollout)
    tokens = len(sequence.prefix) + count
    length = len(sequence.reward_prompt) + tokens
    read = cost.one_pass(0, len(sequence.policy_prompt) + tokens, count)
    scored = cost.one_pass(0, length, 1 if reward.has_score_head else tokens)
    if settings.reward_form != OUTCOME:
        ends = range(length - count + 1, length + 1)
        scored = sum((cost.one_pass(0, end, scored.outputs) for end in ends), cost.Reads())
    used = Objective(**settings.objective)
    return cost.gradient_evaluation(
        policy.size,
        read,
        read if used.policy_backward else cost.Reads(),
        reward.size,
        scored,
        scored if used.reward_backward(reward) else cost.Reads(),
    )


@torch.no_grad()
def first_latents(policy: Policy, sequence: TokenSequence) -> Float[Tensor, "length hidden"]:
    """Return the policy's hidden states that predict each rollout token of one sequence."""
    ids = torch.tensor([sequence.policy_prompt + sequence.prefix + sequence.rollout], device=policy.device)
    return policy.hidden_states(policy.embedding[ids])[0, -len(sequence.rollout) - 1 : -1]
