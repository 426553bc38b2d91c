"""Token selection: uncertain positions by confidence or entropy, and the gradient-norm gate."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from ..dto import gradients, straight_through
from ..dto.gradients import Gradient
from ..engine import numerics
from ..engine.generation import TokenPredictions
from ..models.language_models import Policy
from .settings import Variant


def uncertain(
    states: TokenPredictions, variant: Variant, confidence_threshold: float, entropy_threshold: float
) -> list[int]:
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
    for part in numerics.chunks(len(positions), policy.vocab_size):
        own = list(positions[part])
        rows = gradients.onehot_gradient([gradient], [own])
        if variant.gate == "logits":
            logits = numerics.at_least_float32(policy.logits(latents[own]))
            rows = straight_through.logits_gradient(logits, rows, temperature=temperature)
        norms += rows.norm(dim=-1).tolist()
    return norms
