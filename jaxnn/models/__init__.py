"""Models: short values built from layers."""

from .mlp import MLP

__all__ = ["MLP"]
