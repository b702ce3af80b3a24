"""Pooling as plain functions: the maximum, mean or power mean of each window of an array.

Arrays are (..., *axes, features). A window slides along the last axes but the features, as many as
`kernel_size` is long (an int is one axis); batch axes and features stay apart. All functions take
the same words:

- `stride`: the step from window to window, one number for all axes or one for each; None puts
  windows side by side.
- `padding`: "valid" (none), "same" (as much as makes ceil(n / stride) windows, the odd one at the
  end), an int for both sides, a pair (before, after), or a tuple with such an entry for each axis.
  It is never the maximum.
- `ceil_mode`: whether a last window may hang over the end, which has to begin before it. Along an
  axis of n elements there are (n + padding - kernel_size) / stride + 1 windows, rounded down, or
  up in this mode.

This is torch's pooling, to the gradients: of equal maxima the first has all of it.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .extremes import chosen_by_window, folded, highest, larger, lowest, smaller
from .linear import along_axis, floating_type, wider_type
from .padding import Padding
from .windows import PerAxis, Windows, even_windows, windows


def max_pool(
    x: jax.Array,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = "valid",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    """The maximum of each window, in the type of x; `dilation` is the step within a window.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([1, 4, 2, 3, 5])[:, None]
    >>> max_pool(x, 2)[:, 0].tolist(), max_pool(x, 2, ceil_mode=True)[:, 0].tolist()
    ([4, 3], [4, 3, 5])
    """
    found = windows(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    return chosen_by_window(x, found, larger, lowest(x.dtype))


def min_pool(
    x: jax.Array,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = "valid",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    """The minimum of each window, as `max_pool`.

    >>> import jax.numpy as jnp
    >>> min_pool(jnp.array([1, 4, 2, 3])[:, None], 2)[:, 0].tolist()
    [1, 2]
    """
    found = windows(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    return chosen_by_window(x, found, smaller, highest(x.dtype))


def average_pool(
    x: jax.Array,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = "valid",
    count_include_pad: bool = True,
    ceil_mode: bool = False,
) -> jax.Array:
    """The mean of each window, summed in at least float32, in the floating type of x.

    Padding is zeros, which count as elements of the window or, without `count_include_pad`, do not;
    what hangs over the padding never does.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([2.0, 4.0, 6.0])[:, None]
    >>> average_pool(x, 2, padding=1)[:, 0].tolist()
    [1.0, 5.0]
    >>> average_pool(x, 2, padding=1, count_include_pad=False)[:, 0].tolist()
    [2.0, 5.0]
    """
    found = windows(x.shape, kernel_size, stride, padding, 1, ceil_mode)
    return _means(_wide(x), found, count_include_pad).astype(floating_type(x))


def lp_pool(
    x: jax.Array,
    p: Any,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    ceil_mode: bool = False,
) -> jax.Array:
    """(sum of x**p)**(1 / p) of each window, in at least float32, in the floating type of x.

    p = 1 gives the sum, a large p nearly the maximum. Where the sum is 0, so is the gradient.
    It is the power that is summed, as in torch, not that of |x|: a p that is neither 1 nor even
    wants x >= 0. A window that hangs over the end counts as if it had as many elements as any.

    >>> import jax.numpy as jnp
    >>> lp_pool(jnp.array([3.0, 4.0])[:, None], 2, 2)[:, 0].tolist()
    [5.0]
    """
    found = windows(x.shape, kernel_size, stride, "valid", 1, ceil_mode)
    wide = _wide(x)
    if isinstance(p, float) and p.is_integer():
        p = int(p)  # a product, so that negative numbers have a power
    exponent = p if isinstance(p, int) else jnp.asarray(p, wide.dtype)
    size = math.prod(along.kernel for along in found.values())
    total = _means(wide**exponent, found, False) * jnp.asarray(size, wide.dtype)
    nothing = total == 0
    # The root of 0 has an infinite slope: another number stands there while it is taken.
    root = jnp.where(nothing, 1, total) ** (1 / jnp.asarray(p, wide.dtype))
    return jnp.where(nothing, 0, root).astype(floating_type(x))


def adaptive_average_pool(x: jax.Array, output_size: PerAxis) -> jax.Array:
    """The means of as many windows as `output_size` says, which cover each axis evenly.

    Window i of m on an axis of n elements is [floor(i * n / m), ceil((i + 1) * n / m)), so that
    neighbors share an element where m does not divide n. Sums are taken in at least float32, and
    the result is in the floating type of x. Raises ValueError for an axis without elements.

    >>> import jax.numpy as jnp
    >>> adaptive_average_pool(jnp.array([1.0, 2.0, 6.0])[:, None], 2)[:, 0].tolist()
    [1.5, 4.0]
    """
    y = _wide(x)
    for axis, elements in _even(x, output_size).items():
        sizes = (elements < x.shape[axis]).sum(1)
        y = jnp.sum(_laid(y, axis, elements, 0), axis)
        y = y / _along(sizes, axis, y)
    return y.astype(floating_type(x))


def adaptive_max_pool(x: jax.Array, output_size: PerAxis) -> jax.Array:
    """The maxima of the windows of `adaptive_average_pool`, in the type of x.

    >>> import jax.numpy as jnp
    >>> adaptive_max_pool(jnp.array([1, 2, 6])[:, None], 2)[:, 0].tolist()
    [2, 6]
    """
    for axis, elements in reversed(_even(x, output_size).items()):
        x = folded(_laid(x, axis, elements, lowest(x.dtype)), axis, larger)
    return x


def global_average_pool(x: jax.Array, start: int = 1) -> jax.Array:
    """The mean over all axes from `start` on but the last, in the floating type of x.

    >>> import jax.numpy as jnp
    >>> global_average_pool(jnp.array([[[1.0], [3.0]]])).tolist()
    [[2.0]]
    """
    return jnp.mean(_wide(x), tuple(range(start, x.ndim - 1))).astype(floating_type(x))


def global_max_pool(x: jax.Array, start: int = 1) -> jax.Array:
    """The maximum over all axes from `start` on but the last, in the type of x.

    >>> import jax.numpy as jnp
    >>> global_max_pool(jnp.array([[[1], [3]]])).tolist()
    [[3]]
    """
    for axis in reversed(range(start, x.ndim - 1)):
        x = folded(x, axis, larger)
    return x


def _wide(x: jax.Array) -> jax.Array:
    """x in a floating type of at least float32."""
    return x.astype(wider_type(floating_type(x), jnp.float32))


def _along(numbers: np.ndarray, axis: int, y: jax.Array) -> jax.Array:
    """Numbers along a negative `axis` of y, in its type."""
    return along_axis(jnp.asarray(numbers, y.dtype), y.ndim, axis)


def _means(x: jax.Array, found: dict[int, Windows], count_include_pad: bool) -> jax.Array:
    kernel, stride, padding = [1] * x.ndim, [1] * x.ndim, [(0, 0)] * x.ndim
    for axis, along in found.items():
        kernel[axis], stride[axis], padding[axis] = along.kernel, along.stride, along.cover
    y = lax.reduce_window(x, np.zeros((), x.dtype), lax.add, kernel, stride, padding)
    common = 1
    for axis, along in found.items():
        before, after = along.padding if count_include_pad else (0, 0)
        starts, ends = along.starts, along.starts + along.kernel
        sizes = np.minimum(ends, along.length + after) - np.maximum(starts, -before)
        if (sizes == sizes[0]).all():
            common *= int(sizes[0])
        else:
            y = y / _along(sizes, axis, y)
    return y / jnp.asarray(common, y.dtype)


def _even(x: jax.Array, output_size: PerAxis) -> dict[int, np.ndarray]:
    sizes = output_size if isinstance(output_size, tuple) else (output_size,)
    found = {}
    for axis, count in zip(range(-len(sizes) - 1, -1), sizes, strict=True):
        if x.shape[axis] == 0:
            raise ValueError(f"cannot pool axis {axis} of an array {x.shape}: it has no elements")
        found[axis] = even_windows(x.shape[axis], count)
    return found


def _laid(x: jax.Array, axis: int, elements: np.ndarray, never: Any) -> jax.Array:
    """The elements of windows (count, kernel), the places of a window along a new `axis`."""
    order = elements.ravel()
    if not np.array_equal(order, np.arange(x.shape[axis])):
        x = jnp.take(x, order, axis, mode="fill", fill_value=never)
    axis %= x.ndim
    return x.reshape(*x.shape[:axis], *elements.shape, *x.shape[axis + 1 :])
