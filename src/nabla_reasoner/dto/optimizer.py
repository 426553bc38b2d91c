"""Public entry to DTO: `optimize`."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from .. import cost
from ..engine.sequences import ModelCaches, TokenSequence
from ..models.language_models import Policy, RewardModel
from ..types import Messages
from . import gradient_passes, objective, reference
from .batched import descend
from .gradients import TERMS, Gradient
from .settings import ENGINES, UPDATES, DTOResult, DTOSettings


def optimize(
    policy: Policy,
    reward: RewardModel,
    prompts: Sequence[Messages],
    prefix_ids: Sequence[Sequence[int]],
    rollout_ids: Sequence[Sequence[int]],
    *,
    parameter: str = "logits",
    update: str = "first",
    reward_weight: float = 1.0,
    nll_weight: float = 0.001,
    num_iterations: int = 20,
    step_size: float = 0.01,
    min_step_ratio: float = 0.1,
    ste_temperature: float = 1.0,
    gradient_caching: bool = True,
    flip: str = "argmax",
    draw_temperature: float = 1.0,
    terms: Sequence[str] = TERMS,
    uniforms: Sequence[Float[np.ndarray, "_ vocab"]] | None = None,
    engine: str = "fast",
) -> list[DTOResult]:
    """Descend L(y) = -λ r(y|x) - ν log π(y|x) from the policy's own logits for each rollout.

    Args:
        prompts: one chat (list of messages) per sequence.
        prefix_ids: committed response tokens, possibly none.
        rollout_ids: the rest of the response, at least one token.
        update: "first" moves the first rollout row only (the released scripts); "all" moves every row (Alg. 2).
        reward_weight: λ >= 0.
        nll_weight: ν >= 0, the factor of the policy's negative log-likelihood.
        flip, draw_temperature: what a flip is, and τ at which the rollouts were drawn (see `descent.Descent`).
        terms: parts of ∂L/∂y that are kept, of `gradients.TERMS`.
        uniforms: per sequence [length, vocab] numbers in [0, 1), the source of the noise of flip "gumbel".
        engine: "fast" or "reference".

    Raises:
        ValueError: a setting out of range, flip "gumbel" without uniforms, an empty rollout, or vocabularies that
            differ.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}.")
    if update not in UPDATES:
        raise ValueError(f"update must be one of {', '.join(UPDATES)}; got {update!r}.")
    objective.check_weights(reward_weight, nll_weight)
    objective.check_terms(terms)
    descent = DTOSettings(
        parameter, num_iterations, step_size, min_step_ratio, ste_temperature, gradient_caching, flip, draw_temperature
    ).check()
    if flip == "gumbel" and uniforms is None:
        raise ValueError("flip=gumbel needs uniforms, [length, vocab] numbers for every sequence; got none.")
    sequences = [
        objective.make_sequence(policy, reward, messages, prefix, rollout)
        for messages, prefix, rollout in zip(prompts, prefix_ids, rollout_ids, strict=True)
    ]
    weights = {"reward_weight": reward_weight, "nll_weight": nll_weight, "terms": terms}
    if engine == "reference":
        return [
            reference.optimize(policy, reward, sequence, update=update, descent=descent, uniforms=own, **weights)
            for sequence, own in zip(sequences, uniforms or [None] * len(sequences), strict=True)
        ]

    caches = ModelCaches(len(sequences))

    def evaluate(batch: Sequence[TokenSequence], numbers: Sequence[int]) -> list[Gradient]:
        return gradient_passes.evaluate(policy, reward, batch, caches=caches, slots=numbers, **weights)

    gradients = evaluate(sequences, range(len(sequences)))
    positions = [[0] if update == "first" else list(range(len(s.rollout))) for s in sequences]
    latents = torch.cat([g.hidden[p] for g, p in zip(gradients, positions, strict=True)])
    rows = uniforms and [own[p] for own, p in zip(uniforms, positions, strict=True)]
    results = descend(policy, sequences, gradients, positions, latents, evaluate, descent, rows)
    return [
        result._replace(
            gradient_evaluations=result.gradient_evaluations + 1, cost=cost.total([gradient.cost, result.cost])
        )
        for result, gradient in zip(results, gradients, strict=True)
    ]
