"""Convolutions over 1 to 3 axes, channels last, and transposed convolutions."""

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..explain.text import describe
from .gradients import shared_sum
from .linear import to_compute_type, wider_type
from .segments import packed_positions
from .windows import MODES, Padding, PerAxis, check_span, entries, fill, padding_lengths, per_axis

# Names of the axes of an input and of a kernel, by the number of spatial axes.
LAYOUTS = {1: ("NWC", "WIO"), 2: ("NHWC", "HWIO"), 3: ("NDHWC", "DHWIO")}


def convolution(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    groups: int = 1,
    padding: Padding = "same",
) -> jax.Array:
    """Convolve: `y[t] = sum_i x[t * stride + i * dilation] @ w[i] + b`, with x padded.

    Along an axis of s elements, padded to p, the output has length
    (p - (window - 1) * dilation - 1) // stride + 1.

    Args:
        x: Array of shape `(..., *axes, n)` with any number of batch axes.
        w: Kernel of shape `(*window, n / groups, m)`, with 1 to 3 axes in `window`.
        b: Bias of shape (m,), or None.
        stride: Step between windows. Default: 1.
        dilation: Step between the elements of a window. Default: 1.
        groups: Number of groups of neighboring channels. Each group of output features is computed
            from its own group of input channels. Default: 1.
        padding: See `functional.windows`. Default: "same".

    Returns:
        Array of shape `(..., *output axes, m)`, in the type of x.

    Raises:
        ValueError: If the window is longer than the padded input.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(4.0)[:, None]
    >>> convolution(x, jnp.ones((3, 1, 1)))[:, 0].tolist()
    [1.0, 3.0, 6.0, 5.0]
    >>> convolution(x, jnp.ones((2, 1, 1)), padding="causal")[:, 0].tolist()
    [0.0, 1.0, 3.0, 5.0]
    """
    axes = w.ndim - 2
    strides, dilations = per_axis(stride, axes), per_axis(dilation, axes)
    x, w = to_compute_type(x, w)
    zeros = []
    for i, entry in enumerate(entries(padding, axes)):
        axis = x.ndim - 1 - axes + i
        span = (w.shape[i] - 1) * dilations[i] + 1
        before, after = padding_lengths(entry, x.shape[axis], span, strides[i])
        check_span(x.shape, axis, w.shape[i], dilations[i], (before, after))
        if isinstance(entry, str) and entry in MODES:
            x = fill(x, axis, entry, before, after)
            before = after = 0
        zeros.append((before, after))
    return _convolve(x, w, b, strides, zeros, rhs_dilation=dilations, feature_group_count=groups)


def packed_convolution(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    segment_ids: jax.Array,
    dilation: int = 1,
    groups: int = 1,
    before: int = 0,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Convolve each sequence of a packed and padded row separately.

    Each output sees zeros outside its sequence. Padding is skipped, so its contents have no effect;
    the output is 0 there.

    Args:
        x: Array of shape (..., L, n).
        w: Kernel of shape (window, n / groups, m).
        b: Bias of shape (m,), or None.
        segment_ids: Integers of shape (..., L), 0 for padding.
        dilation: Step between the elements of a window. Default: 1.
        groups: Number of groups of channels. Default: 1.
        before: Number of positions at the start of x that precede the T = L - before outputs: the
            end of the previous chunk, or padding. The window of an output starts `before`
            positions before it. Default: 0.

    Returns:
        The output (..., T, m), and a pair of the last `before` inputs and segment_ids, which must
        precede the next chunk. Both are zero outside the last sequence.

    >>> import jax.numpy as jnp
    >>> x, segment_ids = jnp.array([[0.0], [1], [2], [3], [4]]), jnp.array([0, 1, 1, 2, 2])
    >>> y, _ = packed_convolution(x, jnp.ones((2, 1, 1)), segment_ids=segment_ids, before=1)
    >>> y[:, 0].tolist()
    [1.0, 3.0, 3.0, 7.0]
    """
    axis, window, length = segment_ids.ndim - 1, w.shape[0], segment_ids.shape[-1] - before
    real = segment_ids != 0
    x = jnp.where(real[..., None], x, jnp.zeros_like(x))
    if window == 1:
        y = convolution(x, w, b, groups=groups)
        return jnp.where(real[..., None], y, jnp.zeros_like(y)), (
            x[..., :0, :],
            segment_ids[..., :0],
        )
    # Move padding to the front and keep the order of the rest, so that sequences have no gaps.
    order = jnp.argsort(real, axis, stable=True)
    x = jnp.take_along_axis(x, order[..., None], axis)
    sequence = jnp.take_along_axis(packed_positions(segment_ids)[0].sequence, order, axis)
    stays = (sequence == sequence[..., -1:])[..., length:]
    kept = jnp.take_along_axis(segment_ids, order, axis)[..., length:]
    ahead = x[..., length:, :]
    kept = (
        jnp.where(stays[..., None], ahead, jnp.zeros_like(ahead)),
        jnp.where(stays, kept, jnp.zeros_like(kept)),
    )
    # Gather the window of each output, masked to its sequence; windows are concatenated.
    behind = [(0, 0)] * axis + [(0, (window - 1) * dilation - before)]
    at = np.arange(length)[:, None] + dilation * np.arange(window)
    seen = jnp.pad(sequence, behind)[..., at] == sequence[..., before:, None]
    taps = jnp.pad(x, [*behind, (0, 0)])[..., at, :]
    taps = jnp.where(seen[..., None], taps, jnp.zeros_like(taps))
    taps = taps.reshape(*x.shape[:-2], length * window, x.shape[-1])
    y = convolution(taps, w, b, stride=window, groups=groups, padding="valid")
    back = jnp.maximum(jnp.argsort(order, axis)[..., before:] - before, 0)
    y = jnp.take_along_axis(y, back[..., None], axis)
    return jnp.where(real[..., before:, None], y, jnp.zeros_like(y)), kept


def transposed_convolution(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    groups: int = 1,
    padding: Padding = "same",
    output_padding: PerAxis = 0,
) -> jax.Array:
    """Transposed convolution: `y[t * stride + i * dilation] += x[t] @ w[i]`, plus b.

    Along an axis of s elements the output has length
    (s - 1) * stride + span - before - after + output_padding, with
    span = (window - 1) * dilation + 1, as in torch.

    Args:
        x: Array of shape `(..., *axes, n)` with any number of batch axes.
        w: Kernel of shape `(*window, n / groups, m)`, with 1 to 3 axes in `window`.
        b: Bias of shape (m,), or None.
        stride: Step between the outputs of neighboring inputs. Default: 1.
        dilation: Step between the elements of a window. Default: 1.
        groups: Number of groups of neighboring channels. Default: 1.
        padding: Number of output elements to remove: an int from both ends, a pair (before,
            after), "valid" for none, or "same" for an output of length s * stride, which is the
            transpose of a convolution with the same stride and padding="same". Default: "same".
        output_padding: Number of elements to add at the end. Default: 0.

    Returns:
        Array of shape `(..., *output axes, m)`, in the type of x.

    Raises:
        ValueError: If the output would have no elements.

    >>> import jax.numpy as jnp
    >>> x, w = jnp.array([[1.0], [10.0]]), jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    >>> transposed_convolution(x, w, stride=2, padding="valid")[:, 0].tolist()
    [1.0, 2.0, 13.0, 20.0, 30.0]
    >>> transposed_convolution(x, w, stride=2)[:, 0].tolist()
    [1.0, 2.0, 13.0, 20.0]
    """
    axes = w.ndim - 2
    strides, dilations = per_axis(stride, axes), per_axis(dilation, axes)
    extra = per_axis(output_padding, axes)
    x, w = to_compute_type(x, w)
    edges = []
    for i, entry in enumerate(entries(padding, axes, ("same", "valid"))):
        axis = x.ndim - 1 - axes + i
        span = (w.shape[i] - 1) * dilations[i] + 1
        before, after = _cut(entry, span, strides[i])
        length = (x.shape[axis] - 1) * strides[i] + span - before - after + extra[i]
        if length < 1:
            raise ValueError(
                f"axis {axis} of {describe(x)} would become {length} elements long: {before} "
                f"before and {after} after are removed; use padding='same', or less padding"
            )
        edges.append((span - 1 - before, span - 1 - after + extra[i]))
    # Convolve over the input with `stride - 1` zeros inserted between its elements.
    return _convolve(
        x,
        jnp.flip(w, tuple(range(axes))),
        b,
        (1,) * axes,
        edges,
        lhs_dilation=strides,
        rhs_dilation=dilations,
        feature_group_count=groups,
    )


def _cut(entry: Any, span: int, stride: int) -> tuple[int, int]:
    if entry == "same":
        return max(span - stride, 0) // 2, span - stride - max(span - stride, 0) // 2
    return padding_lengths(entry, 0, span, stride)


def _convolve(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None,
    strides: tuple[int, ...],
    padding: list[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Call XLA's convolution with one batch axis; other numbers of batch axes are reshaped."""
    axes = w.ndim - 2
    batch = x.shape[: x.ndim - 1 - axes]
    if len(batch) != 1:
        x = x.reshape(math.prod(batch), *x.shape[len(batch) :])
    if _in_loop.get() and math.prod(w.shape[:axes]) <= PRODUCTS:
        ones = (1,) * axes
        holes, dilations = (options.get(name, ones) for name in ("lhs_dilation", "rhs_dilation"))
        groups = options.get("feature_group_count", 1)
        edges = [
            (before, after, hole - 1) for (before, after), hole in zip(padding, holes, strict=True)
        ]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
        y = _convolved(x, w, strides, dilations, groups)
    else:
        y = _xla(x, w, strides, padding, **options)
    if b is not None:
        y = shared_sum(y, b)
    return y if len(batch) == 1 else y.reshape(*batch, *y.shape[1:])


def _xla(x: jax.Array, w: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    image, kernel = LAYOUTS[w.ndim - 2]
    dimensions = (image, kernel, image)
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=dimensions, **options)


# Convolutions inside of loops on a CPU

PRODUCTS = 64
"""The largest number of window elements for which a kernel's gradient is a sum of products."""

_in_loop: ContextVar[bool] = ContextVar("_in_loop", default=False)


@contextlib.contextmanager
def looped() -> Iterator[None]:
    """Use convolutions whose gradients are fast in a loop, while the body of a loop is traced.

    On a CPU, XLA computes the gradients of a convolution in a loop one to two orders of magnitude
    slower than outside of it, because the layouts of their operands are unusual. The gradient of
    the kernel is then computed by a matrix product for each element of the window, and the gradient
    of the input by a convolution with the usual layout. Other devices are not affected.
    """
    token = _in_loop.set(jax.default_backend() == "cpu")
    try:
        yield
    finally:
        _in_loop.reset(token)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _convolved(x: jax.Array, w: jax.Array, strides: Any, dilations: Any, groups: int) -> jax.Array:
    """Convolve x, which is already padded."""
    padding = [(0, 0)] * len(strides)
    return _xla(x, w, strides, padding, rhs_dilation=dilations, feature_group_count=groups)


@_convolved.defjvp
def _(strides: Any, dilations: Any, groups: int, primals: Any, tangents: Any) -> Any:
    (x, w), (dx, dw) = primals, tangents
    y = _convolved(x, w, strides, dilations, groups)
    # The backward pass transposes both terms: it computes `_input_gradient`, and products of the
    # windows and dy.
    (by_input,) = jax.linear_transpose(
        lambda dy: _input_gradient(dy, w, x.shape, strides, dilations, groups), y
    )(dx)
    return y, by_input + _products(x, dw, y.shape, strides, dilations, groups)


def _input_gradient(
    dy: jax.Array, w: jax.Array, shape: Any, strides: Any, dilations: Any, groups: int
) -> jax.Array:
    """Return the gradient of a padded input of `shape`, as a convolution of dy."""
    axes = len(strides)
    *window, n, m = w.shape
    # Swap the input and output features of the kernel within each group.
    w = jnp.flip(w, tuple(range(axes))).reshape(*window, n, groups, m // groups)
    w = jnp.swapaxes(w, -1, -3).reshape(*window, m // groups, groups * n)
    edges = []
    for i in range(axes):
        span = (window[i] - 1) * dilations[i] + 1
        unused = shape[i + 1] - ((dy.shape[i + 1] - 1) * strides[i] + span)
        edges.append((span - 1, span - 1 + unused, strides[i] - 1))
    dy = lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    return _convolved(dy, w, (1,) * axes, dilations, groups)


def _products(
    x: jax.Array, w: jax.Array, shape: Any, strides: Any, dilations: Any, groups: int
) -> jax.Array:
    """Return the convolution of a padded x, as a sum of one product per element of the window."""
    *window, n, m = w.shape
    wide = wider_type(x.dtype, jnp.float32)
    total: Any = 0
    for offset in itertools.product(*map(range, window)):
        start = [i * d for i, d in zip(offset, dilations, strict=True)]
        stop = [b + (k - 1) * s + 1 for b, k, s in zip(start, shape[1:-1], strides, strict=True)]
        part = lax.slice(
            x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1)
        ).reshape(-1, groups, n)
        kernel = w[offset].reshape(n, groups, m // groups)
        if n == m // groups == 1:
            total += (part[..., 0] * kernel[0, :, 0]).astype(wide)
        else:
            total += jnp.einsum("rgn,ngm->rgm", part, kernel, preferred_element_type=wide)
    return total.reshape(shape).astype(x.dtype)
