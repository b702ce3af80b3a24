"""Pixel shuffle: channels laid out as a finer grid, and back."""

import math

import jax


def pixel_shuffle(x: jax.Array, factor: tuple[int, ...]) -> jax.Array:
    """(..., *axes, n * prod(factor)) to (..., *(axes * factor), n): each place becomes a block.

    y[..., h * f + i, w * g + j, c] = x[..., h, w, (c * f + i) * g + j] for factor (f, g), so the
    channels are in the order of `torch.nn.PixelShuffle`.

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
    """The inverse of `pixel_shuffle`: each block of places becomes the channels of one.

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
