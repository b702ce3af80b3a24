"""Dropout and other noise as plain functions. Rates may be traced."""

from typing import Any

import jax
import jax.numpy as jnp

from .linear import floating_type, wider_type

# What SELU tends to far below zero: its scale times its alpha, negated.
SELU_FLOOR = -1.7580993408473766


def dropout(
    key: jax.Array, x: jax.Array, rate: Any, broadcast_dims: int | tuple[int, ...] = ()
) -> jax.Array:
    """Each element is 0 with probability `rate` and divided by 1 - rate otherwise.

    The mean stays. Elements along the axes `broadcast_dims` fall together. `rate` may be traced; at
    1 all elements and gradients are 0. An integer x becomes floating.

    >>> import jax, jax.numpy as jnp
    >>> sorted(set(dropout(jax.random.key(0), jnp.ones(100), 0.5).tolist()))
    [0.0, 2.0]
    """
    x = x.astype(floating_type(x))
    keep = 1.0 - jnp.asarray(rate, jnp.float32)
    axes = {
        axis % x.ndim
        for axis in (broadcast_dims if isinstance(broadcast_dims, tuple) else (broadcast_dims,))
    }
    shape = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
    mask = jnp.broadcast_to(jax.random.bernoulli(key, keep, shape), x.shape)
    # At rate 1 nothing is kept, and the factor is any finite number, also in the type of x: it is
    # multiplied by zeros, and so are gradients.
    most = min(float(jnp.finfo(dtype).max) for dtype in (x.dtype, jnp.float32))
    factor = jnp.minimum(1.0 / jnp.where(keep > 0, keep, jnp.ones_like(keep)), most)
    # A product, so that a known rate and a traced one give the same bits: the compiler turns the
    # division by a known number into one.
    return jnp.where(mask, x, jnp.zeros((), x.dtype)) * factor.astype(x.dtype)


def alpha_dropout(key: jax.Array, x: jax.Array, rate: Any) -> jax.Array:
    """Each element becomes SELU's lowest value with probability `rate`; then a * x + b, with which
    mean 0 and variance 1 stay what they are. At rate 1 all are 0. `rate` may be traced.

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
    mask = jax.random.bernoulli(key, keep, x.shape) & some
    dropped = jnp.where(some, a * SELU_FLOOR + b, jnp.zeros_like(b))
    a, b, dropped = (n.astype(x.dtype) for n in (a, b, dropped))
    return jnp.where(mask, a * jnp.where(mask, x, jnp.zeros((), x.dtype)) + b, dropped)


def gaussian_noise(key: jax.Array, x: jax.Array, stddev: Any) -> jax.Array:
    """x + stddev * n with n standard normal, drawn in at least float32; in the type of x.

    >>> import jax, jax.numpy as jnp
    >>> gaussian_noise(jax.random.key(0), jnp.ones(2), 0.0).tolist()
    [1.0, 1.0]
    """
    x = x.astype(floating_type(x))
    wide = wider_type(x.dtype, jnp.float32)
    noise = jnp.asarray(stddev, wide) * jax.random.normal(key, x.shape, wide)
    return x + noise.astype(x.dtype)
