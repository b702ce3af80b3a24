"""Normalisation as plain functions. Statistics are taken in at least float32, variances by two
passes: the mean first, then the mean square of what is left, since the mean of squares less the
squared mean loses all digits where the mean is large."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Axes = int | tuple[int, ...]


def moments(x: jax.Array, axis: Axes, axis_name: Any = None) -> tuple[jax.Array, jax.Array]:
    """Mean and variance (divided by n) over `axis`, kept as axes of size 1, in at least float32.

    With `axis_name` they are those over all devices or lanes of that mapped axis.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(x, axis, keepdims=True)
    if axis_name is not None:
        mean = lax.pmean(mean, axis_name)
    variance = jnp.mean(jnp.square(x - mean), axis, keepdims=True)
    if axis_name is not None:
        variance = lax.pmean(variance, axis_name)
    return mean, variance


def standardise(x: jax.Array, mean: jax.Array, variance: jax.Array, eps: float) -> jax.Array:
    """(x - mean) / sqrt(variance + eps), in the type of the statistics."""
    return (x.astype(mean.dtype) - mean) * lax.rsqrt(variance + jnp.asarray(eps, mean.dtype))


def layer_norm(x: jax.Array, axis: Axes = -1, eps: float = 1e-5) -> jax.Array:
    """x less its mean, divided by its standard deviation, over `axis`; in the type of `x`.

    >>> import jax.numpy as jnp
    >>> layer_norm(jnp.array([1.0, 3.0]), eps=0.0).tolist()
    [-1.0, 1.0]
    """
    return standardise(x, *moments(x, axis), eps).astype(x.dtype)


def rms_norm(x: jax.Array, axis: Axes = -1, eps: float = 1e-6) -> jax.Array:
    """x divided by its root mean square over `axis`; in the type of `x`.

    >>> import jax.numpy as jnp
    >>> rms_norm(jnp.array([3.0, 3.0]), eps=0.0).tolist()
    [1.0, 1.0]
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.mean(jnp.square(wide), axis, keepdims=True)
    return (wide * lax.rsqrt(square + jnp.asarray(eps, wide.dtype))).astype(x.dtype)
