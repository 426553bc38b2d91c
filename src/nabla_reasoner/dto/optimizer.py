"""Public entry to DTO: `optimize`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from .. import cost
from ..engine.sampling import check_choice
from ..engine.sequences import ModelCaches, TokenSequence
from ..models.arguments import TokenIds, check_lengths, check_uniforms
from ..models.frozen import frozen
from ..models.language_models import Policy, RewardModel
from ..types import Messages
from . import gradient_passes, objective, reference
from .batched import DescentStart, descend
from .gradient_passes import Known
from .gradients import Gradient
from .reward_forms import PREFIX
from .settings import ENGINES, DTOResult, DTOSettings

DEFAULTS = DTOSettings()


def optimize(
    policy: Policy,
    reward: RewardModel,
    prompts: Sequence[Messages],
    prefix_ids: Sequence[TokenIds],
    rollout_ids: Sequence[TokenIds],
    *,
    settings: DTOSettings = DEFAULTS,
    uniforms: Sequence[Float[np.ndarray, "_ vocab"]] | None = None,
    engine: str = "fast",
    **changes: Any,
) -> list[DTOResult]:
    """Minimise L(y) = -λ r(y|x) - ν log π(y|x) by gradient descent from the policy's own logits of each rollout.

    Args:
        prompts: one chat (list of messages) per sequence.
        prefix_ids: committed response tokens, possibly none.
        rollout_ids: rest of the response, at least one token.
        settings: settings of the descent.
        uniforms: per sequence [length, vocab] numbers in [0, 1), the source of the noise of flip "gumbel".
        engine: "fast" or "reference"; both compute the same numbers.
        changes: keywords that replace fields of `settings`: parameter, update, reward_weight, nll_weight, reward_form,
            terms, num_iterations, step_size, min_step_ratio, ste_temperature, gradient_caching, flip,
            draw_temperature (see `DTOSettings` for their meaning and defaults).

    Raises:
        TypeError: an unknown keyword, or models in another order.
        ValueError: a setting out of range, flip "gumbel" without uniforms, uniforms of another shape or outside
            [0, 1), lists of different lengths, a prompt that is no chat, tokens outside the policy's vocabulary, an
            empty rollout, vocabularies that differ, or torch's inference mode.
    """
    check_choice("engine", engine, ENGINES)
    if not isinstance(settings, DTOSettings):
        raise TypeError(
            f"settings must be a DTOSettings; got {settings!r}. Write optimize(..., **SETTINGS) for a dict."
        )
    settings = settings.replace(**changes)
    if settings.flip == "gumbel" and uniforms is None:
        raise ValueError("flip=gumbel needs uniforms, [length, vocab] numbers for every sequence; got none.")
    sequences = objective.make_sequences(policy, reward, prompts, prefix_ids, rollout_ids)
    reward = reward.for_policy(policy)
    if uniforms is not None:
        check_lengths(prompts=prompts, uniforms=uniforms)
        for sequence, numbers in zip(sequences, uniforms, strict=True):
            check_uniforms(numbers, len(sequence.rollout), policy)
    if not sequences:
        return []
    sources = [None] * len(sequences) if uniforms is None else uniforms
    with frozen(policy, reward):
        if engine == "reference":
            return [
                reference.optimize(policy, reward, sequence, settings, uniforms=source)
                for sequence, source in zip(sequences, sources, strict=True)
            ]
        return _optimize_batched(policy, reward, sequences, settings, sources)


def _optimize_batched(
    policy: Policy,
    reward: RewardModel,
    sequences: Sequence[TokenSequence],
    settings: DTOSettings,
    sources: Sequence[Float[np.ndarray, "_ vocab"] | None],
) -> list[DTOResult]:
    caches = ModelCaches(len(sequences))
    first_row = settings.reward_form == PREFIX and settings.update == "first"  # it does not depend on its own token
    known: dict[int, Known] = {}

    def evaluate(batch: Sequence[TokenSequence], slots: Sequence[int]) -> list[Gradient]:
        return gradient_passes.evaluate(
            policy,
            reward,
            [settings.relevant_part(sequence) for sequence in batch],
            caches=caches,
            slots=slots,
            known=[known.get(slot, ()) for slot in slots],
            **settings.objective,
        )

    starts = []
    gradients = evaluate(sequences, range(len(sequences)))
    for slot, (sequence, gradient, source) in enumerate(zip(sequences, gradients, sources, strict=True)):
        positions = [0] if settings.update == "first" else list(range(len(sequence.rollout)))
        if first_row:
            known[slot] = gradient.predictors
        starts.append(
            DescentStart(
                sequence=sequence,
                gradient=gradient,
                positions=positions,
                latents=gradient.hidden[positions],
                uniforms=None if source is None else source[positions],
                just_evaluated=True,
            )
        )
    return [
        result._replace(
            gradient_evaluations=result.gradient_evaluations + 1, cost=cost.total([gradient.cost, result.cost])
        )
        for result, gradient in zip(descend(policy, starts, evaluate, settings), gradients, strict=True)
    ]
