"""Linear maps, and the rule for the type in which a layer computes."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def floating_type(x: Any) -> Any:
    """The type of `x` where it is floating or complex, the default floating type where it is not.

    >>> import jax.numpy as jnp
    >>> floating_type(jnp.ones(2, jnp.bfloat16)).name, floating_type(jnp.ones(2, jnp.int32)).name
    ('bfloat16', 'float32')
    """
    return x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.result_type(float)


def wider_type(one: Any, other: Any) -> Any:
    """The wider of two types, also where implicit promotion is refused.

    >>> import jax.numpy as jnp
    >>> wider_type(jnp.bfloat16, jnp.float32).name
    'float32'
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(one, other)


def to_compute_type(x: Any, *parameters: Any) -> tuple[Any, ...]:
    """`x` and the parameters in the type of the computation.

    That is the type of `x`, so that a network computes in the type of its input; an integer `x`
    takes the type of the parameters.
    """
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else parameters[0].dtype
    return tuple(a.astype(dtype) for a in (x, *parameters))


def linear(x: jax.Array, w: jax.Array, b: jax.Array | None = None) -> jax.Array:
    """y = x @ w + b for x (..., n), w (n, m), b (m,); y is (..., m), in the type of `x`.

    >>> import jax.numpy as jnp
    >>> linear(jnp.ones((2, 3)), jnp.ones((3, 1)), jnp.ones(1)).tolist()
    [[4.0], [4.0]]
    """
    x, w = to_compute_type(x, w)
    y = lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())))
    return y if b is None else y + along_axis(b.astype(y.dtype), y.ndim, -1)


def along_axis(vector: jax.Array, ndim: int, axis: int) -> jax.Array:
    """A vector as an array of `ndim` axes that lies along `axis`: broadcasting made explicit."""
    shape = [1] * ndim
    shape[axis] = vector.size
    return vector.reshape(shape)
