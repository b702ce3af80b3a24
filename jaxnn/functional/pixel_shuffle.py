"""Pixel shuffle, which rearranges channels into a finer grid, and its inverse."""

import math

import jax


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
