"""Policy, reward model and their tokenizers."""

from .language_models import Policy, RewardModel
from .tokenizers import load_tokenizer

__all__ = ["Policy", "RewardModel", "load_tokenizer"]
