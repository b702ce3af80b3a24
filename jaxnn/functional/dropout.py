"""Dropout and other noise. Rates may be traced."""

from typing import Any

import jax
import jax.numpy as jnp

from .linear import floating_type, wider_type

# The limit of SELU at -infinity: minus its scale times its alpha.
SELU_FLOOR = -1.7580993408473766


def dropout(
    key: jax.Array, x: jax.Array, rate: Any, broadcast_dims: int | tuple[int, ...] = ()
) -> jax.Array:
    """Set elements to 0 with probability `rate` and divide the others by 1 - rate.

    Args:
        key: PRNG key.
        x: Array of any shape; integers are converted to the default floating type.
        rate: Probability in [0, 1]; may be traced. At 1, outputs and gradients are 0.
        broadcast_dims: Axes along which all elements share one mask. Default: ().

    Returns:
        Array of the shape of x.

    Reference: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting,
    2014.

    >>> import jax, jax.numpy as jnp
    >>> sorted(set(dropout(jax.random.key(0), jnp.ones(100), 0.5).tolist()))
    [0.0, 2.0]
    """
    x = x.astype(floating_type(x))
    keep = 1.0 - jnp.asarray(rate, jnp.float32)
    mask = _kept(key, x, keep, broadcast_dims)
    # At rate 1 only zeros are multiplied by the factor, in the gradient too; any finite number
    # works that is also finite in the type of x.
    most = min(float(jnp.finfo(dtype).max) for dtype in (x.dtype, jnp.float32))
    factor = jnp.minimum(1.0 / jnp.where(keep > 0, keep, jnp.ones_like(keep)), most)
    # A product gives identical bits for concrete and traced rates: the compiler turns a division by
    # a constant into a product.
    return jnp.where(mask, x, jnp.zeros((), x.dtype)) * factor.astype(x.dtype)


def _kept(key: jax.Array, x: jax.Array, keep: Any, axes: int | tuple[int, ...]) -> jax.Array:
    """Return which elements of x to keep, the same ones along `axes`."""
    shared = {axis % x.ndim for axis in (axes if isinstance(axes, tuple) else (axes,))}
    shape = tuple(1 if axis in shared else n for axis, n in enumerate(x.shape))
    return jnp.broadcast_to(jax.random.bernoulli(key, keep, shape), x.shape)


def alpha_dropout(
    key: jax.Array, x: jax.Array, rate: Any, broadcast_dims: int | tuple[int, ...] = ()
) -> jax.Array:
    """Set elements to SELU's limit with probability `rate`, then apply a * x + b.

    The constants a and b are those that keep mean 0 and variance 1.

    Args:
        key: PRNG key.
        x: Array of any shape; integers are converted to the default floating type.
        rate: Probability in [0, 1]; may be traced. At 1, all elements are 0.
        broadcast_dims: Axes along which all elements share one mask. Default: ().

    Returns:
        Array of the shape of x.

    Reference: Klambauer et al., Self-normalizing neural networks, 2017.

    >>> import jax, jax.numpy as jnp
    >>> y = alpha_dropout(jax.random.key(0), jnp.zeros(100), 0.5)
    >>> sorted({round(float(one), 4) for one in y})
    [-0.7792, 0.7792]
    """
    x = x.astype(floating_type(x))
    rate = jnp.asarray(rate, jnp.float32)
    keep = 1.0 - rate
    some = keep > 0
    keep = jnp.where(some, keep, jnp.ones_like(keep))
    a = jax.lax.rsqrt(keep * (1.0 + rate * SELU_FLOOR**2))
    b = -a * rate * SELU_FLOOR
    mask = _kept(key, x, keep, broadcast_dims) & some
    dropped = jnp.where(some, a * SELU_FLOOR + b, jnp.zeros_like(b))
    a, b, dropped = (n.astype(x.dtype) for n in (a, b, dropped))
    return jnp.where(mask, a * jnp.where(mask, x, jnp.zeros((), x.dtype)) + b, dropped)


def gaussian_dropout(key: jax.Array, x: jax.Array, rate: Any) -> jax.Array:
    """Multiply by noise: `y = x * n` with n normal, of mean 1 and variance rate / (1 - rate).

    Args:
        key: PRNG key.
        x: Array of any shape; integers are converted to the default floating type.
        rate: Number in [0, 1]; may be traced. At 1, all elements are 0.

    Returns:
        Array of the shape of x.

    Reference: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting,
    2014.

    >>> import jax, jax.numpy as jnp
    >>> gaussian_dropout(jax.random.key(0), jnp.ones(2), 0.0).tolist()
    [1.0, 1.0]
    """
    x = x.astype(floating_type(x))
    rate = jnp.asarray(rate, jnp.float32)
    some = rate < 1
    stddev = jnp.where(some, jnp.sqrt(rate / jnp.where(some, 1 - rate, 1)), 0)
    x = jnp.where(some, x, jnp.zeros_like(x))
    return x * gaussian_noise(key, jnp.ones_like(x), stddev)


def gaussian_noise(key: jax.Array, x: jax.Array, stddev: Any) -> jax.Array:
    """Add noise: `y = x + stddev * n` with n standard normal.

    Args:
        key: PRNG key.
        x: Array of any shape.
        stddev: Standard deviation, a number or an array that broadcasts to x.

    Returns:
        Array of the shape of x, in its floating type. The noise is drawn in at least float32.

    >>> import jax, jax.numpy as jnp
    >>> gaussian_noise(jax.random.key(0), jnp.ones(2), 0.0).tolist()
    [1.0, 1.0]
    """
    x = x.astype(floating_type(x))
    wide = wider_type(x.dtype, jnp.float32)
    noise = jnp.asarray(stddev, wide) * jax.random.normal(key, x.shape, wide)
    return x + noise.astype(x.dtype)
