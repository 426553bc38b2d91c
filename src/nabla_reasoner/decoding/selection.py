"""Token selection: uncertain positions by confidence or entropy, and the gradient-norm gate."""

from collections.abc import Sequence

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
    gradient: Gradient,
    latents: Float[Tensor, "length hidden"],
    positions: Sequence[int],
    settings: NablaSettings,
) -> list[float]:
    """Return what ε_grad is compared with at each position: the Euclidean norm of ∂L/∂y, or of ∂L/∂z.

    Computed for a few positions at a time: a long response never holds [length, vocab] numbers.
    """
    norms: list[float] = []
    for part in numerics.chunks(len(positions), policy.vocab_size):
        chunk = list(positions[part])
        rows = gradients.onehot_gradient([gradient], [chunk])
        if settings.variant.gate == "logits":
            logits = numerics.at_least_float32(policy.logits(latents[chunk]))
            rows = straight_through.logits_gradient(logits, rows, temperature=settings.dto.ste_temperature)
        norms += rows.norm(dim=-1).tolist()
    return norms
