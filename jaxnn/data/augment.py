"""Augmentation of images as pure functions of a key, for use inside the training step.

Those that mix examples, and so change targets too, are in `mixing`; `augmentation` joins several.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.fields import is_traced


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
    _check_images(images, "random_shift(key, images, 2)")
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


def random_crop(key: jax.Array, images: jax.Array, size: int | tuple[int, int]) -> jax.Array:
    """Cut a window of `size` out of each image, at a place of its own.

    out[b, i, j] = images[b, top[b] + i, left[b] + j], where top and left are uniform over the
    places where the window fits, and independent. `random_shift` is the crop of a padded image.

    Args:
        key: a JAX key; equal keys give equal crops.
        images: (B, H, W) or (B, H, W, C), any dtype.
        size: (height, width) of the window, or one int for both.

    Returns:
        (B, height, width) or (B, height, width, C), of the same dtype.

    Raises:
        TypeError: size is not of ints (it is a shape, so it is static).
        ValueError: images of another rank, or a window larger than they are.

    >>> random_crop(jax.random.key(0), jnp.zeros((3, 32, 32, 3)), 28).shape
    (3, 28, 28, 3)
    """
    height, width = _sides(size, images, "random_crop")
    with jax.named_scope("random_crop"):
        room = jnp.array([[images.shape[1] - height + 1, images.shape[2] - width + 1]])
        corners = jax.random.randint(key, (len(images), 2), 0, room)
        shape = (height, width, *images.shape[3:])

        def window(image: jax.Array, corner: jax.Array) -> jax.Array:
            return lax.dynamic_slice(image, (*corner, *(0 for _ in images.shape[3:])), shape)

        return jax.vmap(window)(images, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image left to right with probability one half.

    out[b, i, j] = images[b, i, W - 1 - j] where image b is mirrored.

    Args:
        key: a JAX key; equal keys mirror the same images.
        images: (B, H, W) or (B, H, W, C), any dtype.

    Returns:
        images of the same shape and dtype.

    Raises:
        ValueError: images of another rank.

    >>> flipped = random_flip(jax.random.key(0), jnp.array([[[1, 2]]] * 9))
    >>> sorted({tuple(row) for row in flipped[:, 0].tolist()})
    [(1, 2), (2, 1)]
    """
    _check_images(images, "random_flip(key, images)")
    with jax.named_scope("random_flip"):
        mirrored = jax.random.bernoulli(key, shape=(len(images),))
        mirrored = mirrored.reshape(-1, *(1 for _ in images.shape[1:]))
        return jnp.where(mirrored, images[:, :, ::-1], images)


def cutout(key: jax.Array, images: jax.Array, size: int) -> jax.Array:
    """Set a square of each image to zero, at a place of its own.

    out[b, i, j] = 0 where 0 <= i - top[b] < size and 0 <= j - left[b] < size, else images[b, i, j].
    The square's center is uniform over the pixels, so that at the edge a part of it lies outside,
    which the paper found to matter: top = center - size // 2.

    Args:
        key: a JAX key; equal keys give equal squares.
        images: (B, H, W) or (B, H, W, C), any dtype.
        size: the square's side in pixels; it may be traced.

    Returns:
        images of the same shape and dtype.

    Raises:
        ValueError: images of another rank, or a size less than 1.

    Reference: DeVries and Taylor, Improved regularization of convolutional neural networks with
    cutout, 2017.

    >>> int(cutout(jax.random.key(0), jnp.ones((1, 9, 9)), 1).sum())
    80
    """
    _check_images(images, "cutout(key, images, 8)")
    if not is_traced(size) and size < 1:
        raise ValueError(f"cutout: size is {size}, wanted 1 or more: write cutout(key, images, 8)")
    with jax.named_scope("cutout"):
        corners = square_centers(key, images) - size // 2
        inside = in_box(images, corners, corners + size)
        return jnp.where(inside, jnp.zeros((), images.dtype), images)


def square_centers(key: jax.Array, images: jax.Array) -> jax.Array:
    """A pixel (row, column) of each image, int32 (B, 2), uniform over all."""
    return jax.random.randint(key, (len(images), 2), 0, jnp.array([images.shape[1:3]]))


def in_box(images: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Which pixels lie in low[b] <= (row, column) < high[b]: booleans that broadcast to images."""
    sides = []
    for axis in (0, 1):
        places = jnp.arange(images.shape[1 + axis])[None, :]
        sides.append((places >= low[:, axis, None]) & (places < high[:, axis, None]))
    inside = sides[0][:, :, None] & sides[1][:, None, :]
    return inside.reshape(*inside.shape, *(1 for _ in images.shape[3:]))


def _check_images(images: Any, call: str) -> None:
    if images.ndim not in (3, 4):
        raise ValueError(
            f"{call.partition('(')[0]}: images have shape {images.shape}, wanted (B, H, W) or "
            "(B, H, W, C): write images.reshape(-1, H, W)"
        )


def _sides(size: Any, images: Any, name: str) -> tuple[int, int]:
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2 or not all(
        isinstance(side, int | np.integer) and not isinstance(side, bool) for side in sides
    ):
        raise TypeError(
            f"{name}: size is {size!r}, wanted an int or (height, width): write "
            f"{name}(key, images, 28), or jax.jit(..., static_argnames='size')"
        )
    _check_images(images, f"{name}(key, images, 28)")
    height, width = images.shape[1:3]
    if not (1 <= sides[0] <= height and 1 <= sides[1] <= width):
        raise ValueError(
            f"{name}: size is {sides[0]} x {sides[1]}, wanted at most {height} x {width}, the "
            f"images' own: write {name}(key, images, {min(height, width)})"
        )
    return int(sides[0]), int(sides[1])
