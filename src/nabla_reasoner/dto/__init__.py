"""Differentiable Textual Optimization (Algorithms 2 and 4, arXiv 2603.04948)."""

from .optimizer import optimize

__all__ = ["optimize"]
