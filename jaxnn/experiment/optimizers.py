"""Optimizers as configurations: plain numbers, which become a `train.Optimizer`.

In each the learning rate falls from its peak to zero over the run by half a cosine, as is usual
for a run of known length. All numbers are data, the length of the run among them: changing one
compiles nothing anew.

Reference: Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from ..core.values import is_traced
from ..train import Optimizer


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
        {'learning_rate': 0.001, 'weight_decay': 0.0001, 'steps': 100}
        """
        return Optimizer(
            _adamw, learning_rate=self.learning_rate, weight_decay=self.weight_decay, steps=steps
        )


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
        {'learning_rate': 0.1, 'momentum': 0.9, 'steps': 100}
        """
        return Optimizer(
            _sgd, learning_rate=self.learning_rate, momentum=self.momentum, steps=steps
        )


def cosine_decay(peak: Any, steps: Any) -> Callable[[Any], Any]:
    """The schedule peak * (1 + cos(pi * min(step / steps, 1))) / 2.

    Unlike `optax.cosine_decay_schedule`, it takes traced numbers.

    >>> schedule = cosine_decay(2.0, 10)
    >>> [round(float(schedule(step)), 6) for step in (0, 5, 10, 11)]
    [2.0, 1.0, 0.0, 0.0]
    """
    return lambda step: peak * (1 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1))) / 2


def _adamw(learning_rate: Any, weight_decay: Any, steps: Any) -> optax.GradientTransformation:
    return optax.adamw(cosine_decay(learning_rate, steps), weight_decay=weight_decay)


def _sgd(learning_rate: Any, momentum: Any, steps: Any) -> optax.GradientTransformation:
    return optax.sgd(cosine_decay(learning_rate, steps), momentum=momentum)


def _check(config: Any, *names: str) -> None:
    for name in names:
        number = getattr(config, name)
        if not is_traced(number) and not number >= 0:  # infinity too: that a run diverges is told
            raise ValueError(f"{type(config).__name__}.{name} is a number >= 0, got {number!r}")
