"""An open replication of "∇-Reasoner: LLM Reasoning via Test-Time Gradient Descent in Latent Space" (arXiv 2603.04948).

The public names are imported when first used, so that asking the command line for help does not load torch.
"""

import importlib
from typing import Any

_HOMES = {
    "BestOfN": "baselines",
    "Greedy": "baselines",
    "NablaReasoner": "decoding",
    "Policy": "models",
    "Problem": "problems",
    "RAP": "search",
    "RewardModel": "models",
    "SelfConsistency": "baselines",
    "Solution": "records",
    "TPO": "revision",
    "TreeOfThoughts": "search",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it exports {', '.join(__all__)}.")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
