"""Scores of numbers: absolute and squared errors, and the coefficient of determination.

Weights have a number per example or position: their shape is a prefix of that of the targets. What
has the weight 0 is left out, even if it is NaN.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ..explain.text import describe
from .class_scores import mean_of_ratios, spread_weights
from .labels import ratio, wide
from .metrics import Derived, Ratio


def mae(outputs: Any, targets: Any, weights: Any = None) -> Ratio:
    """The mean absolute error, as `sklearn.metrics.mean_absolute_error`.

    Args:
        outputs: numbers (..., 1) for targets (...), or the shape of the targets.
        targets: numbers.
        weights: a number per example or position; None for 1 each.

    >>> import jax.numpy as jnp
    >>> float(mae(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
    1.0
    """
    outputs, targets, kept, spread = _numbers("mae", outputs, targets, weights)
    return ratio(jnp.abs(outputs - targets), kept, spread, maximize=False)


def rmse(outputs: Any, targets: Any, weights: Any = None) -> Derived:
    """The root of the mean squared error, as `sklearn.metrics.root_mean_squared_error`.

    For several numbers per example, it is the mean over the last axis of the root of each.

    Args:
        outputs: numbers (..., 1) for targets (...), or the shape of the targets.
        targets: numbers.
        weights: a number per example or position; None for 1 each.

    >>> import jax.numpy as jnp
    >>> f"{rmse(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])):.4f}"
    '1.4142'
    """
    outputs, targets, kept, spread = _numbers("rmse", outputs, targets, weights)
    count = _counts(outputs, kept, spread)
    squares = _over_rows(count * jnp.square(outputs - targets))
    return Derived(_root, (squares, _over_rows(count)), maximize=False)


def r2(outputs: Any, targets: Any, weights: Any = None) -> Derived:
    """The coefficient of determination: 1 - squared errors / squared deviations from the mean.

    As in `sklearn.metrics.r2_score`, it is the mean over the last axis for several numbers per
    example; for equal targets it is 1 if there are no errors, and 0 otherwise.

    Args:
        outputs: numbers (..., 1) for targets (...), or the shape of the targets.
        targets: numbers.
        weights: a number per example or position; None for 1 each.

    >>> import jax.numpy as jnp
    >>> f"{r2(jnp.array([2.5, 0.0, 2.0, 8.0]), jnp.array([3.0, -0.5, 2.0, 7.0])):.4f}"
    '0.9486'
    """
    outputs, targets, kept, spread = _numbers("r2", outputs, targets, weights)
    rows = tuple(a.reshape(-1, a.shape[-1]) for a in (targets, _counts(outputs, kept, spread)))
    errors = _over_rows(rows[1] * jnp.square(outputs - targets).reshape(rows[0].shape))
    zeros = jnp.zeros_like(rows[0])
    moments = _moments(rows[1], rows[0], zeros, zeros)
    return Derived(_determination, (errors, *moments), maximize=True, merge=_merged)


def _numbers(name: str, outputs: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any, Any]:
    """Outputs and targets (..., L), what is kept, and the weights or None, of the same shape."""
    outputs, targets = wide(outputs), wide(targets)
    spread = spread_weights(name, weights, targets)
    if outputs.shape == (*targets.shape, 1):
        targets = targets[..., None]
        spread = None if spread is None else spread[..., None]
    elif outputs.shape != targets.shape:
        fits = outputs.size == targets.size
        advice = f"outputs.reshape{targets.shape}" if fits else f"outputs of shape {targets.shape}"
        raise ValueError(
            f"{name} needs outputs of the shape of the targets, or (..., 1) for targets (...), got "
            f"{describe(outputs)} for {describe(targets)}; write {advice}"
        )
    elif targets.ndim < 2:
        outputs, targets = outputs.reshape(-1, 1), targets.reshape(-1, 1)
        spread = None if spread is None else spread.reshape(-1, 1)
    if spread is None:
        return outputs, targets, None, None
    kept = spread != 0
    return jnp.where(kept, outputs, 0), jnp.where(kept, targets, 0), kept, spread


def _counts(outputs: jax.Array, kept: Any, spread: Any) -> jax.Array:
    return jnp.ones_like(outputs) if kept is None else spread.astype(outputs.dtype)


def _over_rows(values: jax.Array) -> jax.Array:
    """Sums (L,) of values (..., L)."""
    return jnp.sum(values, tuple(range(values.ndim - 1)))


def _root(squares: Any, count: Any) -> Any:
    mean = squares / jnp.where(count == 0, 1, count)
    return mean_of_ratios(jnp.sqrt(mean), jnp.ones_like(mean), count)


def _moments(count: Any, origin: Any, shift: Any, deviations: Any) -> tuple[Any, Any, Any, Any]:
    """Count, mean, and squared deviations of parts along the leading axis, in two passes.

    Sums of squares would cancel in float32 if the mean is larger than the deviations. For the same
    reason a mean is two numbers, an origin, which is one of the values, and a shift from it.
    """
    whole = count.sum(0)
    start = jnp.take_along_axis(origin, jnp.argmax(count > 0, 0)[None], 0)
    apart = (origin - start) + shift
    mean = (count * apart).sum(0) / jnp.where(whole == 0, 1, whole)
    return whole, start[0], mean, (deviations + count * (apart - mean[None]) ** 2).sum(0)


def _merged(errors: Any, *moments: Any) -> tuple[Any, ...]:
    return (errors.sum(0), *_moments(*moments))


def _determination(errors: Any, count: Any, origin: Any, shift: Any, deviations: Any) -> Any:
    del origin, shift
    equal = deviations == 0
    found = 1 - errors / jnp.where(equal, 1, deviations)
    found = jnp.where(equal, jnp.where(errors == 0, 1, 0), found)
    return mean_of_ratios(found, jnp.ones_like(found), count)
