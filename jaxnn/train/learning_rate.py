"""The learning rate of a step, for the records of a run."""

from typing import Any

import jax
import numpy as np

from .optimizer import Optimizer


def rate_at(optimizer: Any, step: int) -> dict[str, float]:
    """`learning_rate` in the step with this number, from 0 on, where a `train.Optimizer` has one.

    >>> import optax
    >>> from .schedules import Linear
    >>> rate_at(Optimizer(optax.sgd, learning_rate=Linear(1.0, 0.0, steps=4)), 1)
    {'learning_rate': 0.75}
    """
    if not isinstance(optimizer, Optimizer):
        return {}
    rate = optimizer.arguments.get("learning_rate")
    if rate is None:
        inside = (one for one in jax.tree.leaves(optimizer.parts, is_leaf=_is_one) if _is_one(one))
        return next((found for one in inside if (found := rate_at(one, step))), {})
    return {"learning_rate": float(np.asarray(rate(step) if callable(rate) else rate))}


def _is_one(item: Any) -> bool:
    return isinstance(item, Optimizer)
