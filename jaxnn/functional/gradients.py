"""What a backward pass computes once, what it keeps, and in which type it sums.

The gradient of a parameter is a sum over all its uses. XLA takes such a sum in the type of its
terms: in bfloat16, a CPU stops counting at 256 equal terms. `shared_sum`, `shared_product`, and
`shared_rows` take it in float32. Matrix products and convolutions do not need them: their sums
accumulate in float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..floating import is_narrow, widened


def shared_sum(y: jax.Array, parameter: jax.Array) -> jax.Array:
    """y + parameter in the type of y, with the parameter's gradient summed in at least float32.

    Args:
        y: an array of a floating type.
        parameter: an array of as many axes, each of the same size or 1; any floating type.

    >>> import jax, jax.numpy as jnp
    >>> y = jnp.zeros((25, 40), jnp.bfloat16)
    >>> jax.grad(lambda b: jnp.sum(shared_sum(y, b)))(jnp.ones((1, 1))).item()
    1000.0
    """
    # Rounded last, a sum is what it is in the type itself, and its derivative begins in float32.
    return (widened(y) + widened(parameter.astype(y.dtype))).astype(y.dtype)


def shared_product(y: jax.Array, parameter: jax.Array) -> jax.Array:
    """y * parameter in the type of y, with the parameter's gradient summed in at least float32.

    The arguments are those of `shared_sum`.

    >>> import jax, jax.numpy as jnp
    >>> y = jnp.ones((25, 40), jnp.bfloat16)
    >>> jax.grad(lambda scale: jnp.sum(shared_product(y, scale)))(jnp.ones((1, 1))).item()
    1000.0
    """
    return (widened(y) * widened(parameter.astype(y.dtype))).astype(y.dtype)


def shared_rows(table: jax.Array, indices: jax.Array) -> jax.Array:
    """table[indices], with the table's gradient summed in at least float32.

    Args:
        table: an array (rows, ...) of a floating type, which is the type of the result.
        indices: integers (...); one outside [0, rows) gives NaN.

    >>> import jax, jax.numpy as jnp
    >>> table, indices = jnp.ones((2, 1), jnp.bfloat16), jnp.zeros(1000, int)
    >>> jax.grad(lambda table: jnp.sum(shared_rows(table, indices)))(table).ravel().tolist()
    [1000.0, 0.0]
    """
    return (_narrow_rows if is_narrow(table.dtype) else _rows)(table, indices)


def _rows(table: jax.Array, indices: jax.Array) -> jax.Array:
    return table.at[indices].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


@jax.custom_jvp
def _narrow_rows(table: jax.Array, indices: jax.Array) -> jax.Array:
    return _rows(table, indices)


@_narrow_rows.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """Widen the tangent only: a copy of the whole table would cost more than its rows."""
    (table, indices), (dtable, _) = primals, tangents
    return _narrow_rows(table, indices), _rows(widened(dtable), indices).astype(table.dtype)


@jax.custom_jvp
def gradient_once(x: jax.Array) -> jax.Array:
    """x itself; its gradient is computed before anything takes it.

    A CPU's compiler otherwise computes a long elementwise chain, such as the gradient of a
    normalization, anew inside each product that takes it, element by element.

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
