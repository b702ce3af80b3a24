"""Upsampling: resize the spatial axes of an array."""

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
