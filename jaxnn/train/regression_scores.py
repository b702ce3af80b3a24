"""Scores of numbers: absolute and squared errors, and the coefficient of determination.

Weights have a number per example or position: their shape is a prefix of that of the targets. An
example with the weight 0 is left out, even if it is NaN.
"""

from typing import Any

import jax
import jax.numpy as jnp

from .class_scores import mean_of_ratios
from .examples import Examples, check_shapes, wide
from .metrics import Derived, Ratio


def mae(outputs: Any, targets: Any, weights: Any = None) -> Ratio:
    """The mean absolute error, as `sklearn.metrics.mean_absolute_error`.

    Args:
        outputs: Numbers (..., 1) for targets (...), or of the shape of the targets.
        targets: Numbers.
        weights: A number per example or position. Default: None, 1 each.

    >>> import jax.numpy as jnp
    >>> float(mae(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
    1.0
    """
    outputs, examples = _numbers("mae", outputs, targets, weights)
    return examples.ratio(jnp.abs(outputs - examples.targets), maximize=False)


def rmse(outputs: Any, targets: Any, weights: Any = None) -> Derived:
    """The root of the mean squared error, as `sklearn.metrics.root_mean_squared_error`.

    For several numbers per example, it is the mean over the last axis of the root of each.

    Args:
        outputs: Numbers (..., 1) for targets (...), or of the shape of the targets.
        targets: Numbers.
        weights: A number per example or position. Default: None, 1 each.

    >>> import jax.numpy as jnp
    >>> f"{rmse(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])):.4f}"
    '1.4142'
    """
    outputs, examples = _numbers("rmse", outputs, targets, weights)
    count = _weights_of(examples)
    squares = _over_rows(count * jnp.square(outputs - examples.targets))
    return Derived(_root, (squares, _over_rows(count)), maximize=False)


def r2(outputs: Any, targets: Any, weights: Any = None) -> Derived:
    """The coefficient of determination: 1 - squared errors / squared deviations from the mean.

    As in `sklearn.metrics.r2_score`, it is the mean over the last axis for several numbers per
    example; for equal targets it is 1 if there are no errors, and 0 otherwise.

    Args:
        outputs: Numbers (..., 1) for targets (...), or of the shape of the targets.
        targets: Numbers.
        weights: A number per example or position. Default: None, 1 each.

    >>> import jax.numpy as jnp
    >>> f"{r2(jnp.array([2.5, 0.0, 2.0, 8.0]), jnp.array([3.0, -0.5, 2.0, 7.0])):.4f}"
    '0.9486'
    """
    outputs, examples = _numbers("r2", outputs, targets, weights)
    count, targets = _weights_of(examples), examples.targets
    errors = _over_rows(count * jnp.square(outputs - targets))
    count, targets = (a.reshape(-1, a.shape[-1]) for a in (count, targets))
    moments = _moments(count, targets, jnp.zeros_like(count), jnp.zeros_like(count))
    return Derived(_determination, (errors, *moments), maximize=True, merge=_merged)


def _numbers(name: str, outputs: Any, targets: Any, weights: Any) -> tuple[jax.Array, Examples]:
    """Return outputs (..., L), 0 for what is left out, and the examples of targets (..., L)."""
    outputs, targets, owner = wide(outputs), wide(targets), f"train.{name}"
    examples = Examples.of_numbers(owner, targets, weights)
    one = (*targets.shape, 1)
    fit = check_shapes(
        owner, outputs, targets, targets.shape, one, hint=f"write outputs of shape {targets.shape}"
    )
    if fit == one or targets.ndim < 2:
        outputs, examples = jax.tree.map(lambda a: a.reshape(one), (outputs, examples))
    return examples.select(outputs), examples


def _weights_of(examples: Examples) -> jax.Array:
    """Return the weights (..., L), 1 each by default."""
    targets = examples.targets
    return (
        jnp.ones_like(targets) if examples.counts is None else examples.counts.astype(targets.dtype)
    )


def _over_rows(values: jax.Array) -> jax.Array:
    """Return the sums (L,) of values (..., L)."""
    return jnp.sum(values, tuple(range(values.ndim - 1)))


def _root(squares: Any, count: Any) -> Any:
    mean = squares / jnp.where(count == 0, 1, count)
    return mean_of_ratios(jnp.sqrt(mean), jnp.ones_like(mean), count)


def _moments(count: Any, origin: Any, shift: Any, deviations: Any) -> tuple[Any, Any, Any, Any]:
    """Return the count, mean, and squared deviations of parts along the leading axis.

    Two passes are made, since sums of squares would cancel in float32 if the mean is larger than
    the deviations. For the same reason a mean is two numbers: one of the values, the origin, and a
    shift from it.
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
