"""Augmentation as a pure function of a key, for use inside the training step."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def random_shift(key: jax.Array, images: jax.Array, pixels: int) -> jax.Array:
    """Shift each image by its own whole number of pixels, and fill with zeros.

    out[b, i, j] = images[b, i - down[b], j - right[b]], zero outside, where down and right are
    uniform over -pixels .. pixels and independent.

    Args:
        key: a JAX key; equal keys give equal shifts.
        images: (B, H, W) or (B, H, W, C), any dtype.
        pixels: the furthest shift in each direction, a Python int less than H and W.

    Returns:
        images of the same shape and dtype.

    Raises:
        TypeError: pixels is not an int (it sets the size of a padded image, so it is static).
        ValueError: images of another rank, or pixels that could shift a whole image away.

    >>> dot = jnp.zeros((3, 5, 5)).at[:, 2, 2].set(1.0)
    >>> shifted = random_shift(jax.random.key(0), dot, 2)
    >>> shifted.shape, shifted.sum(axis=(1, 2)).tolist()
    ((3, 5, 5), [1.0, 1.0, 1.0])
    """
    if isinstance(pixels, bool) or not isinstance(pixels, int | np.integer):
        raise TypeError(
            f"random_shift: pixels is {type(pixels).__name__}, wanted a Python int: write "
            "random_shift(key, images, 2), or jax.jit(..., static_argnames='pixels')"
        )
    if images.ndim not in (3, 4):
        raise ValueError(
            f"random_shift: images have shape {images.shape}, wanted (B, H, W) or (B, H, W, C): "
            "write images.reshape(-1, H, W)"
        )
    height, width = images.shape[1:3]
    if not 0 <= pixels < min(height, width):
        raise ValueError(
            f"random_shift: pixels is {pixels}, wanted 0 .. {min(height, width) - 1} for images "
            f"of {height} x {width}: write random_shift(key, images, 2)"
        )
    unshifted = ((0, 0),) * (images.ndim - 3)
    # One slice an image, under vmap: faster on CPU than an indexed gather, one-hot products or
    # selecting among all 2 * pixels + 1 shifts.
    with jax.named_scope("random_shift"):
        padded = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), *unshifted))
        corners = jax.random.randint(key, (len(images), 2), 0, 2 * pixels + 1)

        def window(image: jax.Array, corner: jax.Array) -> jax.Array:
            start = (corner[0], corner[1], *(0 for _ in unshifted))
            return lax.dynamic_slice(image, start, images.shape[1:])

        return jax.vmap(window)(padded, corners)
