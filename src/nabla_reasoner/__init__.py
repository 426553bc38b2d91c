"""An open replication of "∇-Reasoner: LLM Reasoning via Test-Time Gradient Descent in Latent Space" (arXiv 2603.04948).

The public names are imported when first used, so that asking the command line for help does not load torch.
"""

import importlib
from typing import Any

_HOMES = {
    "BestOfN": "baselines.repeated_sampling",
    "DiscreteLangevin": "baselines.discrete_langevin",
    "Greedy": "baselines.repeated_sampling",
    "GuidedDecoding": "baselines.guided_decoding",
    "JudgeGreedy": "baselines.judge_decoding",
    "LogitMixture": "baselines.judge_decoding",
    "MHResampling": "baselines.mh_resampling",
    "NablaReasoner": "decoding.nabla_reasoner",
    "ParticleFilter": "baselines.particle_filter",
    "Policy": "models.language_models",
    "Problem": "types",
    "RAP": "baselines.rap",
    "RewardModel": "models.language_models",
    "SelfConsistency": "baselines.repeated_sampling",
    "SoftBestOfN": "baselines.repeated_sampling",
    "Solution": "types",
    "TPO": "baselines.tpo",
    "TreeOfThoughts": "baselines.tree_of_thoughts",
    "WeightedSelfConsistency": "baselines.repeated_sampling",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it exports {', '.join(__all__)}.")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
