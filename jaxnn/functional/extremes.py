"""Maxima and minima of windows, computed by repeated selection between two arrays.

Axes are reduced one at a time from the last, and elements in order, so that of several equal
numbers the first one is chosen and receives the whole gradient. XLA has `reduce_window` for maxima
too, but its gradient takes ten times as long on a CPU, and JAX has none for windows with dilation.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .windows import Windows

FEW = 8  # Window sizes up to this are not reduced by doubling.


@jax.custom_jvp
def larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """max(a, b); if they are equal, a receives the gradient."""
    return lax.max(a, b)


@jax.custom_jvp
def smaller(a: jax.Array, b: jax.Array) -> jax.Array:
    """min(a, b); if they are equal, a receives the gradient."""
    return lax.min(a, b)


@larger.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return larger(*primals), lax.select(primals[1] > primals[0], tangents[1], tangents[0])


@smaller.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return smaller(*primals), lax.select(primals[1] < primals[0], tangents[1], tangents[0])


def lowest(dtype: Any) -> Any:
    """Return the smallest value of a type: -infinity if it is floating, False if it is boolean."""
    if jnp.issubdtype(dtype, jnp.bool_):
        return False
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def highest(dtype: Any) -> Any:
    """Return the largest value of a type: infinity if it is floating, True if it is boolean."""
    if jnp.issubdtype(dtype, jnp.bool_):
        return True
    return np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).max


def chosen_by_window(x: jax.Array, found: dict[int, Windows], choose: Any, never: Any) -> jax.Array:
    """Reduce each window by `choose`; the padding is filled with `never`."""
    for axis, along in reversed(found.items()):
        span = along.dilation * (along.kernel - 1) + 1
        before, after = along.padding[0], (along.count - 1) * along.stride + span
        edges = [(0, 0, 0)] * x.ndim
        edges[axis] = (before, after - before - x.shape[axis], 0)
        x = lax.pad(x, jnp.asarray(never, x.dtype), edges)
        x = (_one_by_one if along.kernel <= FEW else _doubled)(x, axis, along, choose)
    return x


def _one_by_one(x: jax.Array, axis: int, along: Windows, choose: Any) -> jax.Array:
    """Reduce windows one element at a time."""
    end = x.shape[axis] - (along.kernel - 1) * along.dilation
    shifts = range(0, along.kernel * along.dilation, along.dilation)
    places = [lax.slice_in_dim(x, i, i + end, along.stride, axis) for i in shifts]
    return functools.reduce(choose, places)


def _doubled(x: jax.Array, axis: int, along: Windows, choose: Any) -> jax.Array:
    """Reduce windows by doubling: windows of 2n elements from two windows of n."""
    size = 1
    while size < along.kernel:
        step = min(size, along.kernel - size)
        shift, length = step * along.dilation, x.shape[axis]
        first = lax.slice_in_dim(x, 0, length - shift, axis=axis)
        x = choose(first, lax.slice_in_dim(x, shift, length, axis=axis))
        size += step
    return lax.slice_in_dim(x, 0, x.shape[axis], along.stride, axis)


def folded(x: jax.Array, axis: int, choose: Any) -> jax.Array:
    """Reduce `axis` by `choose` on pairs of neighbors until one element is left.

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
