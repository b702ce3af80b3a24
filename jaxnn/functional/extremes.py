"""The maximum or minimum of windows, by choosing between two arrays again and again.

Axes are taken one at a time, the last one first, and elements in their order: so of equal numbers
the first in the order of the array is chosen and has all of the gradient. XLA has windows of maxima
too, but their gradient takes ten times as long on a CPU, and JAX has none for those with dilation.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .windows import Windows

FEW = 8  # places of a window, for which doubling would not pay


@jax.custom_jvp
def larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """max(a, b), whose gradient goes to a where they are equal."""
    return lax.max(a, b)


@jax.custom_jvp
def smaller(a: jax.Array, b: jax.Array) -> jax.Array:
    """min(a, b), whose gradient goes to a where they are equal."""
    return lax.min(a, b)


@larger.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return larger(*primals), lax.select(primals[1] > primals[0], tangents[1], tangents[0])


@smaller.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return smaller(*primals), lax.select(primals[1] < primals[0], tangents[1], tangents[0])


def lowest(dtype: Any) -> Any:
    """The number that is never the maximum; of booleans False."""
    if jnp.issubdtype(dtype, jnp.bool_):
        return False
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def highest(dtype: Any) -> Any:
    """The number that is never the minimum; of booleans True."""
    if jnp.issubdtype(dtype, jnp.bool_):
        return True
    return np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).max


def chosen_by_window(x: jax.Array, found: dict[int, Windows], choose: Any, never: Any) -> jax.Array:
    """The one of each window that `choose` leaves; `never` stands in the padding."""
    for axis, along in reversed(found.items()):
        span = along.dilation * (along.kernel - 1) + 1
        before, after = along.padding[0], (along.count - 1) * along.stride + span
        edges = [(0, 0, 0)] * x.ndim
        edges[axis] = (before, after - before - x.shape[axis], 0)
        x = lax.pad(x, jnp.asarray(never, x.dtype), edges)
        x = (_one_by_one if along.kernel <= FEW else _doubled)(x, axis, along, choose)
    return x


def _one_by_one(x: jax.Array, axis: int, along: Windows, choose: Any) -> jax.Array:
    """The places of the windows in turn."""
    end = x.shape[axis] - (along.kernel - 1) * along.dilation
    shifts = range(0, along.kernel * along.dilation, along.dilation)
    places = [lax.slice_in_dim(x, i, i + end, along.stride, axis) for i in shifts]
    return functools.reduce(choose, places)


def _doubled(x: jax.Array, axis: int, along: Windows, choose: Any) -> jax.Array:
    """All windows of that size, those twice as large chosen from two neighbors; then some."""
    size = 1
    while size < along.kernel:
        step = min(size, along.kernel - size)
        shift, length = step * along.dilation, x.shape[axis]
        first = lax.slice_in_dim(x, 0, length - shift, axis=axis)
        x = choose(first, lax.slice_in_dim(x, shift, length, axis=axis))
        size += step
    return lax.slice_in_dim(x, 0, x.shape[axis], along.stride, axis)


def folded(x: jax.Array, axis: int, choose: Any) -> jax.Array:
    """What is left along `axis` when one of each two neighbors is chosen, again and again.

    >>> import jax.numpy as jnp
    >>> folded(jnp.array([[3, 7, 5]]), -1, larger).tolist()
    [7]
    """
    while (length := x.shape[axis]) > 1:
        first = lax.slice_in_dim(x, 0, length - 1, 2, axis)
        chosen = choose(first, lax.slice_in_dim(x, 1, length, 2, axis))
        rest = [lax.slice_in_dim(x, length - 1, length, axis=axis)] if length % 2 else []
        x = lax.concatenate([chosen, *rest], axis % x.ndim) if rest else chosen
    return lax.squeeze(x, [axis])
