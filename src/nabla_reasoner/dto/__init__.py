"""Differentiable Textual Optimization (Algorithms 2 and 4 of the paper)."""

from .optimizer import optimize

__all__ = ["optimize"]
