"""Products with weights that are narrower than float32: bfloat16, float16, and int8 with scales.

A product with few rows takes the time of reading the weights, so narrow weights are faster. XLA's
CPU compiler, however, first writes them to memory as float32, which takes ten times as long as the
product. `fused_product` is a form that it converts while it multiplies: a sum of a few elementwise
products, and a product with ones, which sums the rest.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

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
    if dw.dtype == w.dtype:  # there is no tangent of int8
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
    w = w.astype(x.dtype) if w.dtype == jnp.int8 else w
    over = ((x.ndim - 1,), (axis,)), ((), ())
    return lax.dot_general(x, w, over, preferred_element_type=jnp.float32)
