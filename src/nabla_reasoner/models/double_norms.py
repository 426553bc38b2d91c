"""Norms that keep float64, in place of those of transformers."""

import torch


def replace_norms(model: torch.nn.Module, name: str) -> None:
    """Replace transformers' RMSNorm, which always computes in float32, by torch's, which keeps float64.

    Raises:
        ValueError: a norm that is not torch's with its weight, or with 1 + its weight (Gemma), as factor.
    """
    for parent in list(model.modules()):
        for child, module in list(parent.named_children()):
            if type(module).__name__.endswith("RMSNorm") and not isinstance(module, torch.nn.RMSNorm):
                setattr(parent, child, _double_norm(module, name))


def _double_norm(module: torch.nn.Module, name: str) -> torch.nn.RMSNorm:
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if eps is not None:
        probe = torch.linspace(-1, 2, module.weight.numel(), device=module.weight.device, dtype=torch.float64)
        for factor in (module.weight, torch.nn.Parameter(1 + module.weight.detach())):
            norm = torch.nn.RMSNorm(module.weight.shape, eps=eps)
            norm.weight = factor
            with torch.no_grad():
                if torch.allclose(norm(probe), module(probe).double(), rtol=1e-4, atol=1e-5):
                    return norm
    raise ValueError(f"{name} cannot be computed in float64: {type(module).__name__} is unknown. Use dtype=float32.")
