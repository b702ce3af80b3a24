"""The mathematics of the layers as plain functions on arrays.

Its public names are the activation functions of torch.nn and of published models that `jax.nn` does
not have. Each one can be used as a layer:

>>> import jaxnn as nn
>>> nn.Sequential(nn.Dense(8), nn.functional.tanh_shrink)
Sequential(Dense(8), jaxnn.functional.tanh_shrink)

Set other arguments with `functools.partial(nn.functional.hard_shrink, threshold=0.1)`. torch.nn's
other activations have these names:

- GELU: `functools.partial(jax.nn.gelu, approximate=False)`. The default of `jax.nn.gelu` is torch's
  approximate="tanh".
- GLU: `jax.nn.glu`
- Hardsigmoid: `jax.nn.hard_sigmoid`
- Hardswish: `jax.nn.hard_silu`
- Softsign: `jax.nn.soft_sign`
- Tanh: `jnp.tanh`

Integer inputs are converted to the default floating type.
"""

from typing import Any

import jax
import jax.numpy as jnp

from .linear import floating_type, wider_type

__all__ = ["hard_shrink", "quick_gelu", "soft_min", "soft_shrink", "tanh_shrink", "threshold"]


def soft_shrink(x: jax.Array, threshold: Any = 0.5) -> jax.Array:
    """Shrink x toward 0: `y = sign(x) * max(|x| - threshold, 0)`.

    Args:
        x: Real array of any shape.
        threshold: Number >= 0. Default: 0.5.

    >>> import jax.numpy as jnp
    >>> soft_shrink(jnp.array([-2.0, 0.25, 1.0])).tolist()
    [-1.5, 0.0, 0.5]
    """
    x = _floating(x)
    t = jnp.asarray(threshold, x.dtype)
    return jnp.where(x > t, x - t, jnp.where(x < -t, x + t, 0 * x))  # 0 * x keeps NaN


def hard_shrink(x: jax.Array, threshold: Any = 0.5) -> jax.Array:
    """Set small numbers to 0: `y = x` if |x| > threshold, otherwise `y = 0`.

    Args:
        x: Real array of any shape.
        threshold: Number >= 0. Default: 0.5.

    >>> import jax.numpy as jnp
    >>> hard_shrink(jnp.array([-2.0, 0.25, 1.0])).tolist()
    [-2.0, 0.0, 1.0]
    """
    x = _floating(x)
    return jnp.where(jnp.abs(x) <= jnp.asarray(threshold, x.dtype), 0, x)


def tanh_shrink(x: jax.Array) -> jax.Array:
    """`y = x - tanh(x)`.

    Args:
        x: Real array of any shape.

    >>> import jax.numpy as jnp
    >>> tanh_shrink(jnp.array([0.0])).tolist()
    [0.0]
    """
    x = _floating(x)
    return x - jnp.tanh(x)


def threshold(x: jax.Array, threshold: Any, value: Any) -> jax.Array:
    """Replace small numbers: `y = x` if x > threshold, otherwise `y = value`.

    Args:
        x: Real array of any shape.
        threshold: Numbers up to this one are replaced.
        value: The replacement.

    >>> import jax.numpy as jnp
    >>> threshold(jnp.array([0.5, 2.0]), 1.0, -3.0).tolist()
    [-3.0, 2.0]
    """
    x = _floating(x)
    return jnp.where(x <= jnp.asarray(threshold, x.dtype), jnp.asarray(value, x.dtype), x)


def quick_gelu(x: jax.Array) -> jax.Array:
    """An approximation of GELU: `y = x * sigmoid(1.702 * x)`, as in CLIP.

    Args:
        x: Real array of any shape.

    Reference: Hendrycks and Gimpel, Gaussian error linear units (GELUs), 2016.

    >>> import jax.numpy as jnp
    >>> [round(float(y), 4) for y in quick_gelu(jnp.array([0.0, 1.0]))]
    [0.0, 0.8458]
    """
    x = _floating(x)
    return x * jax.nn.sigmoid(jnp.asarray(1.702, x.dtype) * x)


def soft_min(x: jax.Array, axis: int = -1) -> jax.Array:
    """`y = softmax(-x)`, computed in at least float32.

    Args:
        x: Real array of any shape.
        axis: Axis along which the result sums to 1. Default: -1.

    >>> import jax.numpy as jnp
    >>> soft_min(jnp.array([1.0, 1.0])).tolist()
    [0.5, 0.5]
    """
    x = _floating(x)
    return jax.nn.softmax(-x.astype(wider_type(x.dtype, jnp.float32)), axis).astype(x.dtype)


def _floating(x: jax.Array) -> jax.Array:
    return x.astype(floating_type(x))
