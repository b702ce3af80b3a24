"""Pooling: the maximum, mean, or power mean of each window of an array.

Arrays have shape `(..., *axes, features)`. A window slides along the last axes before the features,
one for each entry of `kernel_size` (an int is one axis). Batch axes and features are not mixed.
The functions share these arguments:

- `stride`: the step between windows, one number for all axes or one for each. None means
  `kernel_size`, so that windows do not overlap.
- `padding`: "valid" (none), "same" (ceil(n / stride) windows, with the odd element at the end), an
  int for both sides, a pair (before, after), or a tuple with one such entry for each axis.
  Padding is never the maximum.
- `ceil_mode`: whether the last window may extend past the end. It must begin before the end. An
  axis of n elements has (n + padding - kernel_size) / stride + 1 windows, rounded down, or up in
  this mode.

The results match torch.nn, including gradients: of several equal maxima, the first one receives the
whole gradient.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..validation import require
from .linear import along_axis, floating_type, wider_type
from .windows import (
    Padding,
    PerAxis,
    Windows,
    chosen_by_window,
    even_windows,
    highest,
    larger,
    lowest,
    reduce_pairs,
    smaller,
    windows,
)


def max_pool(
    x: jax.Array,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = "valid",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    """Return the maximum of each window, in the type of x.

    Args:
        x: Real array of shape `(..., *axes, features)`.
        kernel_size: Number of elements of a window along each axis.
        stride: Step between windows. Default: `kernel_size`.
        padding: Padding on both sides of each axis. Default: "valid".
        dilation: Step between the elements of a window. Default: 1.
        ceil_mode: Whether the last window may extend past the end. Default: False.

    Raises:
        ValueError: If a window is larger than the padded array, or could lie entirely in padding.

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
    """Return the minimum of each window, in the type of x.

    Args:
        x: Real array of shape `(..., *axes, features)`.
        kernel_size: Number of elements of a window along each axis.
        stride: Step between windows. Default: `kernel_size`.
        padding: Padding on both sides of each axis. Default: "valid".
        dilation: Step between the elements of a window. Default: 1.
        ceil_mode: Whether the last window may extend past the end. Default: False.

    Raises:
        ValueError: If a window is larger than the padded array, or could lie entirely in padding.

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
    divisor: int | None = None,
    dilation: PerAxis = 1,
) -> jax.Array:
    """Return the mean of each window, summed in at least float32, in the floating type of x.

    Args:
        x: Real array of shape `(..., *axes, features)`.
        kernel_size: Number of elements of a window along each axis.
        stride: Step between windows. Default: `kernel_size`.
        padding: Zeros on both sides of each axis. Default: "valid".
        count_include_pad: Whether padding counts as elements of the window. Elements past the
            padding are never counted. Default: True.
        ceil_mode: Whether the last window may extend past the end. Default: False.
        divisor: Number by which the sum of each window is divided. Default: its number of elements.
        dilation: Step between the elements of a window. Default: 1.

    Raises:
        ValueError: If a window is larger than the padded array, or could lie entirely in padding.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([2.0, 4.0, 6.0])[:, None]
    >>> average_pool(x, 2, padding=1)[:, 0].tolist()
    [1.0, 5.0]
    >>> average_pool(x, 2, padding=1, count_include_pad=False)[:, 0].tolist()
    [2.0, 5.0]
    """
    found = windows(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    return _means(_wide(x), found, count_include_pad, divisor).astype(floating_type(x))


def lp_pool(
    x: jax.Array,
    p: Any,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = "valid",
    ceil_mode: bool = False,
    dilation: PerAxis = 1,
) -> jax.Array:
    """Return `(sum of x**p)**(1 / p)` of each window, in the floating type of x.

    p = 1 gives the sum; a large p approaches the maximum. The gradient is 0 if the sum is 0. As in
    torch, powers of x are summed, not powers of |x|: x must be >= 0 unless p is 1 or even. Sums are
    taken in at least float32.

    Args:
        x: Real array of shape `(..., *axes, features)`.
        p: Exponent, a nonzero number; may be traced.
        kernel_size: Number of elements of a window along each axis.
        stride: Step between windows. Default: `kernel_size`.
        padding: Zeros on both sides of each axis. Default: "valid".
        ceil_mode: Whether the last window may extend past the end; its sum is then scaled to the
            size of a whole window. Default: False.
        dilation: Step between the elements of a window. Default: 1.

    >>> import jax.numpy as jnp
    >>> lp_pool(jnp.array([3.0, 4.0])[:, None], 2, 2)[:, 0].tolist()
    [5.0]
    """
    found = windows(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    wide = _wide(x)
    if isinstance(p, float) and p.is_integer():
        p = int(p)  # computed as products, which are defined for negative numbers
    exponent = p if isinstance(p, int) else jnp.asarray(p, wide.dtype)
    size = math.prod(along.kernel for along in found.values())
    total = _means(wide**exponent, found, True) * jnp.asarray(size, wide.dtype)
    nothing = total == 0
    # The root has an infinite slope at 0, so it is taken of 1 there instead.
    root = jnp.where(nothing, 1, total) ** (1 / jnp.asarray(p, wide.dtype))
    return jnp.where(nothing, 0, root).astype(floating_type(x))


def adaptive_average_pool(x: jax.Array, output_size: Any) -> jax.Array:
    """Return the means of windows that cover each axis evenly.

    Window i of m along an axis of n elements is [floor(i * n / m), ceil((i + 1) * n / m)), so
    neighboring windows share an element if m does not divide n. Sums are taken in at least float32.

    Args:
        x: Real array of shape `(..., *axes, features)`.
        output_size: Number of windows along each axis; None keeps an axis.

    Returns:
        Array of shape `(..., *output_size, features)`, in the floating type of x.

    Raises:
        ValueError: If an axis has no elements.

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


def adaptive_max_pool(x: jax.Array, output_size: Any) -> jax.Array:
    """Return the maxima of the windows of `adaptive_average_pool`, in the type of x.

    Args:
        x: Real array of shape `(..., *axes, features)`.
        output_size: Number of windows along each axis; None keeps an axis.

    Raises:
        ValueError: If an axis has no elements.

    >>> import jax.numpy as jnp
    >>> adaptive_max_pool(jnp.array([1, 2, 6])[:, None], 2)[:, 0].tolist()
    [2, 6]
    """
    for axis, elements in reversed(_even(x, output_size).items()):
        x = reduce_pairs(_laid(x, axis, elements, lowest(x.dtype)), axis, larger)
    return x


def fractional_max_pool(
    x: jax.Array, kernel_size: PerAxis, output_size: PerAxis, samples: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the maxima of windows whose starts are spread by random numbers, and their positions.

    Along an axis of n elements with m windows of k elements and the number u, window i starts at
    floor((i + u) * a) - floor(u * a), with a = (n - k) / (m - 1); the last one starts at n - k.

    Args:
        x: Real array of shape `(..., *axes, features)`.
        kernel_size: Number of elements of a window along each axis.
        output_size: Number of windows along each axis.
        samples: Numbers u in [0, 1) of each example, feature, and axis, (..., features, axes).

    Returns:
        The maxima, in the type of x, and the position of each one in the flattened axes, int32.

    Raises:
        ValueError: If an axis has fewer than kernel_size + output_size - 1 elements.

    Reference: Graham, Fractional max-pooling, 2014.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(6)[:, None]
    >>> y, indices = fractional_max_pool(x, 2, 3, jnp.array([[0.9]]))
    >>> y[:, 0].tolist(), indices[:, 0].tolist()
    ([1, 3, 5], [1, 3, 5])
    """
    kernels = kernel_size if isinstance(kernel_size, tuple) else (kernel_size,)
    sizes = output_size if isinstance(output_size, tuple) else (output_size,) * len(kernels)
    axes = len(kernels)
    along = x.shape[x.ndim - 1 - axes : -1]
    flat = jnp.arange(math.prod(along), dtype=jnp.int32)
    index = jnp.broadcast_to(flat.reshape(*[1] * (x.ndim - 1 - axes), *along, 1), x.shape)
    for place in reversed(range(axes)):
        axis, k, m = x.ndim - 1 - axes + place, kernels[place], sizes[place]
        n = x.shape[axis]
        _check_length(x, axis, k + m - 1, f" elements, for {m} windows of {k}")
        u = samples[..., place].astype(jnp.float32)[..., None]
        a = (n - k) / (m - 1) if m > 1 else 0.0
        i = jnp.arange(m, dtype=jnp.int32).reshape((1,) * (u.ndim - 1) + (m,))
        starts = jnp.floor((i.astype(u.dtype) + u) * a) - jnp.floor(u * a)
        starts = jnp.where(i == m - 1, n - k, starts.astype(jnp.int32))
        within = jnp.arange(k, dtype=jnp.int32).reshape((1,) * u.ndim + (k,))
        places = (starts[..., None] + within).reshape(*starts.shape[:-1], m * k)
        places = jnp.moveaxis(places, -1, -2)  # (..., m * k, features)
        between = [1] * (axes - 1)
        shape = [*places.shape[:-2], *between[:place], m * k, *between[place:], places.shape[-1]]
        split = (*x.shape[:axis], m, k, *x.shape[axis + 1 :])
        x, index = (
            jnp.take_along_axis(a, places.reshape(shape), axis).reshape(split) for a in (x, index)
        )
        best = jnp.argmax(x, axis + 1, keepdims=True)
        index = jnp.take_along_axis(index, best, axis + 1).squeeze(axis + 1)
        x = reduce_pairs(x, axis + 1 - x.ndim, larger)
    return x, index


def global_average_pool(x: jax.Array, start: int = 1) -> jax.Array:
    """Return the mean over the axes from `start` to the second to last, in the floating type of x.

    Args:
        x: Real array of shape `(..., *axes, features)`.
        start: First axis to average. Default: 1.

    >>> import jax.numpy as jnp
    >>> global_average_pool(jnp.array([[[1.0], [3.0]]])).tolist()
    [[2.0]]
    """
    return jnp.mean(_wide(x), tuple(range(start, x.ndim - 1))).astype(floating_type(x))


def global_max_pool(x: jax.Array, start: int = 1) -> jax.Array:
    """Return the maximum over the axes from `start` to the second to last, in the type of x.

    Args:
        x: Real array of shape `(..., *axes, features)`.
        start: First axis to reduce. Default: 1.

    >>> import jax.numpy as jnp
    >>> global_max_pool(jnp.array([[[1], [3]]])).tolist()
    [[3]]
    """
    for axis in reversed(range(start, x.ndim - 1)):
        x = reduce_pairs(x, axis, larger)
    return x


def _wide(x: jax.Array) -> jax.Array:
    """Convert x to a floating type of at least float32."""
    return x.astype(wider_type(floating_type(x), jnp.float32))


def _along(numbers: np.ndarray, axis: int, y: jax.Array) -> jax.Array:
    """Place numbers along the negative axis `axis` of y, in its type."""
    return along_axis(jnp.asarray(numbers, y.dtype), y.ndim, axis)


def _means(
    x: jax.Array, found: dict[int, Windows], count_include_pad: bool, divisor: int | None = None
) -> jax.Array:
    kernel, stride, dilation = [1] * x.ndim, [1] * x.ndim, [1] * x.ndim
    padding = [(0, 0)] * x.ndim
    for axis, along in found.items():
        kernel[axis], stride[axis], padding[axis] = along.kernel, along.stride, along.cover
        dilation[axis] = along.dilation
    zero = np.zeros((), x.dtype)
    y = lax.reduce_window(x, zero, lax.add, kernel, stride, padding, None, dilation)
    if divisor is not None:
        return y / jnp.asarray(divisor, y.dtype)
    common = 1
    for axis, along in found.items():
        before, after = along.padding if count_include_pad else (0, 0)
        places = along.starts[:, None] + along.dilation * np.arange(along.kernel)
        sizes = ((places >= -before) & (places < along.length + after)).sum(1)
        if (sizes == sizes[0]).all():
            common *= int(sizes[0])
        else:
            y = y / _along(sizes, axis, y)
    return y / jnp.asarray(common, y.dtype)


def _check_length(x: jax.Array, axis: int, least: int, of: str) -> None:
    long = x.shape[axis] >= least
    require(long, f"axis {axis} of an array to pool", f"of at least {least}{of}", x)


def _even(x: jax.Array, output_size: Any) -> dict[int, np.ndarray]:
    sizes = output_size if isinstance(output_size, tuple) else (output_size,)
    found = {}
    for axis, count in zip(range(-len(sizes) - 1, -1), sizes, strict=True):
        _check_length(x, axis, 1, " element")
        if count is not None:
            found[axis] = even_windows(x.shape[axis], count)
    return found


def _laid(x: jax.Array, axis: int, elements: np.ndarray, never: Any) -> jax.Array:
    """Gather windows (count, kernel) of elements; the windows' elements lie along a new `axis`."""
    order = elements.ravel()
    if not np.array_equal(order, np.arange(x.shape[axis])):
        x = jnp.take(x, order, axis, mode="fill", fill_value=never)
    axis %= x.ndim
    return x.reshape(*x.shape[:axis], *elements.shape, *x.shape[axis + 1 :])
