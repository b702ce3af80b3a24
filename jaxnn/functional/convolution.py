"""Convolutions over 1 to 3 axes, channels last, and their transposes."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..core.declarations import describe
from .linear import along_axis, to_compute_type
from .padding import MODES, Padding, entries, fill, lengths

PerAxis = int | tuple[int, ...]

# Rows, columns and more of an image, between its batch axis and its channels; then a kernel's.
LAYOUTS = {1: ("NWC", "WIO"), 2: ("NHWC", "HWIO"), 3: ("NDHWC", "DHWIO")}


def per_axis(number: PerAxis, axes: int) -> tuple[int, ...]:
    """One number for each axis.

    >>> per_axis(2, 3), per_axis((1, 2), 2)
    ((2, 2, 2), (1, 2))
    """
    return number if isinstance(number, tuple) else (number,) * axes


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
    """y[t] = sum_i x[t * stride + i * dilation] @ w[i] + b, with x padded (see `padding`).

    x is (..., *axes, n), w (*window, n / groups, m), b (m,); there are as many axes as the window
    has, 1 to 3, and any number of batch axes. Channels and features are cut into `groups` runs, and
    each run of features sees its run of channels. Along an axis of s elements, padded to p,
    the output has (p - (window - 1) * dilation - 1) // stride + 1. It is in the type of x. Raises
    ValueError where the window is longer than the padded input.

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
        before, after = lengths(entry, x.shape[axis], span, strides[i])
        if x.shape[axis] + before + after < span:
            raise ValueError(
                f"the window spans {span} elements (kernel {w.shape[i]}, dilation {dilations[i]}), "
                f"but axis {axis} of {describe(x)} has {x.shape[axis]}, with {before} before and "
                f"{after} after it; write padding='same', or a smaller kernel"
            )
        if isinstance(entry, str) and entry in MODES:
            x = fill(x, axis, entry, before, after)
            before = after = 0
        zeros.append((before, after))
    return _convolve(x, w, b, strides, zeros, rhs_dilation=dilations, feature_group_count=groups)


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
    """y[t * stride + i * dilation] += x[t] @ w[i], plus b: the transpose of a convolution.

    x is (..., *axes, n), w (*window, n / groups, m), b (m,). What is written so has
    (s - 1) * stride + span elements along an axis of s, where span = (window - 1) * dilation + 1.
    `padding` says how many of them go, and `output_padding` how many more stay at the end (or
    zeros follow): an int from both sides, a pair from either, "valid" none, and "same" as many as
    leave s * stride: the transpose of a convolution with the same stride and padding="same". So
    the output has (s - 1) * stride + span - before - after + output_padding, as in torch.

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
                f"before and {after} after are cut off; write padding='same', or less of it"
            )
        edges.append((span - 1 - before, span - 1 - after + extra[i]))
    # A window of holes slides over the input with `stride - 1` zeros put between its elements.
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
    return lengths(entry, 0, span, stride)


def _convolve(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None,
    strides: tuple[int, ...],
    padding: list[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """XLA's convolution, for any number of batch axes; with one of them nothing is reshaped."""
    axes = w.ndim - 2
    batch = x.shape[: x.ndim - 1 - axes]
    if len(batch) != 1:
        x = x.reshape(math.prod(batch), *x.shape[len(batch) :])
    image, kernel = LAYOUTS[axes]
    y = lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=(image, kernel, image), **options
    )
    if b is not None:
        y = y + along_axis(b.astype(y.dtype), y.ndim, -1)
    return y if len(batch) == 1 else y.reshape(*batch, *y.shape[1:])
