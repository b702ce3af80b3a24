"""Rows that contain NaN or inf, excluded from sums.

0 * NaN is NaN, so a weight of zero does not exclude a row, neither from a product nor from a
gradient that sums over rows. These functions replace such rows by zeros before the product and set
the results of these rows to NaN afterwards.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def finite_rows(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Replace rows of x (..., n) that contain NaN or inf by zeros; return a mask of them (..., 1).

    >>> import jax.numpy as jnp
    >>> rows, broken = finite_rows(jnp.array([[1.0, 2.0], [3.0, jnp.nan]]))
    >>> rows.tolist(), broken[:, 0].tolist()
    ([[1.0, 2.0], [0.0, 0.0]], [False, True])
    """
    broken = ~jnp.all(jnp.isfinite(x), -1, keepdims=True)
    return jnp.where(broken, jnp.zeros_like(x), x), broken


def broken_rows(y: jax.Array, broken: jax.Array) -> jax.Array:
    """Set the rows of y (..., n) that are marked in `broken` (..., 1) to NaN, without gradients."""
    return jnp.where(broken, jnp.asarray(jnp.nan, y.dtype), y)


def by_row(f: Callable[[jax.Array], jax.Array], x: jax.Array, checks: bool = True) -> jax.Array:
    """Apply f to each row of x (..., n) whose elements are all finite.

    Rows that contain NaN or inf give NaN and contribute nothing to gradients that sum over rows. If
    `checks` is False, the result is f(x).
    """
    if not checks:
        return f(x)
    x, broken = finite_rows(x)
    y = f(x)
    return broken_rows(y, broken.reshape(*broken.shape, *(1,) * (y.ndim - broken.ndim)))
