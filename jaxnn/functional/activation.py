"""Activations that torch.nn has and `jax.nn` has not, as plain functions: each stands as a layer
as it is, and with numbers of its own by `functools.partial(hard_shrink, threshold=0.1)`.

The others have these names: GELU `functools.partial(jax.nn.gelu, approximate=False)` (the default
of `jax.nn.gelu` is torch's approximate="tanh"), GLU `jax.nn.glu`, Hardsigmoid
`jax.nn.hard_sigmoid`, Hardswish `jax.nn.hard_silu`, Softsign `jax.nn.soft_sign`, Tanh `jnp.tanh`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from .linear import floating_type, wider_type


def soft_shrink(x: jax.Array, threshold: Any = 0.5) -> jax.Array:
    """x nearer to 0 by `threshold`: sign(x) * max(|x| - threshold, 0).

    >>> import jax.numpy as jnp
    >>> soft_shrink(jnp.array([-2.0, 0.25, 1.0])).tolist()
    [-1.5, 0.0, 0.5]
    """
    x = _floating(x)
    t = jnp.asarray(threshold, x.dtype)
    return jnp.where(x > t, x - t, jnp.where(x < -t, x + t, 0 * x))  # so that NaN stays NaN


def hard_shrink(x: jax.Array, threshold: Any = 0.5) -> jax.Array:
    """x where |x| > threshold, and 0 elsewhere.

    >>> import jax.numpy as jnp
    >>> hard_shrink(jnp.array([-2.0, 0.25, 1.0])).tolist()
    [-2.0, 0.0, 1.0]
    """
    x = _floating(x)
    return jnp.where(jnp.abs(x) <= jnp.asarray(threshold, x.dtype), 0, x)


def tanh_shrink(x: jax.Array) -> jax.Array:
    """x - tanh(x).

    >>> import jax.numpy as jnp
    >>> tanh_shrink(jnp.array([0.0])).tolist()
    [0.0]
    """
    x = _floating(x)
    return x - jnp.tanh(x)


def threshold(x: jax.Array, threshold: Any, value: Any) -> jax.Array:
    """x where x > threshold, and `value` elsewhere.

    >>> import jax.numpy as jnp
    >>> threshold(jnp.array([0.5, 2.0]), 1.0, -3.0).tolist()
    [-3.0, 2.0]
    """
    x = _floating(x)
    return jnp.where(x <= jnp.asarray(threshold, x.dtype), jnp.asarray(value, x.dtype), x)


def soft_min(x: jax.Array, axis: int = -1) -> jax.Array:
    """softmax(-x) along `axis`, in at least float32: the largest weight is the smallest number's.

    >>> import jax.numpy as jnp
    >>> soft_min(jnp.array([1.0, 1.0])).tolist()
    [0.5, 0.5]
    """
    x = _floating(x)
    return jax.nn.softmax(-x.astype(wider_type(x.dtype, jnp.float32)), axis).astype(x.dtype)


def _floating(x: jax.Array) -> jax.Array:
    return x.astype(floating_type(x))
