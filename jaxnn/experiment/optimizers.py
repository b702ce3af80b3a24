"""Optimizers as configurations: plain numbers, which become a `train.Optimizer`.

In each the learning rate falls from its peak to zero over the run by half a cosine, as is usual
for a run of known length. All numbers are data, the length of the run among them: changing one
compiles nothing anew.

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
    """Share of each weight taken off a step, times the learning rate."""

    def __post_init__(self) -> None:
        """Raise ValueError for numbers that are negative or NaN."""
        _check(self, "learning_rate", "weight_decay")

    def build(self, steps: int) -> Optimizer:
        """The optimizer of a run of so many steps.

        Reference: Loshchilov and Hutter, Decoupled weight decay regularization, 2019.

        >>> AdamW(learning_rate=1e-3).build(steps=100).numbers
        {'learning_rate': Cosine(peak=0.001, steps=100, end=0.0), 'weight_decay': 0.0001}
        """
        rate = Cosine(self.learning_rate, steps)
        return Optimizer(optax.adamw, learning_rate=rate, weight_decay=self.weight_decay)


@dataclasses.dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum."""

    learning_rate: float = 0.1
    """The largest step size; it falls to zero over the run by half a cosine."""
    momentum: float = 0.9
    """Share of the last update that goes on, in [0, 1]."""

    def __post_init__(self) -> None:
        """Raise ValueError for numbers that are negative or NaN."""
        _check(self, "learning_rate", "momentum")

    def build(self, steps: int) -> Optimizer:
        """The optimizer of a run of so many steps.

        >>> SGD(learning_rate=0.1).build(steps=100).numbers
        {'learning_rate': Cosine(peak=0.1, steps=100, end=0.0), 'momentum': 0.9}
        """
        rate = Cosine(self.learning_rate, steps)
        return Optimizer(optax.sgd, learning_rate=rate, momentum=self.momentum)


def _check(config: Any, *names: str) -> None:
    for name in names:
        number = getattr(config, name)
        if not is_traced(number) and not number >= 0:  # infinity too: that a run diverges is told
            raise ValueError(f"{type(config).__name__}.{name} is a number >= 0, got {number!r}")
