"""Rows that hold NaN or inf, kept out of sums.

0 * NaN is NaN, so a weight of zero does not hide a row, neither in a product nor in a gradient that
sums over rows. These functions replace such rows by zeros before the product, and put NaN in the
place of what follows from them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def finite_rows(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x (..., n) with zeros in place of rows that hold NaN or inf, and which those are (..., 1).

    >>> import jax.numpy as jnp
    >>> rows, broken = finite_rows(jnp.array([[1.0, 2.0], [3.0, jnp.nan]]))
    >>> rows.tolist(), broken[:, 0].tolist()
    ([[1.0, 2.0], [0.0, 0.0]], [False, True])
    """
    broken = ~jnp.all(jnp.isfinite(x), -1, keepdims=True)
    return jnp.where(broken, jnp.zeros_like(x), x), broken


def broken_rows(y: jax.Array, broken: jax.Array) -> jax.Array:
    """y (..., n) with NaN in the rows that are `broken` (..., 1); they have no gradient."""
    return jnp.where(broken, jnp.asarray(jnp.nan, y.dtype), y)


def by_row(f: Callable[[jax.Array], jax.Array], x: jax.Array, checks: bool = True) -> jax.Array:
    """f(x) for a function of each row of x (..., n), to which no row is given that is not finite.

    Such a row gives NaN, and has no part in gradients, which sum over rows. Without `checks` it is
    f(x).
    """
    if not checks:
        return f(x)
    x, broken = finite_rows(x)
    y = f(x)
    return broken_rows(y, broken.reshape(*broken.shape, *(1,) * (y.ndim - broken.ndim)))
