"""Optimizers as configurations: plain numbers, which become a `train.Optimizer`.

The learning rate falls from its peak to zero over the run by half a cosine. All numbers, also the
length of the run, change without recompiling.

Reference: Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017.
"""

import dataclasses
from typing import Any

import optax

from ..fields import is_traced
from ..train import Cosine, Optimizer


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay."""

    learning_rate: float = 1e-3
    """The largest step size; it falls to zero over the run by half a cosine."""
    weight_decay: float = 1e-4
    """The fraction of each weight that a step subtracts, before the learning rate."""

    def __post_init__(self) -> None:
        """Raise ValueError for numbers that are negative or NaN."""
        _check(self, "learning_rate", "weight_decay")

    def build(self, steps: int) -> Optimizer:
        """The optimizer of a run of `steps` steps.

        Reference: Loshchilov and Hutter, Decoupled weight decay regularization, 2019.

        >>> AdamW(learning_rate=1e-3).build(steps=100).numbers
        {'learning_rate': Cosine(peak=0.001, steps=100.0, end=0.0), 'weight_decay': 0.0001}
        """
        rate = Cosine(self.learning_rate, float(steps))  # a leaf of programs
        return Optimizer(optax.adamw, learning_rate=rate, weight_decay=self.weight_decay)


@dataclasses.dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum."""

    learning_rate: float = 0.1
    """The largest step size; it falls to zero over the run by half a cosine."""
    momentum: float = 0.9
    """The fraction of the last update that is added to the next one, in [0, 1]."""

    def __post_init__(self) -> None:
        """Raise ValueError for numbers that are negative or NaN."""
        _check(self, "learning_rate", "momentum")

    def build(self, steps: int) -> Optimizer:
        """The optimizer of a run of `steps` steps.

        >>> SGD(learning_rate=0.1).build(steps=100).numbers
        {'learning_rate': Cosine(peak=0.1, steps=100.0, end=0.0), 'momentum': 0.9}
        """
        rate = Cosine(self.learning_rate, float(steps))  # a leaf of programs
        return Optimizer(optax.sgd, learning_rate=rate, momentum=self.momentum)


def _check(config: Any, *names: str) -> None:
    for name in names:
        number = getattr(config, name)
        if not is_traced(number) and not number >= 0:  # also infinity: the run then diverges
            raise ValueError(f"{type(config).__name__}.{name} is a number >= 0, got {number!r}")
