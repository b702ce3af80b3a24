"""Normalisation as plain functions. Statistics are taken in at least float32, variances by two
passes: the mean first, then the mean square of what is left, since the mean of squares less the
squared mean loses all digits where the mean is large."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .linear import floating_type, wider_type

Axes = int | tuple[int, ...]


def moments(x: jax.Array, axis: Axes, axis_name: Any = None) -> tuple[jax.Array, jax.Array]:
    """Mean and variance (divided by n) over `axis`, kept as axes of size 1, in at least float32.

    With `axis_name` they are those over all devices or lanes of that mapped axis.
    """
    x = x.astype(wider_type(x.dtype, jnp.float32))
    mean = jnp.mean(x, axis, keepdims=True)
    if axis_name is not None:
        mean = lax.pmean(mean, axis_name)
    variance = jnp.mean(jnp.square(x - mean), axis, keepdims=True)
    if axis_name is not None:
        variance = lax.pmean(variance, axis_name)
    return mean, variance


def standardise(x: jax.Array, mean: jax.Array, variance: jax.Array, eps: float) -> jax.Array:
    """(x - mean) / sqrt(variance + eps), in the wider type of x and the statistics."""
    x, mean, variance = (a.astype(wider_type(x.dtype, mean.dtype)) for a in (x, mean, variance))
    return (x - mean) * lax.rsqrt(variance + jnp.asarray(eps, x.dtype))


def layer_norm(x: jax.Array, axis: Axes = -1, eps: float = 1e-5) -> jax.Array:
    """x less its mean, divided by its standard deviation, over `axis`; in the floating type of x.

    >>> import jax.numpy as jnp
    >>> layer_norm(jnp.array([1.0, 3.0]), eps=0.0).tolist()
    [-1.0, 1.0]
    """
    return standardise(x, *moments(x, axis), eps).astype(floating_type(x))


def rms_norm(x: jax.Array, axis: Axes = -1, eps: float = 1e-6) -> jax.Array:
    """x divided by its root mean square over `axis`; in the floating type of x.

    >>> import jax.numpy as jnp
    >>> rms_norm(jnp.array([3.0, 3.0]), eps=0.0).tolist()
    [1.0, 1.0]
    """
    wide = x.astype(wider_type(x.dtype, jnp.float32))
    square = jnp.mean(jnp.square(wide), axis, keepdims=True)
    return (wide * lax.rsqrt(square + jnp.asarray(eps, wide.dtype))).astype(floating_type(x))
