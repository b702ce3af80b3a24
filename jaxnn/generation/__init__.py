"""Generation: a trained network that writes on, token by token."""

from .generate import Generation, generate

__all__ = ["Generation", "generate"]
