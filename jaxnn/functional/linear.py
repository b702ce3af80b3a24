"""Linear maps, the rules for the type in which a layer computes, and products with narrow weights.

Weights narrower than float32 are bfloat16, float16, and int8 with scales, an `Int8Weight`. A
product with few rows takes the time of reading the weights, so narrow weights are faster. XLA's CPU
compiler, however, first writes them to memory as float32, which takes ten times as long as the
product. `fused_product` is a form that it converts while it multiplies: a sum of a few elementwise
products, and a product with ones, which sums the rest.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .gradients import shared_sum


def floating_type(x: Any) -> Any:
    """Return the type of `x` if it is floating or complex, otherwise the default floating type.

    >>> import jax.numpy as jnp
    >>> floating_type(jnp.ones(2, jnp.bfloat16)).name, floating_type(jnp.ones(2, jnp.int32)).name
    ('bfloat16', 'float32')
    """
    return x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.result_type(float)


def wider_type(one: Any, other: Any) -> Any:
    """Return the wider of two types, even if implicit promotion is disabled.

    >>> import jax.numpy as jnp
    >>> wider_type(jnp.bfloat16, jnp.float32).name
    'float32'
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(one, other)


def to_compute_type(x: Any, *parameters: Any) -> tuple[Any, ...]:
    """Convert `x` and the parameters to the compute type.

    The compute type is the type of `x`, so a network computes in the type of its input. If `x` has
    an integer type, it is the type of the parameters.
    """
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else parameters[0].dtype
    return tuple(a.astype(dtype) for a in (x, *parameters))


def linear(
    x: jax.Array,
    w: "jax.Array | Int8Weight",
    b: jax.Array | None = None,
    axis: int | tuple[int, ...] = -1,
) -> jax.Array:
    """Affine map: `y = x @ w + b`.

    Args:
        x: Array of shape (..., n).
        w: Weights of shape (n, m).
        b: Bias of shape (m,), or None.
        axis: Axis of x, or a tuple of axes, over which to sum. They are the first axes of w, in
            this order; the other axes of w are the shape of b and the last axes of y. Default: -1.

    Returns:
        Array of shape (..., m), in the type of x.

    >>> import jax.numpy as jnp
    >>> linear(jnp.ones((2, 3)), jnp.ones((3, 1)), jnp.ones(1)).tolist()
    [[4.0], [4.0]]
    >>> linear(jnp.ones((7, 2, 3)), jnp.ones((2, 3, 4, 5)), axis=(-2, -1)).shape
    (7, 4, 5)
    """
    if isinstance(w, Int8Weight):
        if w.ndim == 2 and axis == -1:
            y = product(x, w)
            return y if b is None else shared_sum(y, b)
        w = w.whole()
    return _linear(x, w, b, axis)


def product(x: jax.Array, w: "jax.Array | Int8Weight", axis: int = 0) -> jax.Array:
    """Matrix product: `y = x @ w`, or `y = x @ w.T` for axis 1.

    Args:
        x: Array of shape (..., n).
        w: Weights of shape (n, m), or (m, n) for axis 1.
        axis: Axis of w to sum over. Default: 0.

    Returns:
        Array of shape (..., m), in the type of x, or of the weights if that is an integer type.

    >>> import jax.numpy as jnp
    >>> product(jnp.ones((2, 3)), jnp.ones((4, 3)), axis=1).shape
    (2, 4)
    """
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else w.dtype
    x = x.astype(dtype)
    few = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) if x.ndim != 2 else x
    if isinstance(w, Int8Weight):
        fused = is_fused(few, w.q, axis) and not _on_mesh(x, w.q)
        y = fused_product(few, w.q, axis) if fused else wide_product(few, w.q, axis)
        y = (y * jnp.expand_dims(w.scale.astype(y.dtype).reshape(-1), 0)).astype(dtype)
        return y.reshape(*x.shape[:-1], y.shape[-1])
    if not _on_mesh(x, w) and is_fused(few, w, axis):
        y = fused_product(few, w, axis).astype(dtype)
        return y.reshape(*x.shape[:-1], y.shape[-1])
    return lax.dot_general(x, w.astype(dtype), (((x.ndim - 1,), (axis,)), ((), ())))


@partial(jax.jit, static_argnames="axis", inline=True)
def _linear(
    x: jax.Array, w: jax.Array, b: jax.Array | None, axis: int | tuple[int, ...]
) -> jax.Array:
    """Return `linear(x, w, b, axis)`, as one program outside of `jax.jit`."""
    axes = axis if isinstance(axis, tuple) else (axis,)
    summed = tuple(i % x.ndim for i in axes)
    batch = x.shape[: x.ndim - len(axes)]
    if len(batch) > 1 and summed == tuple(range(len(batch), x.ndim)) and not _on_mesh(x, w):
        x = merge_batch(x, len(axes))
        y = linear(x, w, b, tuple(range(1, x.ndim)))
        return y.reshape(*batch, *y.shape[1:])
    if w.ndim == 2 and summed == (x.ndim - 1,):
        y = product(x, w)
    else:
        x, w = to_compute_type(x, w)
        y = lax.dot_general(x, w, ((summed, tuple(range(len(axes)))), ((), ())))
    return y if b is None else shared_sum(y, b)


def merge_batch(x: jax.Array, features: int = 1) -> jax.Array:
    """Merge the batch axes of x, which has a number of other axes after them.

    With several batch axes, XLA's CPU compiler copies arrays to compute the gradient of a weight.
    On a mesh they are not merged, because a merged axis could not keep their sharding.

    >>> import jax.numpy as jnp
    >>> merge_batch(jnp.ones((2, 3, 4))).shape
    (6, 4)
    """
    last = x.ndim - features
    if last < 2 or _on_mesh(x):
        return x
    return x.reshape(math.prod(x.shape[:last]), *x.shape[last:])


def _on_mesh(*arrays: jax.Array) -> bool:
    return not all(jax.typeof(a).sharding.mesh.empty for a in arrays)


def bilinear(x: jax.Array, z: jax.Array, w: jax.Array, b: jax.Array | None = None) -> jax.Array:
    """Bilinear form: `y_k = sum_ij x_i w_ijk z_j + b_k`.

    Args:
        x: Array of shape (..., n).
        z: Array of shape (..., m).
        w: Weights of shape (n, m, k).
        b: Bias of shape (k,), or None.

    Returns:
        Array of shape (..., k), in the type of x.

    >>> import jax.numpy as jnp
    >>> bilinear(jnp.array([2.0, 3.0]), jnp.array([5.0]), jnp.ones((2, 1, 1))).tolist()
    [25.0]
    """
    x, w = to_compute_type(x, w)
    y = wide_einsum("...i,ijk,...j->...k", x, w, z.astype(x.dtype))
    return y if b is None else shared_sum(y, b)


def wide_einsum(equation: str, *arrays: jax.Array) -> jax.Array:
    """`jnp.einsum` in the type of the first array, with sums in at least float32.

    XLA accumulates some batched products in the type of their result, forward and backward.

    >>> import jax.numpy as jnp
    >>> wide_einsum("ab,b->a", jnp.ones((1, 1000), "bfloat16"), jnp.ones(1000, "bfloat16")).item()
    1000.0
    """
    dtype = arrays[0].dtype
    wide = wider_type(dtype, jnp.float32)
    if wide == dtype:
        return jnp.einsum(equation, *arrays)
    return jnp.einsum(equation, *arrays, preferred_element_type=wide).astype(dtype)


def along_axis(vector: jax.Array, ndim: int, axis: int) -> jax.Array:
    """Reshape a vector to `ndim` axes along `axis`, so that it broadcasts explicitly."""
    shape = [1] * ndim
    shape[axis] = vector.size
    return vector.reshape(shape)


# ---- weights narrower than float32 ----

PARTS = 8
"""Number of elementwise products; with more, XLA's compiler converts the whole weights."""
ROWS = 4
"""Rows of x up to which this form is faster with int8 weights; other narrow types have fast
products from two rows on."""
SIZE = 2**16
"""Least number of weights; smaller products are fast anyway."""


@partial(jax.tree_util.register_dataclass, data_fields=["q", "scale"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Int8Weight:
    """A weight scale * q, which `linear.product` multiplies by without computing it.

    Args:
        q: int8 array.
        scale: Floating array with the axes of q, of size 1 along those that a product sums over.

    >>> w = Int8Weight(jnp.array([[1, 2]], jnp.int8), jnp.array([[0.5, 0.25]]))
    >>> w.shape, w.dtype.name, w.whole().tolist(), w.rows(jnp.array([0])).tolist()
    ((1, 2), 'float32', [[0.5, 0.5]], [[0.5, 0.5]])
    """

    q: jax.Array
    scale: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.q.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.q.ndim

    @property
    def dtype(self) -> Any:
        """Type of the weight."""
        return self.scale.dtype

    def whole(self) -> jax.Array:
        """Return the weight as an array."""
        return self.q.astype(self.scale.dtype) * self.scale

    def rows(self, indices: jax.Array) -> jax.Array:
        """Return the rows of a table (n, m) at integers (...), NaN outside [0, n)."""
        options: dict[str, Any] = {"mode": "fill", "wrap_negative_indices": False}
        scale = self.scale.at[indices].get(fill_value=jnp.nan, **options)
        return self.q.at[indices].get(fill_value=0, **options).astype(scale.dtype) * scale


def is_fused(x: jax.Array, w: jax.Array, axis: int) -> bool:
    """Return whether `fused_product` is the faster form for x (rows, n) and w of two axes."""
    return (
        jax.default_backend() == "cpu"
        and w.dtype.itemsize < 4
        and x.dtype.itemsize <= 4
        and x.shape[0] in range(1, (ROWS if w.dtype == jnp.int8 else 1) + 1)
        and w.shape[axis] % PARTS == 0
        and w.size >= SIZE
    )


@partial(jax.custom_jvp[Any], nondiff_argnums=(2,))
def fused_product(x: jax.Array, w: jax.Array, axis: int) -> jax.Array:
    """Return the product of x (rows, n) and w, (n, m) for axis 0 or (m, n) for 1, in float32.

    >>> w = jnp.ones((16, 2), jnp.int8)
    >>> fused_product(jnp.ones((1, 16)), w, 0).tolist()
    [[16.0, 16.0]]
    """
    by_parts = jax.custom_batching.custom_vmap(partial(_by_parts, axis))

    # With many rows, another form is faster.
    @by_parts.def_vmap
    def _(size: int, mapped: Any, x: jax.Array, w: jax.Array) -> tuple[jax.Array, bool]:
        del size
        axes = [0 if one else None for one in mapped]
        return jax.vmap(partial(wide_product, axis=axis), axes)(x, w), True

    return by_parts(x, w)


@fused_product.defjvp
def _(axis: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x, w), (dx, dw) = primals, tangents
    dy = wide_product(dx, w, axis)
    if dw.dtype == w.dtype:  # int8 has no tangents
        dy = dy + wide_product(x, dw, axis)
    return fused_product(x, w, axis), dy


def _by_parts(axis: int, x: jax.Array, w: jax.Array) -> jax.Array:
    n = w.shape[axis] // PARTS
    parts = [
        lax.slice_in_dim(w, i * n, (i + 1) * n, axis=axis).astype(jnp.float32) for i in range(PARTS)
    ]

    def one(row: jax.Array) -> jax.Array:
        pairs = zip(row.astype(jnp.float32).reshape(PARTS, n), parts, strict=True)
        products = [lax.broadcast_in_dim(a, part.shape, (axis,)) * part for a, part in pairs]
        ones = jnp.ones(n, jnp.float32)
        return lax.dot_general(ones, sum(products[1:], products[0]), (((0,), (axis,)), ((), ())))

    return jnp.stack([one(row) for row in x])


def wide_product(x: jax.Array, w: jax.Array, axis: int) -> jax.Array:
    """Return what `fused_product` returns, as a usual product."""
    w = w.astype(x.dtype)
    over = ((x.ndim - 1,), (axis,)), ((), ())
    return lax.dot_general(x, w, over, preferred_element_type=jnp.float32)
