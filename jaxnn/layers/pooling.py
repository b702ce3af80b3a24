"""Pooling layers: the maximum, mean, or power mean of windows, channels last.

Windows slide along the last axes before the features, one for each entry of `kernel_size` (an int
means one axis), with any number of batch axes in front.
"""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core.layer import Primitive
from ..functional import pooling
from ..functional.windows import POOLING, Padding, PerAxis, per_axis, windows
from ..validation import Accepts, above, each, is_number, natural, positive, require
from . import AXES, check_not_empty, check_rank, check_window, sizes
from .patches import max_pool_indices

_EXPONENT = above(0).such(
    test=lambda v: is_number(v) and 0 < v < math.inf, hint="for the maximum, write MaxPool"
)


_OUTPUT_SIZE = each(
    None | positive,
    "an int >= 1, or a tuple with one for each of 1 to 3 axes, None for an axis that stays",
    tuple(AXES),
)
_RATIO = each(
    Accepts("", lambda v: is_number(v) and 0 < v < 1),
    "a number between 0 and 1, or a tuple with one for each axis",
    tuple(AXES),
)
OutputSize = int | tuple[int | None, ...]


class MaxPool(Primitive):
    """Max pooling: `y[t] = max_i x[t * stride + i * dilation]`, over the elements i of a window.

    x and y have shape `(..., *axes, features)`, and y has the type of x. Along an axis of n
    elements, padded to m, there are (m - (kernel_size - 1) * dilation - 1) // stride + 1 windows.
    The results are those of torch.nn.MaxPool1d to MaxPool3d; of several equal maxima, the first one
    receives the gradient.

    Args:
        kernel_size: Size of the window along each axis; an int means one axis.
        stride: Step between windows, one number for all axes or one for each. None means
            `kernel_size`. Default: None.
        padding: "valid" (none), "same" (ceil(n / stride) windows), an int for both sides, a pair
            (before, after), or a tuple with one such entry for each axis. Two ints mean (before,
            after) if there is one axis, and one int per axis if there are two. Padding is never the
            maximum. Default: "valid".
        dilation: Step between the elements of a window, as `stride`. Default: 1.
        ceil_mode: Whether to add a last window that begins before the end and extends past it, if
            elements are left over. Default: False.
        return_indices: Whether to return a tuple (y, indices), with the position of each maximum in
            the flattened axes, int32, for `MaxUnpool`. Default: False.

    Raises:
        ValueError: If a window is larger than the padded input (torch returns one window in
            `ceil_mode`), or if padding could contain a whole window.

    >>> import jax.numpy as jnp
    >>> MaxPool((2, 2)).apply({}, jnp.zeros((8, 28, 28, 16))).shape
    (8, 14, 14, 16)
    """

    kernel_size: Annotated[PerAxis, sizes()]
    stride: PerAxis | None = None
    padding: Padding = "valid"
    dilation: PerAxis = 1
    ceil_mode: bool = False
    return_indices: bool = False

    def __post_init__(self) -> None:
        """Check the window."""
        check_window(self, POOLING)

    def forward(self, params: Any, x: jax.Array) -> Any:
        """Return the maximum of each window, with its index if it is requested."""
        _check_axes(x, self.kernel_size)
        given = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        y = pooling.max_pool(x, *given)
        return (y, max_pool_indices(x, windows(x.shape, *given))) if self.return_indices else y


class MinPool(Primitive):
    """Min pooling: `y[t] = min_i x[t * stride + i * dilation]`, over the elements i of a window.

    Shapes are those of `MaxPool`; of several equal minima, the first one receives the gradient.

    Args:
        kernel_size: Size of the window along each axis; an int means one axis.
        stride: Step between windows. None means `kernel_size`. Default: None.
        padding: As for `MaxPool`; padding is never the minimum. Default: "valid".
        dilation: Step between the elements of a window. Default: 1.
        ceil_mode: Whether to add a last window that extends past the end. Default: False.

    Raises:
        ValueError: As for `MaxPool`.

    >>> import jax.numpy as jnp
    >>> MinPool(2).apply({}, jnp.array([[1], [4], [2], [3]])).tolist()
    [[1], [2]]
    """

    kernel_size: Annotated[PerAxis, sizes()]
    stride: PerAxis | None = None
    padding: Padding = "valid"
    dilation: PerAxis = 1
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        """Check the window."""
        check_window(self, POOLING)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the minimum of each window."""
        _check_axes(x, self.kernel_size)
        return pooling.min_pool(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )


class AvgPool(Primitive):
    """Average pooling: `y[t] = mean_i x[t * stride + i]`, over the elements i of a window.

    Shapes are those of `MaxPool`. y has the type of x; integers become floating. Sums are computed
    in at least float32. The results are those of torch.nn.AvgPool1d to AvgPool3d.

    Args:
        kernel_size: Size of the window along each axis; an int means one axis.
        stride: Step between windows. None means `kernel_size`. Default: None.
        padding: Zeros on both sides, as for `MaxPool`. Default: "valid".
        count_include_pad: Whether padding counts as elements of a window. Elements past the padding
            (in `ceil_mode`) are never counted. Default: True.
        ceil_mode: Whether to add a last window that extends past the end. Default: False.
        divisor_override: Number by which the sum of each window is divided. Default: its number of
            elements.
        dilation: Step between the elements of a window. Default: 1.

    Raises:
        ValueError: As for `MaxPool`.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[2.0], [4.0], [6.0]])
    >>> AvgPool(2, padding=1).apply({}, x).ravel().tolist()
    [1.0, 5.0]
    >>> AvgPool(2, padding=1, count_include_pad=False).apply({}, x).ravel().tolist()
    [2.0, 5.0]
    """

    kernel_size: Annotated[PerAxis, sizes()]
    stride: PerAxis | None = None
    padding: Padding = "valid"
    count_include_pad: bool = True
    ceil_mode: bool = False
    divisor_override: Annotated[int | None, None | positive] = None
    dilation: PerAxis = 1

    def __post_init__(self) -> None:
        """Check the window."""
        check_window(self, POOLING)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the mean of each window."""
        _check_axes(x, self.kernel_size)
        given = (self.kernel_size, self.stride, self.padding, self.count_include_pad)
        more = (self.ceil_mode, self.divisor_override, self.dilation)
        return pooling.average_pool(x, *given, *more)


class LpPool(Primitive):
    """Power-average pooling: `y[t] = (sum_i x[t * stride + i]**p)**(1 / p)` over each window.

    p = 1 gives the sum; a large p approaches the maximum. The gradient is 0 if the sum is 0. Powers
    of x are summed, not powers of |x|: x must be >= 0 unless p is 1 or even. Shapes are those of
    `MaxPool` and types those of `AvgPool`. The results are those of torch.nn.LPPool1d to LPPool3d.

    Args:
        p: Exponent, a number > 0; may be traced.
        kernel_size: Size of the window along each axis; an int means one axis.
        stride: Step between windows. None means `kernel_size`. Default: None.
        padding: Zeros on both sides, as for `MaxPool`. Default: "valid".
        ceil_mode: Whether to add a last window that extends past the end; its sum is scaled to the
            size of a whole window. Default: False.
        dilation: Step between the elements of a window. Default: 1.

    Raises:
        ValueError: If a window is larger than the padded input, even in `ceil_mode`.

    >>> import jax.numpy as jnp
    >>> LpPool(2, 2).apply({}, jnp.array([[3.0], [4.0]])).tolist()
    [[5.0]]
    """

    p: Annotated[float, _EXPONENT]
    kernel_size: Annotated[PerAxis, sizes()]
    stride: PerAxis | None = None
    padding: Padding = "valid"
    ceil_mode: bool = False
    dilation: PerAxis = 1

    def __post_init__(self) -> None:
        """Check the window."""
        check_window(self, POOLING)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the power mean of each window, times its size."""
        _check_axes(x, self.kernel_size)
        given = (self.p, self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return pooling.lp_pool(x, *given, self.dilation)


class AdaptiveAvgPool(Primitive):
    """Average pooling to a given output size.

    Window i of m along an axis of n elements is [floor(i * n / m), ceil((i + 1) * n / m)). The
    windows cover the axis evenly; neighbors share an element if m does not divide n. x has shape
    `(..., *axes, features)` and y `(..., *output_size, features)`, in the type of x; integers
    become floating. Sums are computed in at least float32. The results are those of
    torch.nn.AdaptiveAvgPool1d to AdaptiveAvgPool3d.

    Args:
        output_size: Number of windows along each axis, or None to keep the axis; an int means one
            axis.

    Raises:
        ValueError: If an axis has no elements.

    >>> import jax.numpy as jnp
    >>> AdaptiveAvgPool((7, 7)).apply({}, jnp.zeros((2, 10, 12, 16))).shape
    (2, 7, 7, 16)
    """

    output_size: Annotated[OutputSize, _OUTPUT_SIZE]

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the mean of each window."""
        _check_axes(x, self.output_size)
        return pooling.adaptive_average_pool(x, self.output_size)


class AdaptiveMaxPool(Primitive):
    """Max pooling to a given output size, in the type of x.

    The windows and shapes are those of `AdaptiveAvgPool`. The results are those of
    torch.nn.AdaptiveMaxPool1d to AdaptiveMaxPool3d; of several equal maxima, the first one receives
    the gradient.

    Args:
        output_size: Number of windows along each axis, or None to keep the axis; an int means one
            axis.

    Raises:
        ValueError: If an axis has no elements.

    >>> import jax.numpy as jnp
    >>> AdaptiveMaxPool(2).apply({}, jnp.array([[1], [2], [6]])).tolist()
    [[2], [6]]
    """

    output_size: Annotated[OutputSize, _OUTPUT_SIZE]

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the maximum of each window."""
        _check_axes(x, self.output_size)
        return pooling.adaptive_max_pool(x, self.output_size)


class FractionalMaxPool(Primitive):
    """Fractional max pooling: the maximum of windows at random, evenly spread places.

    Along an axis of n elements, m windows of k elements start at floor((i + u) * a) - floor(u * a),
    with a = (n - k) / (m - 1), and the last one at n - k. In training, u is drawn from [0, 1) for
    each axis, example, and feature; in inference u is 1/2. x has shape `(..., *axes, features)`,
    and y `(..., *output_size, features)`, in the type of x. The windows are those of
    torch.nn.FractionalMaxPool2d and 3d, which draw in inference, too.

    Args:
        kernel_size: Size of the window along each axis; an int means one axis.
        output_size: Number of windows along each axis; an int means all axes. Default: None.
        output_ratio: Number of windows as a fraction of n, in (0, 1), rounded down; one number for
            all axes or one for each. Pass either `output_size` or `output_ratio`. Default: None.
        return_indices: Whether to return a tuple (y, indices), as `MaxPool` does. Default: False.

    Raises:
        ValueError: If an axis has fewer than k + m - 1 elements, or in training without a key.

    Reference: Graham, Fractional max-pooling, 2014.

    >>> import jax.numpy as jnp
    >>> FractionalMaxPool((2, 2), output_ratio=0.7).apply({}, jnp.zeros((2, 10, 10, 3))).shape
    (2, 7, 7, 3)
    """

    kernel_size: Annotated[PerAxis, sizes()]
    output_size: Annotated[PerAxis | None, None | sizes()] = None
    output_ratio: Annotated[float | tuple[float, ...] | None, None | _RATIO] = None
    return_indices: bool = False

    def __post_init__(self) -> None:
        """Check that one of the two is given, with a number for each axis."""
        axes = len(per_axis(self.kernel_size, 1))
        given = (self.output_size, self.output_ratio)
        each = [axes if not isinstance(a, tuple) else len(a) for a in given if a is not None]
        what = f"one of output_size and output_ratio, for {axes} axes"
        require(each == [axes], "FractionalMaxPool", what, given)

    def forward(self, params: Any, x: jax.Array, *, key: Any, train: bool) -> Any:
        """Return the maximum of each window, with its index if it is requested."""
        _check_axes(x, self.kernel_size)
        axes = len(per_axis(self.kernel_size, 1))
        along = x.shape[x.ndim - 1 - axes : -1]
        size = self.output_size
        if size is None:
            ratio: Any = self.output_ratio
            ratios = ratio if isinstance(ratio, tuple) else (ratio,) * axes
            size = tuple(int(n * r) for n, r in zip(along, ratios, strict=True))
        shape = (*x.shape[: x.ndim - 1 - axes], x.shape[-1], axes)
        dtype = jnp.float32
        samples = jax.random.uniform(key, shape, dtype) if train else jnp.full(shape, 0.5, dtype)
        y, indices = pooling.fractional_max_pool(x, self.kernel_size, size, samples)
        return (y, indices) if self.return_indices else y


class GlobalAvgPool(Primitive):
    """Global average pooling: the mean over the axes from `start` to the second to last.

    (batch, H, W, C) becomes (batch, C), in the type of x; integers become floating. Sums are
    computed in at least float32. The layer does not take `segment_ids`: padding is included.

    Args:
        start: First axis to average. Default: 1.

    Raises:
        ValueError: If there are no such axes, or if they have no elements.

    Reference: Lin et al., Network in network, 2014.

    >>> import jax.numpy as jnp
    >>> GlobalAvgPool().apply({}, jnp.zeros((8, 7, 7, 512))).shape
    (8, 512)
    """

    start: Annotated[int, natural] = 1

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the mean of each feature."""
        _check_inner(self, x)
        return pooling.global_average_pool(x, self.start)


class GlobalMaxPool(Primitive):
    """Global max pooling: the maximum over the axes from `start` to the second to last.

    (batch, H, W, C) becomes (batch, C), in the type of x. Of several equal maxima, the first one
    receives the gradient. The layer does not take `segment_ids`: padding is included.

    Args:
        start: First axis to reduce. Default: 1.

    Raises:
        ValueError: If there are no such axes, or if they have no elements.

    >>> import jax.numpy as jnp
    >>> GlobalMaxPool(start=0).apply({}, jnp.array([[1, 5], [3, 2]])).tolist()
    [3, 5]
    """

    start: Annotated[int, natural] = 1

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the maximum of each feature."""
        _check_inner(self, x)
        return pooling.global_max_pool(x, self.start)


def _check_axes(x: Any, sizes: Any) -> None:
    axes = len(sizes) if isinstance(sizes, tuple) else 1
    check_rank(x, axes + 1, f"(..., {AXES[axes]}, features)")


def _check_inner(layer: Any, x: Any) -> None:
    check_rank(x, layer.start + 2, f"(*{layer.start} batch axes, *axes, features)")
    check_not_empty(x, range(layer.start, x.ndim - 1), "axes to pool with at least one element")
