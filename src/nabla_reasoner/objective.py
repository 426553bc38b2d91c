"""Public path of `gradient_terms`."""

from .dto.objective import GradientTerms, gradient_terms

__all__ = ["GradientTerms", "gradient_terms"]
