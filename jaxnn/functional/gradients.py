"""Control of the backward pass: the type of its sums, what it stores, and which rows contribute.

The gradient of a parameter is a sum over all its uses. XLA computes such a sum in the type of its
terms; in bfloat16, a sum of ones on a CPU stops at 256. `shared_sum`, `shared_product`, and
`shared_rows` compute it in float32. Matrix products and convolutions accumulate in float32 anyway.

0 * NaN is NaN, so a weight of zero does not exclude a row that contains NaN or inf, neither from a
product nor from a gradient that sums over rows. `finite_rows` replaces such rows by zeros before
the product, and `broken_rows` sets their results to NaN afterwards.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..arrays import is_narrow, widened


def spread(parameter: jax.Array, y: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
    """Repeat a parameter along the other axes of y, so that both have equal numbers of axes.

    Args:
        parameter: Array whose axes have the sizes of the axes of y, or 1.
        y: Array of any shape.
        axes: The axes of y that the parameter has, in increasing order. Default: None, the last.

    >>> import jax.numpy as jnp
    >>> spread(jnp.ones(3), jnp.ones((2, 4, 3))).shape
    (2, 4, 3)
    """
    if axes is None:
        axes = tuple(range(y.ndim - parameter.ndim, y.ndim))
    if jax.typeof(y).sharding.mesh.empty:  # one operation, whose transpose is one sum
        return lax.broadcast_in_dim(parameter, y.shape, axes)
    shape = [1] * y.ndim  # on a mesh, the sum or product finds the sharding
    for axis, size in zip(axes, parameter.shape, strict=True):
        shape[axis] = size
    return parameter.reshape(shape)


def shared_sum(y: jax.Array, parameter: jax.Array) -> jax.Array:
    """`y + parameter`, with the parameter's gradient summed in at least float32.

    Args:
        y: Floating array.
        parameter: Floating array, whose axes have the sizes of the last axes of y, or 1.

    Returns:
        Array of the shape and type of y.

    >>> import jax, jax.numpy as jnp
    >>> y = jnp.zeros((25, 40), jnp.bfloat16)
    >>> jax.grad(lambda b: jnp.sum(shared_sum(y, b)))(jnp.ones(1)).item()
    1000.0
    """
    # Rounding comes last, so the value equals a sum in the type of y, while its derivative is
    # summed in float32.
    return (widened(y) + spread(widened(parameter.astype(y.dtype)), y)).astype(y.dtype)


def shared_product(y: jax.Array, parameter: jax.Array) -> jax.Array:
    """`y * parameter`, with the parameter's gradient summed in at least float32.

    Args:
        y: Floating array.
        parameter: Floating array, whose axes have the sizes of the last axes of y, or 1.

    Returns:
        Array of the shape and type of y.

    >>> import jax, jax.numpy as jnp
    >>> y = jnp.ones((25, 40), jnp.bfloat16)
    >>> jax.grad(lambda scale: jnp.sum(shared_product(y, scale)))(jnp.ones(1)).item()
    1000.0
    """
    return (widened(y) * spread(widened(parameter.astype(y.dtype)), y)).astype(y.dtype)


def shared_rows(table: jax.Array, indices: jax.Array) -> jax.Array:
    """`table[indices]`, with the table's gradient summed in at least float32.

    Args:
        table: Floating array of shape (rows, ...).
        indices: Integers of any shape. An index outside [0, rows) gives NaN.

    Returns:
        Array in the type of the table.

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
    """Widen the tangent only; a float32 copy of the whole table would cost more than its rows."""
    (table, indices), (dtable, _) = primals, tangents
    return _narrow_rows(table, indices), _rows(widened(dtable), indices).astype(table.dtype)


@jax.custom_jvp
def picked(x: jax.Array, index: jax.Array) -> jax.Array:
    """Return `x[..., index]`, one number of each row, with a gradient that is not a scatter.

    The gradient is a selection, which XLA fuses into later operations, such as the rest of the
    gradient of a cross entropy. A scatter would be written to memory.

    Args:
        x: Array of shape (..., n).
        index: Integers of shape (...) in [0, n).

    Returns:
        Array of shape (...), in the type of x.

    >>> import jax, jax.numpy as jnp
    >>> x, index = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, 0])
    >>> picked(x, index).tolist(), jax.grad(lambda x: picked(x, index).sum())(x).tolist()
    ([2.0, 3.0], [[0.0, 1.0], [1.0, 0.0]])
    """
    return jnp.take_along_axis(x, index[..., None], -1)[..., 0]


@picked.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x, index), (dx, _) = primals, tangents
    places = lax.broadcasted_iota(index.dtype, x.shape, x.ndim - 1)
    chosen = jnp.where(places == index[..., None], dx, jnp.zeros((), dx.dtype))
    return picked(x, index), jnp.sum(chosen, -1)


@jax.custom_jvp
def gradient_once(x: jax.Array) -> jax.Array:
    """Return x, and compute its gradient once, before any operation that uses it.

    XLA's CPU compiler otherwise recomputes a long elementwise chain, such as the gradient of a
    normalization, for each element inside every product that uses it.

    >>> import jax, jax.numpy as jnp
    >>> float(jax.grad(lambda x: jnp.sin(gradient_once(x)))(0.0))
    1.0
    """
    return x


@gradient_once.defjvp
def _(primals: Any, tangents: Any) -> Any:
    # The transpose of a barrier on the tangent is a barrier on the gradient.
    return primals[0], lax.optimization_barrier(tangents[0])


def dear(primitive: Any, *_: Any, **params: Any) -> bool:
    """Policy for `jax.checkpoint`: save matrix products, convolutions, and random bits.

    Batched products, such as those of queries and keys, are recomputed: they need few operations
    for the memory of their results. Fused attention, which stores no such product, is saved.

    >>> import jax, jax.numpy as jnp
    >>> f = jax.checkpoint(lambda x, w: jnp.sum(jnp.sin(x @ w)), policy=dear)
    >>> jax.make_jaxpr(jax.grad(f))(jnp.ones(2), jnp.ones((2, 3))).pretty_print().count("= dot_gen")
    2
    """
    if primitive.name == "dot_general":
        (_, _), (batch, _) = params["dimension_numbers"]
        return not batch
    fused = primitive.name.startswith("dot_product_attention_fwd")  # cuDNN's
    return fused or primitive.name in ("conv_general_dilated", "convolution", "random_bits")


@jax.custom_jvp
def softmax(x: jax.Array) -> jax.Array:
    """Softmax over the last axis. Its gradient reads only the result: `y dy - y sum(y dy)`.

    The gradient of `jax.nn.softmax` reads the exponentials and their sums, too. In this form XLA
    computes `y dy` once; in the form `y (dy - sum(y dy))` it does so twice.

    >>> import jax.numpy as jnp
    >>> softmax(jnp.zeros(2)).tolist()
    [0.5, 0.5]
    """
    most = lax.reduce_max(x, (x.ndim - 1,))
    terms = jnp.exp(x - most[..., None])
    return terms / jnp.sum(terms, -1, keepdims=True)


@softmax.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    y = softmax(x)
    change = y * dx
    return y, change - y * jnp.sum(change, -1, keepdims=True)


@jax.custom_jvp
def silu(x: jax.Array) -> jax.Array:
    """SiLU: `x / (1 + exp(-x))`, computed in at least float32. Its gradient keeps one array.

    The last operation is a quotient, whose result XLA's CPU compiler writes to memory once.
    `jax.nn.silu` ends with a product, which XLA computes again in each kernel that reads it,
    together with the operations before it.

    >>> import jax.numpy as jnp
    >>> silu(jnp.array([-1000.0, 0.0, 100.0])).tolist()
    [-0.0, 0.0, 100.0]
    """
    wide = widened(x)
    return (wide / (1 + jnp.exp(-wide))).astype(x.dtype)


@silu.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    wide = widened(x)
    y, sigmoid = silu(wide), lax.logistic(wide)
    slope = sigmoid + y * (1 - sigmoid)
    return y.astype(x.dtype), (widened(dx) * slope).astype(x.dtype)


@jax.custom_jvp
def silu_product(y: jax.Array, x: jax.Array) -> jax.Array:
    """`y * silu(x)` for floating arrays of one type. The gradient of y ends with a quotient, too.

    >>> import jax.numpy as jnp
    >>> silu_product(jnp.array([1.0, 2.0]), jnp.array([0.0, 100.0])).tolist()
    [0.0, 200.0]
    """
    return y * x / (1 + jnp.exp(-x))


@silu_product.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (y, x), (dy, dx) = primals, tangents
    z, sigmoid = silu_product(y, x), lax.logistic(x)
    # The transpose of the first term is ct * x / divisor. Its derivative contains the square of the
    # divisor, which is kept finite; it differs from ct * silu(x) by less than 1e-19 * ct * x.
    most = jnp.full_like(x, math.log(jnp.finfo(x.dtype).max) / 2 - 1)
    divisor = 1 + jnp.exp(lax.min(-x, most))
    return z, dy / divisor * x + dx * (y * sigmoid + z * (1 - sigmoid))


def select_number(
    mask: jax.Array, one: Any, other: Any, axes: tuple[int, ...] | None = None
) -> jax.Array:
    """`jnp.where(mask, one, other)` for an array and a number, without a jitted function.

    Args:
        mask: Booleans whose axes have the sizes of the axes of the array, or 1.
        one: Array, or a number.
        other: Array, or a number.
        axes: The axes of the array that the mask has, in increasing order. Default: None, the last.

    >>> import jax.numpy as jnp
    >>> select_number(jnp.array([True, False]), jnp.ones((2, 2)), 0, axes=(0,)).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    array = one if isinstance(one, jax.Array) else other
    mask = mask if mask.shape == array.shape else spread(mask, array, axes)
    if mask.shape != array.shape:  # on a mesh
        return jnp.where(mask, *(jnp.asarray(a, array.dtype) for a in (one, other)))
    one, other = (a if a is array else lax.full_like(array, a) for a in (one, other))
    return lax.select(mask, one, other)


def finite_rows(x: jax.Array, axes: int = 1) -> tuple[jax.Array, jax.Array]:
    """Replace rows of x (..., n) that contain NaN or inf by zeros; return a mask of them (...).

    Args:
        x: Array.
        axes: Number of axes of a row. Default: 1.

    >>> import jax.numpy as jnp
    >>> rows, broken = finite_rows(jnp.array([[1.0, 2.0], [3.0, jnp.nan]]))
    >>> rows.tolist(), broken.tolist()
    ([[1.0, 2.0], [0.0, 0.0]], [False, True])
    """
    broken = ~jnp.all(jnp.isfinite(x), tuple(range(x.ndim - axes, x.ndim)))
    return select_number(broken, 0, x, tuple(range(broken.ndim))), broken


def broken_rows(y: jax.Array, broken: jax.Array) -> jax.Array:
    """Set what is marked in `broken`, which has the first axes of y, to NaN, without gradients."""
    return select_number(broken, jnp.nan, y, tuple(range(broken.ndim)))


def by_row(f: Callable[[jax.Array], jax.Array], x: jax.Array, checks: bool = True) -> jax.Array:
    """Apply f to each row of x (..., n) whose elements are all finite.

    Rows that contain NaN or inf give NaN and contribute nothing to gradients that sum over rows. If
    `checks` is False, the result is f(x).
    """
    if not checks:
        return f(x)
    x, broken = finite_rows(x)
    return broken_rows(f(x), broken)
