"""Pooling layers: the maximum, mean or power mean of windows, channels last.

Windows slide along the last axes but the features, as many as `kernel_size` has numbers (an int is
one axis), with any number of batch axes in front.
"""

from typing import Any

import jax

from ..core.layer import Layer, Primitive
from ..explain.text import describe
from ..fields import is_traced
from ..functional import pooling
from ..functional.padding import Padding, entries
from ..functional.windows import NAMES, PerAxis
from .checks import AXES, check_flags, check_per_axis, check_rank


class MaxPool(Primitive):
    """y[t] = max_i x[t * stride + i * dilation], over the places i of a window.

    x is (..., *axes, features), y too and in the type of x. `stride` and `dilation` are one number
    for all axes or one for each; stride=None puts windows side by side. `padding` is "valid"
    (none), "same" (ceil(n / stride) windows), an int for both sides, a pair (before, after), or a
    tuple with such an entry for each axis: two ints are a pair over one axis, and over two axes an
    int for each. It is never the maximum. Along an axis of n elements, padded to m, there are
    (m - (kernel_size - 1) * dilation - 1) // stride + 1 windows, and with `ceil_mode` another one
    that hangs over the end, where there is a rest and it begins before the end. As
    torch.nn.MaxPool1d to 3d; of equal maxima the first has the gradient.

    Raises ValueError for a window larger than the padded input, where torch has one window in
    `ceil_mode`; and for padding that could hold a whole window.

    >>> import jax.numpy as jnp
    >>> MaxPool((2, 2)).apply({}, jnp.zeros((8, 28, 28, 16))).shape
    (8, 14, 14, 16)
    """

    kernel_size: PerAxis
    stride: PerAxis | None = None
    padding: Padding = "valid"
    dilation: PerAxis = 1
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_window(self)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """The maximum of each window."""
        _check_axes(self, x, self.kernel_size)
        return pooling.max_pool(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )


class MinPool(Primitive):
    """y[t] = min_i x[t * stride + i * dilation]; otherwise as `MaxPool`.

    >>> import jax.numpy as jnp
    >>> MinPool(2).apply({}, jnp.array([[1], [4], [2], [3]])).tolist()
    [[1], [2]]
    """

    kernel_size: PerAxis
    stride: PerAxis | None = None
    padding: Padding = "valid"
    dilation: PerAxis = 1
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_window(self)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """The minimum of each window."""
        _check_axes(self, x, self.kernel_size)
        return pooling.min_pool(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )


class AvgPool(Primitive):
    """y[t] = mean_i x[t * stride + i], over the places i of a window.

    Padding is zeros that count as elements of their window; without `count_include_pad` they do
    not. What hangs over the padding, in `ceil_mode`, never counts. Sums are taken in at least
    float32; y is in the type of x, and integers become floating. The fields are otherwise those of
    `MaxPool`; as torch.nn.AvgPool1d to 3d.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[2.0], [4.0], [6.0]])
    >>> AvgPool(2, padding=1).apply({}, x).ravel().tolist()
    [1.0, 5.0]
    >>> AvgPool(2, padding=1, count_include_pad=False).apply({}, x).ravel().tolist()
    [2.0, 5.0]
    """

    kernel_size: PerAxis
    stride: PerAxis | None = None
    padding: Padding = "valid"
    count_include_pad: bool = True
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_window(self)
        check_flags(self, "count_include_pad")

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """The mean of each window."""
        _check_axes(self, x, self.kernel_size)
        return pooling.average_pool(
            x, self.kernel_size, self.stride, self.padding, self.count_include_pad, self.ceil_mode
        )


class LpPool(Primitive):
    """y[t] = (sum_i x[t * stride + i]**p)**(1 / p), over the places i of a window.

    p = 1 gives the sum, a large p nearly the maximum; it may be a traced number. Where the sum is
    0, so is the gradient. It is the power that is summed, not that of |x|: a p that is neither 1
    nor even wants x >= 0. In `ceil_mode` a window that hangs over the end counts as if it had as
    many elements as any. Otherwise as `AvgPool` without padding; as torch.nn.LPPool1d to 3d,
    but for a window larger than the input, which raises in `ceil_mode` too.

    >>> import jax.numpy as jnp
    >>> LpPool(2, 2).apply({}, jnp.array([[3.0], [4.0]])).tolist()
    [[5.0]]
    """

    p: float
    kernel_size: PerAxis
    stride: PerAxis | None = None
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        number = isinstance(self.p, int | float) and not isinstance(self.p, bool)
        if not is_traced(self.p) and not (number and 0 < self.p < float("inf")):
            raise ValueError(
                f"LpPool.p is a number > 0, got {self.p!r}; for the maximum write MaxPool"
            )
        _check_window(self)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """The power mean of each window, times its size."""
        _check_axes(self, x, self.kernel_size)
        return pooling.lp_pool(x, self.p, self.kernel_size, self.stride, self.ceil_mode)


class AdaptiveAvgPool(Primitive):
    """The means of as many windows along each axis as `output_size` says.

    Window i of m on an axis of n elements is [floor(i * n / m), ceil((i + 1) * n / m)): the axis is
    covered evenly, and neighbors share an element where m does not divide n. x is
    (..., *axes, features), y (..., *output_size, features) in the type of x, and integers become
    floating. An int is one axis. Sums are taken in at least float32. As
    torch.nn.AdaptiveAvgPool1d to 3d. Raises ValueError for an axis without elements.

    >>> import jax.numpy as jnp
    >>> AdaptiveAvgPool((7, 7)).apply({}, jnp.zeros((2, 10, 12, 16))).shape
    (2, 7, 7, 16)
    """

    output_size: PerAxis

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_per_axis(self, "output_size")

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """The mean of each window."""
        _check_axes(self, x, self.output_size)
        return pooling.adaptive_average_pool(x, self.output_size)


class AdaptiveMaxPool(Primitive):
    """The maxima of the windows of `AdaptiveAvgPool`, in the type of x.

    As torch.nn.AdaptiveMaxPool1d to 3d; of equal maxima the first has the gradient.

    >>> import jax.numpy as jnp
    >>> AdaptiveMaxPool(2).apply({}, jnp.array([[1], [2], [6]])).tolist()
    [[2], [6]]
    """

    output_size: PerAxis

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_per_axis(self, "output_size")

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """The maximum of each window."""
        _check_axes(self, x, self.output_size)
        return pooling.adaptive_max_pool(x, self.output_size)


class GlobalAvgPool(Primitive):
    """The mean over all axes from `start` on but the last: (batch, H, W, C) becomes (batch, C).

    Sums are taken in at least float32; y is in the type of x, and integers become floating. It
    takes no `segment_ids`: padding counts as any other place. Raises ValueError where there are no
    such axes, or no elements.

    Reference: Lin et al., Network in network, 2014.

    >>> import jax.numpy as jnp
    >>> GlobalAvgPool().apply({}, jnp.zeros((8, 7, 7, 512))).shape
    (8, 512)
    """

    start: int = 1

    def __post_init__(self) -> None:
        """Check the axis."""
        _check_start(self)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """One mean a feature."""
        _check_inner(self, x)
        return pooling.global_average_pool(x, self.start)


class GlobalMaxPool(Primitive):
    """The maximum over all axes from `start` on but the last: (batch, H, W, C) becomes (batch, C).

    In the type of x; of equal maxima the first has the gradient. It takes no `segment_ids`: padding
    counts as any other place. Raises ValueError where there are no such axes, or no elements.

    >>> import jax.numpy as jnp
    >>> GlobalMaxPool(start=0).apply({}, jnp.array([[1, 5], [3, 2]])).tolist()
    [3, 5]
    """

    start: int = 1

    def __post_init__(self) -> None:
        """Check the axis."""
        _check_start(self)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """One maximum a feature."""
        _check_inner(self, x)
        return pooling.global_max_pool(x, self.start)


def _check_window(layer: Any) -> None:
    axes = check_per_axis(layer, "kernel_size")
    for name in ("stride", "dilation"):
        if getattr(layer, name, None) is not None:
            check_per_axis(layer, name, axes)
    try:
        entries(getattr(layer, "padding", "valid"), axes, NAMES)
    except ValueError as error:
        raise ValueError(f"{type(layer).__name__}.{error}") from None
    check_flags(layer, "ceil_mode")


def _check_axes(layer: Layer, x: Any, sizes: PerAxis) -> None:
    axes = len(sizes) if isinstance(sizes, tuple) else 1
    check_rank(layer, x, axes + 1, f"(..., {AXES[axes]}, features)")


def _check_start(layer: Any) -> None:
    start = layer.start
    if not isinstance(start, int) or isinstance(start, bool) or start < 0:
        raise ValueError(f"{type(layer).__name__}.start is an axis, an int >= 0; got {start!r}")


def _check_inner(layer: Any, x: Any) -> None:
    check_rank(layer, x, layer.start + 2, f"(*{layer.start} batch axes, *axes, features)")
    if 0 in x.shape[layer.start : -1]:
        raise ValueError(f"cannot pool {describe(x)}: there are no elements")
