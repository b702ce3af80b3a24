"""Generation of tokens by a trained network."""

from .generate import Generation, generate

__all__ = ["Generation", "generate"]
