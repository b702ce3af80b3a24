"""Patches: windows as channels, and back; separate kernels for each; and the inverses of layers.

These are the transposed convolution, and the inverse of max pooling.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ..core.declarations import Param
from ..core.layer import Primitive
from ..functional.convolution import transposed_convolution
from ..functional.gradients import shared_sum
from ..functional.linear import to_compute_type, wide_einsum
from ..functional.windows import POOLING, Padding, PerAxis, Windows, lowest, per_axis, windows
from ..initializers import InitFn, he_normal, variance_scaling, zeros
from ..validation import check_shape, positive, require, tuple_of
from . import AXES, check_divides, check_multiples, check_rank, check_window, positive_size, sizes
from .convolution import kernel_parameters


def unfold(
    x: jax.Array,
    kernel_size: PerAxis,
    stride: PerAxis = 1,
    padding: Padding = "valid",
    dilation: PerAxis = 1,
) -> jax.Array:
    """Return the elements of each window as channels, with x padded by zeros.

    Args:
        x: Array of shape `(..., *axes, n)`.
        kernel_size: Number of elements of a window along each axis.
        stride: Step between windows. Default: 1.
        padding: Zeros on both sides of each axis. Default: "valid".
        dilation: Step between the elements of a window. Default: 1.

    Returns:
        Array of shape `(..., *windows, n * prod(kernel_size))`. Channels are ordered first by the
        channel of x, then by the position in the window, as in torch.nn.Unfold.

    >>> import jax.numpy as jnp
    >>> unfold(jnp.array([[1], [2], [3]]), 2).tolist()
    [[1, 2], [2, 3]]
    """
    found = windows(x.shape, kernel_size, stride, padding, dilation, False)
    y = jnp.stack([part for _, part in _slices(x, found, 0)], -1)
    return y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1])


def _slices(x: jax.Array, found: dict[int, Windows], outside: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each position in a window, and the elements of all windows there, in order."""
    padding = [(0, 0)] * x.ndim
    for axis, along in found.items():
        padding[axis] = along.cover
    x = jnp.pad(x, padding, constant_values=outside)
    for place in np.ndindex(*(along.kernel for along in found.values())):
        part = x
        for (axis, along), i in zip(found.items(), place, strict=True):
            start = i * along.dilation
            stop = start + (len(along.starts) - 1) * along.stride + 1
            part = jax.lax.slice_in_dim(part, start, stop, along.stride, axis % x.ndim)
        yield place, part


class Unfold(Primitive):
    """Extract the elements of each window as channels, like torch.nn.Unfold (im2col).

    x has shape `(..., *axes, n)` and y `(..., *windows, n * prod(kernel_size))`, in the type of x.
    Channels are ordered first by the channel of x, then by the position in the window. There are no
    parameters.

    Args:
        kernel_size: Size of the window along each axis; an int means one axis.
        stride: Step between windows. Default: 1.
        padding: Zeros on both sides, as for `MaxPool`. Default: "valid".
        dilation: Step between the elements of a window. Default: 1.

    Raises:
        ValueError: If a window is larger than the padded input.

    >>> import jax.numpy as jnp
    >>> Unfold((4, 4), stride=4).apply({}, jnp.zeros((2, 32, 32, 3))).shape
    (2, 8, 8, 48)
    """

    kernel_size: Annotated[PerAxis, sizes()]
    stride: PerAxis = 1
    padding: Padding = "valid"
    dilation: PerAxis = 1

    def __post_init__(self) -> None:
        """Check the window."""
        check_window(self, POOLING)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the elements of each window."""
        check_rank(x, len(per_axis(self.kernel_size, 1)) + 1, "(..., *axes, channels)")
        return unfold(x, self.kernel_size, self.stride, self.padding, self.dilation)


class LocallyConnected(Primitive):
    """Locally connected layer: `y[t] = sum_i x[t * stride + i * dilation] @ w[t, i] + b[t]`.

    This is `Conv` with a separate kernel and bias for each window. x has shape `(..., *axes, n)`
    and y `(..., *windows, features)`, in the type of x. Parameters are w
    `(*windows, *kernel_size, n, features)` and b `(*windows, features)`, so the sizes of the axes
    are fixed.

    Args:
        features: Number of output channels.
        kernel_size: Size of the window along each axis; an int means one axis.
        stride: Step between windows, one number for all axes or one for each. Default: 1.
        padding: Zeros on both sides, as for `MaxPool`. Default: "valid".
        dilation: Step between the elements of a window, as `stride`. Default: 1.
        bias: Whether to add b. Default: True.
        w_init: Initializer of w, scaled for one window. Default: `he_normal()`.
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If a window is larger than the padded input, or if the input has too few axes.

    Reference: Taigman et al., DeepFace: closing the gap to human-level performance in face
    verification, 2014.

    >>> import jax, jax.numpy as jnp
    >>> net, x = LocallyConnected(8, (3, 3)), jnp.zeros((2, 6, 5, 4))
    >>> jax.tree.map(jnp.shape, net.init(jax.random.key(0), x))
    {'b': (4, 3, 8), 'w': (4, 3, 3, 3, 4, 8)}
    """

    features: Annotated[int, positive_size]
    kernel_size: Annotated[PerAxis, sizes()]
    stride: PerAxis = 1
    padding: Padding = "valid"
    dilation: PerAxis = 1
    bias: bool = True
    w_init: InitFn = he_normal()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check the window."""
        check_window(self, POOLING)

    def _windows(self, x: Any) -> dict[int, Windows]:
        return windows(x.shape, self.kernel_size, self.stride, self.padding, self.dilation)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare w, and b if there is a bias."""
        kernel = per_axis(self.kernel_size, 1)
        check_rank(x, len(kernel) + 1, f"(..., {AXES[len(kernel)]}, channels)")
        each = tuple(along.count for along in self._windows(x).values())
        shape = (*kernel, x.shape[-1], self.features)
        init: Any = self.w_init
        if isinstance(init, variance_scaling):
            init = init.sized(shape)  # by the fan of one window
        declared = {"w": Param((*each, *shape), init)}
        return (
            declared | {"b": Param((*each, self.features), self.b_init)} if self.bias else declared
        )

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the sum of each window by its own kernel, plus the bias."""
        x, w = to_compute_type(x, params["w"])
        parts = jnp.stack([part for _, part in _slices(x, self._windows(x), 0)], -2)
        axes = "xyz"[: len(per_axis(self.kernel_size, 1))]
        w = w.reshape(*w.shape[: len(axes)], -1, *w.shape[-2:])
        y = wide_einsum(f"...{axes}kn,{axes}knm->...{axes}m", parts, w)
        return shared_sum(y, params["b"]) if self.bias else y


class Fold(Primitive):
    """Sum overlapping windows, like torch.nn.Fold (col2im): the transpose of `Unfold`.

    x has shape `(..., *windows, n * prod(kernel_size))` and y `(..., *output_size, n)`, in the type
    of x. Elements that no window covers are 0. There are no parameters.

    Args:
        output_size: Size of each axis of y; an int means one axis.
        kernel_size: Size of the window along each axis.
        stride: Step between windows. Default: 1.
        padding: Zeros that `Unfold` has added on both sides. Default: "valid".
        dilation: Step between the elements of a window. Default: 1.

    Raises:
        ValueError: If the number of channels is not a multiple of the number of elements of a
            window, or if x has a different number of windows.

    >>> import jax.numpy as jnp
    >>> Fold(3, 2).apply({}, jnp.array([[1.0, 2.0], [10.0, 20.0]])).ravel().tolist()
    [1.0, 12.0, 20.0]
    """

    output_size: Annotated[PerAxis, sizes()]
    kernel_size: Annotated[PerAxis, sizes()]
    stride: PerAxis = 1
    padding: Padding = "valid"
    dilation: PerAxis = 1

    def __post_init__(self) -> None:
        """Check the window."""
        sizes(check_window(self, POOLING))(self.output_size, "Fold.output_size")

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the sum of the windows."""
        axes = len(per_axis(self.kernel_size, 1))
        check_rank(x, axes + 1, "(..., *windows, channels)")
        kernel = math.prod(per_axis(self.kernel_size, axes))
        check_multiples(x, "channels", x.shape[-1:], (kernel,), "change kernel_size")
        batch = x.shape[: x.ndim - 1 - axes]
        shape = (*batch, *per_axis(self.output_size, axes), x.shape[-1] // kernel)

        def spread(y: jax.Array) -> jax.Array:
            return unfold(y, self.kernel_size, self.stride, self.padding, self.dilation)

        whole = jax.ShapeDtypeStruct(shape, x.dtype)
        wanted = jax.eval_shape(spread, whole).shape
        check_shape(x, wanted, f"the windows of {self!r}", "change output_size")
        return jax.linear_transpose(spread, whole)(x)[0]


class MaxUnpool(Primitive):
    """Invert max pooling: put maxima at their original positions, and zeros elsewhere.

    Inputs are maxima y and indices, both `(..., *windows, n)`, as `MaxPool(return_indices=True)`
    returns them; the output is `(..., *output_size, n)`, in the type of y. An index is the position
    in the flattened axes, as in torch.nn.MaxUnpool1d to MaxUnpool3d. If several maxima have the
    same position, the output there is one of them.

    Args:
        output_size: Size of each axis of the output, equal to that of the input of the max pooling.

    >>> import jax.numpy as jnp
    >>> MaxUnpool((4,)).apply({}, jnp.array([[5.0], [7.0]]), jnp.array([[1], [2]])).ravel().tolist()
    [0.0, 5.0, 7.0, 0.0]
    """

    output_size: Annotated[
        tuple[int, ...],
        tuple_of(positive, "a tuple of an int >= 1 for each axis").such(
            hint="write nn.MaxUnpool((28, 28))"
        ),
    ]

    def forward(self, params: Any, y: jax.Array, indices: jax.Array) -> jax.Array:
        """Return the maxima at their positions."""
        axes = len(self.output_size)
        check_rank(y, axes + 1, "(..., *windows, channels)")
        hint = "write y, indices = nn.MaxPool(2, return_indices=True)(x)"
        check_shape(indices, y.shape, "the indices of the maxima", hint)
        batch, n = y.shape[: y.ndim - 1 - axes], y.shape[-1]
        rows, places = (
            jnp.moveaxis(a.reshape(*batch, -1, n) if a.size else a.reshape(*batch, 0, n), -1, -2)
            for a in (y, indices)
        )
        size = math.prod(self.output_size)
        flat = jnp.zeros((math.prod(rows.shape[:-1]), size), y.dtype)
        each = [a.reshape(-1, a.shape[-1]) for a in (rows, places)]
        put = jax.vmap(lambda out, row, place: out.at[place].set(row, mode="drop"))
        found = put(flat, *each).reshape(*batch, n, size)
        return jnp.moveaxis(found, -2, -1).reshape(*batch, *self.output_size, n)


def max_pool_indices(x: jax.Array, found: dict[int, Windows]) -> jax.Array:
    """Return the position of each window's first maximum in the flattened axes, int32."""
    best, chosen = None, jnp.zeros((), jnp.int32)
    for place, part in _slices(x, found, lowest(x.dtype)):
        index: Any = 0
        for (axis, along), i in zip(found.items(), place, strict=True):
            position = along.starts + i * along.dilation
            inside = np.clip(position, 0, along.length - 1)
            shape = [1] * x.ndim
            shape[axis] = -1
            index = index * along.length + inside.reshape(shape)
        index = jnp.broadcast_to(jnp.asarray(index, jnp.int32), part.shape)
        if best is None:
            best, chosen = part, index
        else:
            more = (part > best) | (jnp.isnan(part) & ~jnp.isnan(best))
            best, chosen = jnp.where(more, part, best), jnp.where(more, index, chosen)
    return chosen


class ConvTranspose(Primitive):
    """Transposed convolution: `y[t * stride + i * dilation] += x[t] @ w[i]`, plus b.

    x has shape `(..., *axes, n)` and y `(..., *axes, features)`, in the type of x. Parameters are w
    `(*kernel_size, n / groups, features)` and b (features,). Along an axis of s elements the output
    has length

        (s - 1) * stride + (kernel_size - 1) * dilation + 1 - before - after + output_padding

    as in torch.nn.ConvTranspose1d to ConvTranspose3d.

    Args:
        features: Number of output channels.
        kernel_size: Size of the window along each axis; an int means one axis.
        stride: Step between the outputs of neighboring inputs, one number for all axes or one for
            each. Default: 1.
        dilation: Step between the elements of a window, as `stride`. Default: 1.
        groups: Number of groups of neighboring channels; must divide n and `features`. Default: 1.
        padding: Number of output elements to remove: an int for both ends, a pair (before, after),
            "valid" for none, "same" for an output of length s * stride + output_padding, or a tuple
            with one such entry for each axis. Default: "same".
        output_padding: Number of elements to add at the end; must be smaller than the stride or the
            dilation. "stride" adds what a window shorter than the stride lacks, as keras and flax
            do for padding="valid": the length is then at least s * stride. Default: 0.
        bias: Whether to add b. Default: True.
        w_init: Initializer of w. Default: `he_normal()`.
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If `groups` does not divide the channels, if the output would be empty, or if
            the input has too few axes.

    Reference: Zeiler et al., Deconvolutional networks, 2010.

    >>> import jax, jax.numpy as jnp
    >>> net, x = ConvTranspose(8, (4, 4), stride=2), jnp.zeros((2, 7, 7, 16))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (8,), 'w': (4, 4, 16, 8)}
    >>> net.apply(params, x).shape
    (2, 14, 14, 8)
    """

    features: Annotated[int, positive_size]
    kernel_size: Annotated[PerAxis, sizes()]
    stride: PerAxis = 1
    dilation: PerAxis = 1
    groups: Annotated[int, positive_size] = 1
    padding: Padding = "same"
    output_padding: PerAxis | Literal["stride"] = 0
    bias: bool = True
    w_init: InitFn = he_normal()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check the window and the groups."""
        axes = check_window(self, ("same", "valid"))
        check_divides(self, "groups", "features")
        if self.output_padding == "stride":
            return
        sizes(axes, 0)(self.output_padding, "ConvTranspose.output_padding")
        most = tuple(map(max, per_axis(self.stride, axes), per_axis(self.dilation, axes)))
        given = per_axis(self.output_padding, axes)
        require(
            not any(extra and extra >= n for extra, n in zip(given, most, strict=True)),
            "ConvTranspose.output_padding",
            f"below the stride or the dilation, {most}",
            self.output_padding,
        )

    def _extra(self) -> PerAxis:
        if not isinstance(self.output_padding, str):
            return self.output_padding
        kernel = per_axis(self.kernel_size, 1)
        each = (per_axis(a, len(kernel)) for a in (self.stride, self.dilation))
        windows = zip(kernel, *each, strict=True)
        return tuple(max(stride - ((k - 1) * d + 1), 0) for k, stride, d in windows)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare w, and b if there is a bias."""
        return kernel_parameters(self, x, self.groups, self.features)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the transposed convolution plus the bias."""
        return transposed_convolution(
            x,
            params["w"],
            params["b"] if self.bias else None,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            padding=self.padding,
            output_padding=self._extra(),
        )
