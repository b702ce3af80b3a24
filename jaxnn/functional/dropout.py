"""Dropout as a plain function."""

from typing import Any

import jax
import jax.numpy as jnp

from .linear import floating_type


def dropout(key: jax.Array, x: jax.Array, rate: Any) -> jax.Array:
    """Each element is 0 with probability `rate` and divided by 1 - rate otherwise.

    The mean stays. `rate` may be traced. An integer x becomes floating.

    >>> import jax, jax.numpy as jnp
    >>> sorted(set(dropout(jax.random.key(0), jnp.ones(100), 0.5).tolist()))
    [0.0, 2.0]
    """
    x = x.astype(floating_type(x))
    keep = 1.0 - jnp.asarray(rate, jnp.float32)
    mask = jax.random.bernoulli(key, keep, x.shape)
    # A product, so that a known rate and a traced one give the same bits: the compiler turns the
    # division by a known number into one.
    return jnp.where(mask, x * (1.0 / keep).astype(x.dtype), jnp.zeros((), x.dtype))
