"""Resampling of spatial axes: interpolation, and channels that become a finer grid."""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from .linear import floating_type

Method = Literal["nearest", "linear", "cubic"]


def upsample(x: jax.Array, size: tuple[int, ...], method: Method = "nearest") -> jax.Array:
    """Resize the axes of x to `size`.

    Grids are aligned by half-pixel centers: elements are the centers of equal cells, and the ends
    of both grids coincide.

    Args:
        x: Array of shape `(..., *axes, n)`.
        size: New length of each axis. Shrinking does not smooth first.
        method: "nearest" takes the element whose cell contains the new center and keeps the type
            of x; "linear" interpolates the two nearest elements along each axis; "cubic"
            interpolates the four nearest by Keys' kernel with a = -0.5. The latter two return the
            floating type of x. Default: "nearest".

    Returns:
        Array of shape `(..., *size, n)`.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[0.0], [4.0]])
    >>> upsample(x, (4,))[:, 0].tolist(), upsample(x, (4,), "linear")[:, 0].tolist()
    ([0.0, 0.0, 4.0, 4.0], [0.0, 1.0, 3.0, 4.0])
    """
    first = x.ndim - 1 - len(size)
    if method == "nearest":
        for axis, (old, new) in enumerate(zip(x.shape[first:-1], size, strict=True), first):
            x = _nearest(x, axis, old, new)
        return x
    x = x.astype(floating_type(x))
    shape = (*x.shape[:first], *size, x.shape[-1])
    return jax.image.resize(x, shape, method, antialias=False)


def _nearest(x: jax.Array, axis: int, old: int, new: int) -> jax.Array:
    if old == new:
        return x
    if new % old:
        places = (2 * jnp.arange(new) + 1) * old // (2 * new)
        return jnp.take(x, places, axis)
    # The gradient of a broadcast is a sum; that of a gather would be a slow scatter.
    shape = x.shape
    x = jnp.broadcast_to(
        jnp.expand_dims(x, axis + 1), (*shape[: axis + 1], new // old, *shape[axis + 1 :])
    )
    return x.reshape(*shape[:axis], new, *shape[axis + 1 :])


def pixel_shuffle(x: jax.Array, factor: tuple[int, ...]) -> jax.Array:
    """Rearrange channels into blocks of a finer grid.

    y[..., h * f + i, w * g + j, c] = x[..., h, w, (c * f + i) * g + j] for factor (f, g). Channels
    are ordered as in `torch.nn.PixelShuffle`.

    Args:
        x: Array of shape `(..., *axes, n * prod(factor))`.
        factor: Factor by which each axis grows.

    Returns:
        Array of shape `(..., *(axes * factor), n)`.

    Reference: Shi et al., Real-time single image and video super-resolution using an efficient
    sub-pixel convolutional neural network, 2016.

    >>> import jax.numpy as jnp
    >>> pixel_shuffle(jnp.arange(4).reshape(1, 1, 4), (2, 2))[..., 0].tolist()
    [[0, 1], [2, 3]]
    """
    k = len(factor)
    batch, sizes = x.shape[: x.ndim - 1 - k], x.shape[x.ndim - 1 - k : -1]
    n = x.shape[-1] // math.prod(factor)
    y = x.reshape(*batch, *sizes, n, *factor)
    first = len(batch)
    order = [axis for i in range(k) for axis in (first + i, first + k + 1 + i)]
    y = y.transpose(*range(first), *order, first + k)
    return y.reshape(*batch, *[s * f for s, f in zip(sizes, factor, strict=True)], n)


def pixel_unshuffle(x: jax.Array, factor: tuple[int, ...]) -> jax.Array:
    """Rearrange blocks of a grid into channels: the inverse of `pixel_shuffle`.

    Args:
        x: Array of shape `(..., *(axes * factor), n)`.
        factor: Factor by which each axis shrinks.

    Returns:
        Array of shape `(..., *axes, n * prod(factor))`.

    >>> import jax.numpy as jnp
    >>> pixel_unshuffle(jnp.arange(4).reshape(2, 2, 1), (2, 2)).tolist()
    [[[0, 1, 2, 3]]]
    """
    k = len(factor)
    batch, sizes = x.shape[: x.ndim - 1 - k], x.shape[x.ndim - 1 - k : -1]
    coarse = [s // f for s, f in zip(sizes, factor, strict=True)]
    blocked = [n for pair in zip(coarse, factor, strict=True) for n in pair]
    y = x.reshape(*batch, *blocked, x.shape[-1])
    first = len(batch)
    blocks, within = ([first + 2 * i + j for i in range(k)] for j in (0, 1))
    y = y.transpose(*range(first), *blocks, first + 2 * k, *within)
    return y.reshape(*batch, *coarse, x.shape[-1] * math.prod(factor))
