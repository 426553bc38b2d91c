"""An open replication of "∇-Reasoner: LLM Reasoning via Test-Time Gradient Descent in Latent Space" (arXiv 2603.04948).

The public names are imported when first used, so that asking the command line for help does not load torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names for type checkers and editors
    from .baselines.discrete_langevin import DiscreteLangevin as DiscreteLangevin
    from .baselines.guided_decoding import GuidedDecoding as GuidedDecoding
    from .baselines.judge_decoding import JudgeGreedy as JudgeGreedy, LogitMixture as LogitMixture
    from .baselines.mh_resampling import MHResampling as MHResampling
    from .baselines.particle_filter import ParticleFilter as ParticleFilter
    from .baselines.rap import RAP as RAP
    from .baselines.repeated_sampling import (
        BestOfN as BestOfN,
        Greedy as Greedy,
        SelfConsistency as SelfConsistency,
        SoftBestOfN as SoftBestOfN,
        WeightedSelfConsistency as WeightedSelfConsistency,
    )
    from .baselines.tpo import TPO as TPO
    from .baselines.tree_of_thoughts import TreeOfThoughts as TreeOfThoughts
    from .decoding.nabla_reasoner import NablaReasoner as NablaReasoner
    from .models.language_models import Policy as Policy, RewardModel as RewardModel
    from .types import Problem as Problem, Solution as Solution

__version__ = "0.1.0"

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


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it exports {', '.join(__all__)}.")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
