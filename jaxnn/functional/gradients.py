"""What a backward pass computes once, what it keeps, and in which type it sums.

The derivative of a broadcast or a gather is a sum over all uses of a parameter. XLA takes such a sum
in the type of its terms: in bfloat16, a CPU stops counting at 256 equal terms. `linear_use` and
`broadcast_with` take it in at least float32. Matrix products and convolutions need neither: their
sums accumulate in float32 already.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..core.floating import is_narrow, widened


def linear_use(
    use: Callable[..., jax.Array], dtype: Any, parameter: jax.Array, *others: jax.Array
) -> jax.Array:
    """use(parameter.astype(dtype), *others), whose gradient is summed in at least float32.

    If `dtype` is at least float32, the derivative is JAX's own.

    Args:
        use: a function that is linear in its first argument and keeps its type, such as a gather.
        dtype: the floating type of the result.
        parameter: an array of any floating type; its gradient has its shape and type.
        *others: further arguments of `use`, such as indices, which are not differentiated.

    >>> import jax, jax.numpy as jnp
    >>> def tokens(table):
    ...     return linear_use(lambda t, i: t[i], jnp.bfloat16, table, jnp.zeros(1000, int))
    >>> jax.vjp(tokens, jnp.ones(2))[1](jnp.ones(1000, jnp.bfloat16))[0].tolist()
    [1000.0, 0.0]
    """
    if is_narrow(dtype):
        return _linear_use(use, jnp.dtype(dtype), parameter, *others)
    return use(parameter.astype(dtype), *others)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _linear_use(use: Any, dtype: Any, parameter: jax.Array, *others: jax.Array) -> jax.Array:
    return use(parameter.astype(dtype), *others)


@_linear_use.defjvp
def _(use: Any, dtype: Any, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    parameter, *others = primals
    y = _linear_use(use, dtype, parameter, *others)
    # A tangent in float32 that is rounded after its use becomes, transposed, a sum in float32.
    return y, use(widened(tangents[0]), *others).astype(dtype)


def broadcast_with(parameter: jax.Array, y: jax.Array) -> jax.Array:
    """The parameter in the type of y, for an elementwise sum or product with y.

    The parameter has as many axes as y, of the same size or 1, and broadcasts to y. Its gradient is
    summed in at least float32.

    >>> import jax, jax.numpy as jnp
    >>> y = jnp.zeros((25, 40, 1), jnp.bfloat16)
    >>> jax.grad(lambda b: jnp.sum(y + broadcast_with(b, y)))(jnp.ones((1, 1, 1))).item()
    1000.0
    """
    if not is_narrow(y.dtype):
        return parameter.astype(y.dtype)
    return linear_use(lambda p: jnp.broadcast_to(p, y.shape), y.dtype, parameter)


@jax.custom_jvp
def gradient_once(x: jax.Array) -> jax.Array:
    """x itself; its gradient is computed before anything takes it.

    A CPU's compiler otherwise computes a long elementwise chain, such as the gradient of a
    normalisation, anew inside each product that takes it, element by element.

    >>> import jax, jax.numpy as jnp
    >>> float(jax.grad(lambda x: jnp.sin(gradient_once(x)))(0.0))
    1.0
    """
    return x


@gradient_once.defjvp
def _(primals: Any, tangents: Any) -> Any:
    # A barrier on the tangent becomes, transposed, one on the gradient.
    return primals[0], lax.optimization_barrier(tangents[0])


def dear(primitive: Any, *_: Any, **params: Any) -> bool:
    """A policy of `jax.checkpoint`: keep matrix products, convolutions and random bits.

    Products in batches, as of queries and keys, are few operations for the memory they take: they
    are computed again.

    >>> import jax, jax.numpy as jnp
    >>> f = jax.checkpoint(lambda x, w: jnp.sum(jnp.sin(x @ w)), policy=dear)
    >>> jax.make_jaxpr(jax.grad(f))(jnp.ones(2), jnp.ones((2, 3))).pretty_print().count("= dot_gen")
    2
    """
    if primitive.name == "dot_general":
        (_, _), (batch, _) = params["dimension_numbers"]
        return not batch
    return primitive.name in ("conv_general_dilated", "random_bits")
