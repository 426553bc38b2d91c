"""Token selection: uncertain positions by confidence or entropy, and the gradient-norm gate."""

import itertools
import operator
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..dto import gradients, straight_through
from ..dto.gradients import Gradient
from ..engine import numerics
from ..engine.continuous_batching import TokenPredictions
from ..models.language_models import Policy
from .settings import NablaSettings


def uncertain(predictions: TokenPredictions, settings: NablaSettings) -> list[int]:
    """Return the positions of a response that pass the first gate, in order."""
    return passes_first_gate(predictions, settings).nonzero()[:, 0].tolist()


def passes_first_gate(predictions: TokenPredictions, settings: NablaSettings) -> Bool[Tensor, " length"]:
    """Return whether each token is uncertain."""
    if settings.variant.selection == "confidence":
        return predictions.confidence <= settings.confidence_threshold
    return predictions.entropy > settings.entropy_threshold


def gate_norms(
    policy: Policy,
    responses: Sequence[tuple[Gradient, Float[Tensor, "length hidden"]]],
    positions: Sequence[Sequence[int]],
    settings: NablaSettings,
) -> list[list[float]]:
    """Return what ε_grad is compared with at positions of each response: the norm of ∂L/∂y, or of ∂L/∂z.

    Computed for a few positions at a time, whatever their responses: the output matrix is read once for all of them,
    and a long response never holds [length, vocab] numbers.

    Args:
        responses: gradient of each response, and the latents of its tokens.
        positions: positions in each response.
    """
    pairs = [(index, position) for index, part in enumerate(positions) for position in part]
    norms: list[float] = []
    for part in numerics.chunks(len(pairs), policy.vocab_size):
        chunk = [
            (*responses[index], [position for _, position in group])
            for index, group in itertools.groupby(pairs[part], key=operator.itemgetter(0))
        ]
        rows = gradients.onehot_gradient([gradient for gradient, _, _ in chunk], [group for _, _, group in chunk])
        if settings.variant.gate == "logits":
            logits = numerics.at_least_float32(
                policy.logits(torch.cat([latents[group] for _, latents, group in chunk]))
            )
            rows = straight_through.logits_gradient(logits, rows, temperature=settings.dto.ste_temperature)
        norms += rows.norm(dim=-1).tolist()
    left = iter(norms)
    return [list(itertools.islice(left, len(part))) for part in positions]
