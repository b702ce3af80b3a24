"""Resizing the spatial axes of an array, channels last."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from .linear import floating_type, wider_type

Method = Literal["nearest", "nearest_floor", "linear", "cubic", "bicubic"]


def upsample(
    x: jax.Array,
    size: tuple[int, ...],
    method: Method = "nearest",
    *,
    align_corners: bool = False,
    factor: tuple[float, ...] | None = None,
) -> jax.Array:
    """Resize the axes of x to `size`.

    Grids are aligned by half-pixel centers: elements are the centers of equal cells, and the ends
    of both grids coincide. With `align_corners`, the centers of the first and last cells coincide.

    Args:
        x: Array of shape `(..., *axes, n)`.
        size: New length of each axis. Shrinking does not smooth first.
        method: "nearest" takes the element whose cell contains the new center, "nearest_floor"
            that whose cell contains the start of the new cell; both keep the type of x. "linear"
            interpolates the two nearest elements along each axis; "cubic" interpolates the four
            nearest by Keys' kernel with a = -0.5, and leaves out elements past the ends; "bicubic"
            uses a = -0.75, and repeats the elements at the ends. These return the floating type of
            x. Default: "nearest".
        align_corners: Whether the corners are aligned; for interpolation only. Default: False.
        factor: Ratio of the new to the old grid of each axis, if it is not that of the sizes;
            "cubic" uses that of the sizes. Default: None.

    Returns:
        Array of shape `(..., *size, n)`.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[0.0], [4.0]])
    >>> upsample(x, (4,))[:, 0].tolist(), upsample(x, (4,), "linear")[:, 0].tolist()
    ([0.0, 0.0, 4.0, 4.0], [0.0, 1.0, 3.0, 4.0])
    >>> upsample(x, (5,), "linear", align_corners=True)[:, 0].tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    first = x.ndim - 1 - len(size)
    sizes = list(zip(x.shape[first:-1], size, strict=True))
    ratios = [new / old for old, new in sizes] if factor is None else factor
    nearest = method in ("nearest", "nearest_floor")
    if not nearest:
        x = x.astype(floating_type(x))
    if method == "cubic" or (method == "linear" and not align_corners and factor is None):
        shape = (*x.shape[:first], *size, x.shape[-1])
        return jax.image.resize(x, shape, "cubic" if method == "cubic" else method, antialias=False)
    for axis, ((old, new), ratio) in enumerate(zip(sizes, ratios, strict=True), first):
        if nearest:
            offset = 0.5 if method == "nearest" else 0.0
            x = _nearest(x, axis, old, new, ratio, offset)
        else:
            x = _interpolated(x, axis, _weights(old, new, ratio, method == "linear", align_corners))
    return x


def _weights(old: int, new: int, ratio: float, linear: bool, align_corners: bool) -> np.ndarray:
    """Return the weights (new, old) of interpolation along an axis."""
    steps = np.arange(new)
    corners = steps * ((old - 1) / max(new - 1, 1))
    place = corners if align_corners else (steps + 0.5) / ratio - 0.5
    if linear:
        place = np.clip(place, 0, old - 1)
    below = np.floor(place)
    away = place - below
    weights = np.zeros((new, old))
    for shift in (0, 1) if linear else (-1, 0, 1, 2):
        weight = 1 - np.abs(away - shift) if linear else _keys(away - shift, -0.75)
        nearest = np.clip(below + shift, 0, old - 1).astype(int)
        np.add.at(weights, (steps, nearest), weight)
    return weights


def _keys(t: np.ndarray, a: float) -> np.ndarray:
    """Return Keys' cubic convolution kernel at distances t."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    return np.where(t <= 1, near, np.where(t < 2, a * (((t - 5) * t + 8) * t - 4), 0))


def _interpolated(x: jax.Array, axis: int, weights: np.ndarray) -> jax.Array:
    """Return the sums of the elements along an axis with weights (new, old)."""
    wide = wider_type(x.dtype, jnp.float32)
    y = jnp.tensordot(x, jnp.asarray(weights, x.dtype), [[axis], [1]], preferred_element_type=wide)
    return jnp.moveaxis(y, -1, axis).astype(x.dtype)


def _nearest(x: jax.Array, axis: int, old: int, new: int, ratio: Any, offset: float) -> jax.Array:
    if old == new and ratio == 1:
        return x
    if new % old or ratio != new // old:
        if ratio == new / old and offset:
            places = (2 * np.arange(new) + 1) * old // (2 * new)
        else:
            # torch divides in float32.
            scale = np.float32(old / new if ratio == new / old else 1 / ratio)
            places = np.floor((np.arange(new, dtype=np.float32) + np.float32(offset)) * scale)
        return jnp.take(x, np.minimum(places, old - 1).astype(np.int32), axis)
    # The gradient of a broadcast is a sum; that of a gather would be a slow scatter.
    shape = x.shape
    x = jnp.broadcast_to(
        jnp.expand_dims(x, axis + 1), (*shape[: axis + 1], new // old, *shape[axis + 1 :])
    )
    return x.reshape(*shape[:axis], new, *shape[axis + 1 :])
