"""Weights that are frozen for a while, where gradients are taken of texts."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .language_models import Policy, RewardModel


@contextmanager
def frozen(policy: Policy, reward: RewardModel) -> Iterator[None]:
    """Freeze all weights and compute gradients: they are taken of texts, and none is stored for a weight.

    Raises:
        ValueError: torch's inference mode, in which there are no gradients.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError("DTO needs gradients; torch's inference mode computes none. Call it outside, or use no_grad.")
    models = [policy.model, reward.model, *([reward.reference.model] if reward.reference is not None else [])]
    weights = [weight for model in models for weight in model.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
