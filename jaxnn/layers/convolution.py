"""Convolution layers over 1 to 3 axes, channels last."""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..arrays import without_padding
from ..core.calls import State
from ..core.composite import Composite
from ..core.declarations import Param, Variable
from ..core.layer import Layer, Primitive
from ..explain.text import describe
from ..functional.convolution import convolution
from ..functional.linear import floating_type
from ..functional.segments import check_segments, packed_convolution
from ..functional.windows import MODES, Padding, PerAxis, entries, padding_lengths, per_axis
from ..initializers import InitFn, he_normal, zeros
from . import (
    AXES,
    cache_length,
    check_divides,
    check_multiples,
    check_not_empty,
    check_not_training,
    check_rank,
    check_window,
    positive_size,
    sizes,
)


class Conv(Primitive):
    """Convolution over 1 to 3 axes: `y[t] = sum_i x[t * stride + i * dilation] @ w[i] + b`.

    x has shape `(..., *axes, n)` with any number of batch axes, and y `(..., *axes, features)`, in
    the type of x. Parameters are w `(*kernel_size, n / groups, features)` and b (features,).

    A convolution over one axis, that of time, accepts `segment_ids=`: integers (..., T), 0 for
    padding and the number of the packed sequence otherwise. Each output sees zeros outside its
    sequence. Padding is skipped and its outputs are 0. This requires a stride of 1 and zero padding
    that keeps the length. For an input (..., T, L, n) of frames with segment_ids (..., T), each
    frame is convolved along L, and frames marked as padding are replaced by zeros.

    Args:
        features: Number of output channels.
        kernel_size: Size of the window along each axis; an int means one axis.
        stride: Step between windows, one number for all axes or one for each. Default: 1.
        dilation: Step between the elements of a window, as `stride`. Default: 1.
        groups: Number of groups of neighboring channels; must divide n and `features`. Each group
            of output channels is computed from its own group of input channels. Default: 1.
        padding: "same" (zeros, for ceil(size / stride) outputs), "valid" (none), "causal" (zeros at
            the front, so that no output depends on a later input), "circular", "reflect",
            "replicate", an int (zeros on both sides), a pair (before, after), or a tuple with one
            such entry for each axis. Default: "same".
        bias: Whether to add b. Default: True.
        cache: If positive, keep the last (kernel_size - 1) * dilation inputs as state, so that a
            causal convolution over one axis accepts a sequence in chunks; set by `nn.with_cache`. A
            chunk without segment_ids continues the last sequence. Default: 0.
        w_init: Initializer of w. Default: `he_normal()`, for ReLU.
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If `groups` does not divide the channels, if a window is larger than the padded
            input, if the input has too few axes, or if `segment_ids` have another shape or the
            convolution changes the length.

    References: LeCun et al., Gradient-based learning applied to document recognition, 1998;
    van den Oord et al., WaveNet, 2016 (causal, dilated).

    >>> import jax, jax.numpy as jnp
    >>> net, x = Conv(16, (3, 3), stride=2), jnp.zeros((8, 28, 28, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (16,), 'w': (3, 3, 3, 16)}
    >>> net.apply(params, x).shape
    (8, 14, 14, 16)
    """

    features: Annotated[int, positive_size]
    kernel_size: Annotated[PerAxis, sizes()]
    stride: PerAxis = 1
    dilation: PerAxis = 1
    groups: Annotated[int, positive_size] = 1
    padding: Padding = "same"
    bias: bool = True
    cache: Annotated[int, cache_length] = 0
    w_init: InitFn = he_normal()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check the window, the groups, and the cache."""
        check_window(self)
        check_divides(self, "groups", "features")
        _check_causal(self)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare w, and b if there is a bias."""
        return kernel_parameters(self, x, self.groups, self.features)

    def variables(self, x: Any) -> dict[str, Variable]:
        """Declare the last inputs and their segment_ids, if a cache is kept."""
        return _last_inputs(self, x)

    def forward(
        self, params: Any, x: jax.Array, *, segment_ids: Any = None, state: State, train: bool
    ) -> tuple[jax.Array, State]:
        """Return the convolution plus the bias, and the last inputs."""
        return _convolved(self, params, x, segment_ids, state, train, self.groups)

    def _takes(self, method: str) -> set[str]:
        return super()._takes(method) - _not_over_time(self)


class DepthwiseConv(Primitive):
    """Depthwise convolution: each channel has a separate kernel.

    y[..., c * multiplier + j] is channel c of x convolved with kernel c * multiplier + j, plus b.
    This is `Conv` with one group for each channel. x has shape `(..., *axes, n)` and y
    `(..., *axes, n * multiplier)`. Parameters are w `(*kernel_size, 1, n * multiplier)` and b
    (n * multiplier,). `segment_ids` and errors are those of `Conv`.

    Args:
        kernel_size: Size of the window along each axis; an int means one axis.
        multiplier: Number of output channels for each input channel. Default: 1.
        stride: Step between windows, one number for all axes or one for each. Default: 1.
        dilation: Step between the elements of a window, as `stride`. Default: 1.
        padding: As for `Conv`. Default: "same".
        bias: Whether to add b. Default: True.
        cache: If positive, keep the last inputs as state; set by `nn.with_cache`. Default: 0.
        w_init: Initializer of w. Default: `he_normal()`.
        b_init: Initializer of b. Default: `zeros()`.

    Reference: Chollet, Xception: deep learning with depthwise separable convolutions, 2017.

    >>> import jax, jax.numpy as jnp
    >>> net, x = DepthwiseConv((3, 3)), jnp.zeros((8, 28, 28, 16))
    >>> jax.tree.map(jnp.shape, net.init(jax.random.key(0), x))
    {'b': (16,), 'w': (3, 3, 1, 16)}
    """

    kernel_size: Annotated[PerAxis, sizes()]
    multiplier: Annotated[int, positive_size] = 1
    stride: PerAxis = 1
    dilation: PerAxis = 1
    padding: Padding = "same"
    bias: bool = True
    cache: Annotated[int, cache_length] = 0
    w_init: InitFn = he_normal()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check the window and the cache."""
        check_window(self)
        _check_causal(self)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare w, and b if there is a bias."""
        check_image(self, x)
        check_not_empty(x, (-1,), "an input with at least one channel")
        return kernel_parameters(self, x, x.shape[-1], x.shape[-1] * self.multiplier)

    def variables(self, x: Any) -> dict[str, Variable]:
        """Declare the last inputs and their segment_ids, if a cache is kept."""
        return _last_inputs(self, x)

    def forward(
        self, params: Any, x: jax.Array, *, segment_ids: Any = None, state: State, train: bool
    ) -> tuple[jax.Array, State]:
        """Return each channel convolved, plus the bias, and the last inputs."""
        return _convolved(self, params, x, segment_ids, state, train, x.shape[-1])

    def _takes(self, method: str) -> set[str]:
        return super()._takes(method) - _not_over_time(self)


class Separable(Composite):
    """Depthwise separable convolution: `y = pointwise(depthwise(x))`. Built by `SeparableConv`.

    Args:
        depthwise: Convolution of each channel.
        pointwise: Map of the channels of each element.

    >>> import jax, jax.numpy as jnp
    >>> net = Separable(DepthwiseConv((3, 3), bias=False), Conv(64, (1, 1)))
    >>> params = net.init(jax.random.key(0), jnp.zeros((8, 28, 28, 16)))
    >>> jax.tree.map(jnp.shape, params["pointwise"])
    {'b': (64,), 'w': (1, 1, 16, 64)}
    """

    depthwise: Layer
    pointwise: Layer

    def forward(self, x: Any) -> Any:
        """Return pointwise(depthwise(x))."""
        return self.pointwise(self.depthwise(x))


def SeparableConv(
    features: int,
    kernel_size: PerAxis,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    padding: Padding = "same",
    multiplier: int = 1,
    bias: bool = True,
) -> Separable:
    """Depthwise separable convolution: a depthwise one, then a pointwise one that mixes channels.

    x has shape `(..., *axes, n)` and y `(..., *axes, features)`. Weights are
    `(*kernel_size, 1, n * multiplier)` and `(*ones, n * multiplier, features)`. For a window of k
    elements, the number of products is multiplier * (1 / features + 1 / k) times that of `Conv`.

    Args:
        features: Number of output channels.
        kernel_size: Size of the window along each axis; an int means one axis.
        stride: Step between windows. Default: 1.
        dilation: Step between the elements of a window. Default: 1.
        padding: As for `Conv`. Default: "same".
        multiplier: Number of depthwise channels for each input channel. Default: 1.
        bias: Whether the pointwise convolution adds a bias. Default: True.

    Returns:
        A `Separable` layer.

    Reference: Chollet, Xception: deep learning with depthwise separable convolutions, 2017.

    >>> SeparableConv(64, (3, 3))
    Separable(DepthwiseConv((3, 3), bias=False), Conv(64, (1, 1)))
    """
    one = (1,) * len(kernel_size) if isinstance(kernel_size, tuple) else 1
    return Separable(
        DepthwiseConv(kernel_size, multiplier, stride, dilation, padding, bias=False),
        Conv(features, one, bias=bias),
    )


def _convolved(
    layer: Any,
    params: Any,
    x: jax.Array,
    segment_ids: Any,
    state: State,
    train: bool,
    groups: int,
) -> tuple[jax.Array, State]:
    padding = layer.padding
    if layer.cache:
        check_not_training(layer, train)
    if segment_ids is not None:
        if not _marks_frames(layer, x, segment_ids, state):
            return _packed(layer, params, x, segment_ids, state, groups)
        x = without_padding(x, segment_ids)
    if state:
        kept, marks = state["inputs"], state["segment_ids"]
        x, length = _joined(kept, x), x.shape[-2]
        continued = jnp.where(marks == 0, 1, marks)[..., -1:]
        marks = jnp.concatenate([marks, jnp.repeat(continued, length, -1)], -1)
        state = {
            "inputs": x[..., length:, :].astype(kept.dtype),
            "segment_ids": marks[..., length:],
        }
        padding = "valid"
    y = convolution(
        x,
        params["w"],
        params["b"] if layer.bias else None,
        stride=layer.stride,
        dilation=layer.dilation,
        groups=groups,
        padding=padding,
    )
    return y, state or {}


def _marks_frames(layer: Any, x: jax.Array, segment_ids: Any, state: State) -> bool:
    """Return whether `segment_ids` mark frames: the axis before the convolved one."""
    shape, over = tuple(getattr(segment_ids, "shape", ())), x.shape[:-1]
    if not shape or len(shape) >= len(over) or shape != over[: len(shape)]:
        check_segments(segment_ids, over)
        return False
    if len(shape) < len(over) - 1 or state:
        raise ValueError(
            f"segment_ids {shape} mark an axis of {describe(x)} that is not convolved; write "
            f"kernel_size=(1, {kernel_sizes(layer)[0]}), which takes none and keeps no cache"
        )
    check_segments(segment_ids, shape)
    return True


def _packed(
    layer: Any, params: Any, x: jax.Array, segment_ids: Any, state: State, groups: int
) -> tuple[jax.Array, State]:
    """Convolve each packed sequence; return the output, and the last inputs with segment_ids."""
    before = _before(layer)
    batch, segment_ids = x.shape[:-2], jnp.asarray(segment_ids, jnp.int32)
    kept = state or {
        "inputs": jnp.zeros((*batch, before, x.shape[-1]), x.dtype),
        "segment_ids": jnp.zeros((*batch, before), jnp.int32),
    }
    y, (inputs, marks) = packed_convolution(
        _joined(kept["inputs"], x),
        params["w"],
        params["b"] if layer.bias else None,
        segment_ids=jnp.concatenate([kept["segment_ids"], segment_ids], -1),
        dilation=per_axis(layer.dilation, 1)[0],
        groups=groups,
        before=before,
    )
    if not state:
        return y, {}
    return y, {"inputs": inputs.astype(kept["inputs"].dtype), "segment_ids": marks}


def _joined(kept: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.concatenate([kept.astype(floating_type(x)), x.astype(floating_type(x))], -2)


def _before(layer: Any) -> int:
    """Return how far a window extends before an output; raise if the length would change."""
    (entry,) = entries(layer.padding, 1)
    reach = (kernel_sizes(layer)[0] - 1) * per_axis(layer.dilation, 1)[0]
    before, after = padding_lengths(entry, reach + 1, reach + 1, 1)
    if per_axis(layer.stride, 1) != (1,) or before + after != reach or (reach and entry in MODES):
        raise ValueError(
            "segment_ids require stride 1 and zero padding that keeps the length; got "
            f"stride={layer.stride!r}, padding={layer.padding!r}; write padding='same' or 'causal'"
        )
    return before


def _not_over_time(layer: Any) -> set[str]:
    """Names of inputs that only convolutions over one axis accept, if there are several axes."""
    return set() if len(kernel_sizes(layer)) == 1 else {"segment_ids"}


def _last_inputs(layer: Any, x: Any) -> dict[str, Variable]:
    """Declare the inputs that later outputs depend on and their segment_ids, if a cache is kept."""
    if not layer.cache or len(kernel_sizes(layer)) > 1:
        return {}
    check_image(layer, x)
    reach = (kernel_sizes(layer)[0] - 1) * per_axis(layer.dilation, 1)[0]
    if not reach:
        return {}
    last = (*x.shape[:-2], reach)
    return {
        "inputs": Variable((*last, x.shape[-1]), zeros(), floating_type(x)),
        "segment_ids": Variable(last, zeros(), "int32"),
    }


def _check_causal(layer: Any) -> None:
    """Check that a layer with a cache is a causal convolution over one axis."""
    if not layer.cache:
        return
    axes, owner = len(kernel_sizes(layer)), type(layer).__name__
    each = entries(layer.padding, axes)
    if axes > 1 and "causal" not in each:
        return  # over images: no state is kept
    span = (kernel_sizes(layer)[0] - 1) * per_axis(layer.dilation, axes)[0] + 1
    causal = padding_lengths(each[0], span, span, 1) == (span - 1, 0)  # also true for a window of 1
    if axes > 1 or not causal or per_axis(layer.stride, axes) != (1,):
        raise ValueError(
            f"{owner} can keep a cache only if it is causal, over one axis, with stride 1; got "
            f"kernel_size={layer.kernel_size!r}, padding={layer.padding!r}, "
            f"stride={layer.stride!r}; write padding='causal', or nn.with_cache(net, match=...)"
        )


def kernel_sizes(layer: Any) -> tuple[int, ...]:
    """Return the size of the kernel along each axis."""
    return per_axis(layer.kernel_size, 1)


def kernel_parameters(layer: Any, x: Any, groups: int, features: int) -> dict[str, Param]:
    """Declare w, and b if there is a bias; raise ValueError if the input does not match."""
    check_image(layer, x)
    channels = x.shape[-1]
    hint = f"write for example {type(layer).__name__}(..., groups={math.gcd(channels, groups)})"
    check_multiples(x, "channels", (channels,), (groups,), hint)
    declared = {"w": Param((*kernel_sizes(layer), channels // groups, features), layer.w_init)}
    return declared | {"b": Param((features,), layer.b_init)} if layer.bias else declared


def check_image(layer: Any, x: Any) -> None:
    """Raise ValueError if an input has fewer axes than the kernel and its channels."""
    axes = len(kernel_sizes(layer))
    check_rank(x, axes + 1, f"(..., {AXES[axes]}, channels)")
