"""DTO as it is written (Alg. 2 and 4, arXiv 2603.04948): the engine that the fast one is tested against."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import cost
from ..engine.sequences import TokenSequence
from ..models.language_models import Policy, RewardModel
from . import objective, straight_through
from .gradients import TERMS
from .settings import DTOResult, DTOSettings


def optimize(
    policy: Policy,
    reward: RewardModel,
    sequence: TokenSequence,
    *,
    update: str,
    descent: DTOSettings,
    reward_weight: float,
    nll_weight: float,
    terms: Sequence[str] = TERMS,
    uniforms: Float[np.ndarray, "length vocab"] | None = None,
    latents: Float[Tensor, "length hidden"] | None = None,
) -> DTOResult:
    """The plain algorithm: one sequence, every row a parameter, autograd through both models.

    Args:
        terms: parts of ∂L/∂y that are kept.
        uniforms: in [0, 1), the source of the noise of flip "gumbel".
        latents: hidden states that yield z^(1); None takes the policy's own for this sequence.
    """
    if latents is None:
        latents = first_latents(policy, sequence)
    value = latents.clone() if descent.parameter == "latents" else policy.logits(latents)
    value.requires_grad_()
    start, sampled = policy.logits(latents), torch.tensor(sequence.rollout, device=latents.device)
    noise = 0.0
    if descent.flip == "gumbel":
        noise = straight_through.explaining_noise(start, sampled, uniforms, descent.draw_temperature)
    first = (start + noise).argmax(-1)
    adam = torch.optim.Adam([value], lr=descent.step_size)
    trace, evaluations, cached, cached_for = [], 0, None, None
    for iteration in range(descent.num_iterations):
        with torch.enable_grad():
            logits = policy.logits(value) if descent.parameter == "latents" else value
            best = (logits + noise).argmax(-1)
            hard = torch.where(best == first, sampled, best)
            onehots = straight_through.straight_through(logits, hard, temperature=descent.ste_temperature)
            if cached is None or not descent.gradient_caching or not torch.equal(hard, cached_for):
                leaf = onehots.detach().requires_grad_()  # stage A: ∂L/∂y at the hard sequence
                here = sequence._replace(rollout=hard.tolist())  # decides whether the reward model adds an end token
                loss = objective.relaxed_objective(
                    policy, reward, here, leaf, reward_weight=reward_weight, nll_weight=nll_weight, terms=terms
                )
                (cached,) = torch.autograd.grad(loss + 0 * leaf.sum(), leaf)  # 0: where no term depends on the leaf
                cached_for, evaluations, current = hard, evaluations + 1, loss.item()
            trace.append(current)
            (gradient,) = torch.autograd.grad((onehots * cached).sum(), value)  # stage B: through the estimator
        if update == "first":
            gradient[1:] = 0
        value.grad = gradient
        adam.param_groups[0]["lr"] = descent.step(iteration)
        adam.step()
    final = policy.logits(value.detach()) if descent.parameter == "latents" else value.detach()
    best = (final + noise).argmax(-1)
    hard = torch.where(best == first, sampled, best)
    tokens = len(sequence.prefix) + len(sequence.rollout)
    read, scored = len(sequence.policy_prompt) + tokens, len(sequence.reward_prompt) + tokens
    one = cost.gradient_evaluation(policy.parameters, read, read, reward.parameters, scored, scored)
    return DTOResult(
        final[:1] if update == "first" else final, trace, evaluations, hard.tolist(), cost.total([one] * evaluations)
    )


@torch.no_grad()
def first_latents(policy: Policy, sequence: TokenSequence) -> Float[Tensor, "length hidden"]:
    """The policy's hidden states that predict each rollout token of one sequence."""
    ids = torch.tensor([sequence.policy_prompt + sequence.prefix + sequence.rollout], device=policy.device)
    return policy.hidden_states(policy.embedding[ids])[0, -len(sequence.rollout) - 1 : -1]
