"""Convolution layers over 1 to 3 axes, channels last."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ..core.calls import State
from ..core.composite import Composite
from ..core.declarations import Param, Slot, describe
from ..core.initialisers import Initialiser, he_normal, zeros
from ..core.layer import Layer
from ..core.primitive import Primitive
from ..core.values import is_traced
from ..functional.convolution import (
    PerAxis,
    convolution,
    packed_convolution,
    per_axis,
    transposed_convolution,
)
from ..functional.linear import floating_type
from ..functional.padding import MODES, Padding, entries, lengths
from ..functional.segments import check_segments
from .checks import check_flags, check_not_training, check_positive, check_rank

AXES = {1: "length", 2: "height, width", 3: "depth, height, width"}


class Conv(Primitive):
    """y[t] = sum_i x[t * stride + i * dilation] @ w[i] + b, over 1 to 3 axes.

    `kernel_size` has a number for each axis; an int is one axis. x is (..., *axes, n) with any
    number of batch axes and y (..., *axes, features), in the type of x; w is
    (*kernel_size, n / groups, features) and b (features,). `stride` and `dilation` are one number
    for all axes or one for each. Channels and features are cut into `groups` runs, and each run of
    features sees its run of channels. `padding` is one entry for all axes or a tuple with one for
    each: "same" (zeros; ceil(size / stride) outputs), "valid" (none), "causal" (zeros in front, so
    that no output sees a later input), "circular", "reflect", "replicate", an int (zeros on both
    sides), or a pair (before, after). He initialisation by default, for ReLU.

    Over one axis, of time, it takes `segments` by name: integers (..., T), 0 for padding and the
    number of the packed sequence elsewhere. An output sees zeros outside its own sequence, and is 0
    at padding, which is skipped. That wants stride 1 and zeros that keep the length.

    With `cache` > 0, set by `nn.cached`, a causal convolution over one axis keeps its last
    (kernel_size - 1) * dilation inputs as state, and takes a sequence piece by piece; a piece
    without segments goes on in the last one.

    Raises ValueError where groups divide neither channels nor features, where a window is larger
    than the padded input, for an input with fewer axes, and for segments where the length changes.

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

    features: int
    kernel_size: PerAxis
    stride: PerAxis = 1
    dilation: PerAxis = 1
    groups: int = 1
    padding: Padding = "same"
    bias: bool = True
    cache: int = 0
    w_init: Initialiser = he_normal()
    b_init: Initialiser = zeros()

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_window(self)
        check_positive(self, "features", "groups")
        _check_groups(self, self.features, "features")
        _check_cache(self)

    def parameters(self, x: Any) -> dict[str, Param]:
        """w, and b where there is a bias."""
        return _kernel(self, x, self.groups, self.features)

    def variables(self, x: Any) -> dict[str, Slot]:
        """The last inputs and their segments, where a cache is kept."""
        return _last_inputs(self, x)

    def forward(
        self, params: Any, x: jax.Array, *, segments: Any = None, state: State, train: bool
    ) -> tuple[jax.Array, State]:
        """The convolution plus the bias, and the last inputs."""
        return _convolved(self, params, x, segments, state, train, self.groups)

    def _takes(self, method: str) -> set[str]:
        return super()._takes(method) - _not_over_time(self)


class DepthwiseConv(Primitive):
    """y[..., c * multiplier + j] is channel c of x convolved with a kernel of its own, plus b.

    It is `Conv` with as many groups as there are channels: x is (..., *axes, n), y
    (..., *axes, n * multiplier), w (*kernel_size, 1, n * multiplier), b (n * multiplier,). The
    other fields are those of `Conv`, and so are `segments`.

    Reference: Chollet, Xception: deep learning with depthwise separable convolutions, 2017.

    >>> import jax, jax.numpy as jnp
    >>> net, x = DepthwiseConv((3, 3)), jnp.zeros((8, 28, 28, 16))
    >>> jax.tree.map(jnp.shape, net.init(jax.random.key(0), x))
    {'b': (16,), 'w': (3, 3, 1, 16)}
    """

    kernel_size: PerAxis
    multiplier: int = 1
    stride: PerAxis = 1
    dilation: PerAxis = 1
    padding: Padding = "same"
    bias: bool = True
    cache: int = 0
    w_init: Initialiser = he_normal()
    b_init: Initialiser = zeros()

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_window(self)
        check_positive(self, "multiplier")
        _check_cache(self)

    def parameters(self, x: Any) -> dict[str, Param]:
        """w, and b where there is a bias."""
        _check_image(self, x)
        if not x.shape[-1]:
            raise ValueError(f"wants an input with at least one channel, got {describe(x)}")
        return _kernel(self, x, x.shape[-1], x.shape[-1] * self.multiplier)

    def variables(self, x: Any) -> dict[str, Slot]:
        """The last inputs and their segments, where a cache is kept."""
        return _last_inputs(self, x)

    def forward(
        self, params: Any, x: jax.Array, *, segments: Any = None, state: State, train: bool
    ) -> tuple[jax.Array, State]:
        """Each channel convolved, plus the bias, and the last inputs."""
        return _convolved(self, params, x, segments, state, train, x.shape[-1])

    def _takes(self, method: str) -> set[str]:
        return super()._takes(method) - _not_over_time(self)


class Separable(Composite):
    """y = pointwise(depthwise(x)): what `SeparableConv` builds."""

    depthwise: Layer
    pointwise: Layer

    def forward(self, x: Any) -> Any:
        """One after the other."""
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
    """A depthwise convolution, then one over single places that mixes the channels; one bias.

    The fields are those of `DepthwiseConv` and `Conv`. Weights are (*kernel_size, 1,
    n * multiplier) and (*ones, n * multiplier, features): for a window of k places,
    multiplier * (1 / features + 1 / k) of the products of a full convolution.

    Reference: Chollet, Xception: deep learning with depthwise separable convolutions, 2017.

    >>> SeparableConv(64, (3, 3))
    Separable(DepthwiseConv((3, 3), bias=False), Conv(64, (1, 1)))
    """
    one = (1,) * len(kernel_size) if isinstance(kernel_size, tuple) else 1
    return Separable(
        DepthwiseConv(kernel_size, multiplier, stride, dilation, padding, bias=False),
        Conv(features, one, bias=bias),
    )


class ConvTranspose(Primitive):
    """y[t * stride + i * dilation] += x[t] @ w[i], plus b: the transpose of a convolution.

    x is (..., *axes, n) and y (..., *axes, features), in the type of x; w is
    (*kernel_size, n / groups, features), b (features,). Along an axis of s elements the output has

        (s - 1) * stride + (kernel_size - 1) * dilation + 1 - before - after + output_padding

    where `padding` is an int (cut off on both sides), a pair (before, after), "valid" (0), "same"
    (as many as leave s * stride + output_padding), or a tuple with such an entry for each axis. An
    int is the padding of torch.nn.ConvTranspose1d to 3d, and so is `output_padding`, which has to
    be below the stride or the dilation. Raises ValueError where groups divide neither channels nor
    features, where nothing is left, and for an input with fewer axes.

    Reference: Zeiler et al., Deconvolutional networks, 2010.

    >>> import jax, jax.numpy as jnp
    >>> net, x = ConvTranspose(8, (4, 4), stride=2), jnp.zeros((2, 7, 7, 16))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (8,), 'w': (4, 4, 16, 8)}
    >>> net.apply(params, x).shape
    (2, 14, 14, 8)
    """

    features: int
    kernel_size: PerAxis
    stride: PerAxis = 1
    dilation: PerAxis = 1
    groups: int = 1
    padding: Padding = "same"
    output_padding: PerAxis = 0
    bias: bool = True
    w_init: Initialiser = he_normal()
    b_init: Initialiser = zeros()

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_window(self, ("same", "valid"))
        check_positive(self, "features", "groups")
        _check_groups(self, self.features, "features")
        axes = len(_sizes(self))
        _check_per_axis(self, "output_padding", axes, 0)
        most = zip(per_axis(self.stride, axes), per_axis(self.dilation, axes), strict=True)
        for extra, pair in zip(per_axis(self.output_padding, axes), most, strict=True):
            if extra and extra >= max(pair):
                raise ValueError(
                    f"ConvTranspose.output_padding is below the stride or the dilation, got "
                    f"{self.output_padding!r} with stride {self.stride!r} and dilation "
                    f"{self.dilation!r}; write output_padding={max(pair) - 1}, say"
                )

    def parameters(self, x: Any) -> dict[str, Param]:
        """w, and b where there is a bias."""
        return _kernel(self, x, self.groups, self.features)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """The transposed convolution plus the bias."""
        return transposed_convolution(
            x,
            params["w"],
            params["b"] if self.bias else None,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            padding=self.padding,
            output_padding=self.output_padding,
        )


def _sizes(layer: Any) -> tuple[int, ...]:
    return per_axis(layer.kernel_size, 1)


def _kernel(layer: Any, x: Any, groups: int, features: int) -> dict[str, Param]:
    _check_image(layer, x)
    channels = x.shape[-1]
    if channels % groups:
        raise ValueError(
            f"the {channels} channels of {describe(x)} are not a multiple of groups={groups}; "
            f"write {type(layer).__name__}(..., groups={math.gcd(channels, groups)}), say"
        )
    declared = {"w": Param((*_sizes(layer), channels // groups, features), layer.w_init)}
    return declared | {"b": Param((features,), layer.b_init)} if layer.bias else declared


def _convolved(
    layer: Any,
    params: Any,
    x: jax.Array,
    segments: Any,
    state: State,
    train: bool,
    groups: int,
) -> tuple[jax.Array, State]:
    padding = layer.padding
    if layer.cache:
        check_not_training(layer, train)
    if segments is not None:
        return _packed(layer, params, x, segments, state, groups)
    if state:
        kept, marks = state["inputs"], state["segments"]
        x, length = _joined(kept, x), x.shape[-2]
        goes_on = jnp.where(marks == 0, 1, marks)[..., -1:]
        marks = jnp.concatenate([marks, jnp.repeat(goes_on, length, -1)], -1)
        state = {"inputs": x[..., length:, :].astype(kept.dtype), "segments": marks[..., length:]}
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


def _packed(
    layer: Any, params: Any, x: jax.Array, segments: Any, state: State, groups: int
) -> tuple[jax.Array, State]:
    """The convolution of each packed sequence, and the last inputs and their segments."""
    check_segments(segments, x.shape[:-1])
    before = _before(layer)
    batch, segments = x.shape[:-2], jnp.asarray(segments, jnp.int32)
    kept = state or {
        "inputs": jnp.zeros((*batch, before, x.shape[-1]), x.dtype),
        "segments": jnp.zeros((*batch, before), jnp.int32),
    }
    y, (inputs, marks) = packed_convolution(
        _joined(kept["inputs"], x),
        params["w"],
        params["b"] if layer.bias else None,
        segments=jnp.concatenate([kept["segments"], segments], -1),
        dilation=per_axis(layer.dilation, 1)[0],
        groups=groups,
        before=before,
    )
    if not state:
        return y, {}
    return y, {"inputs": inputs.astype(kept["inputs"].dtype), "segments": marks}


def _joined(kept: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.concatenate([kept.astype(floating_type(x)), x.astype(floating_type(x))], -2)


def _before(layer: Any) -> int:
    """The places that a window reaches before an output; ValueError where the length changes."""
    (entry,) = entries(layer.padding, 1)
    reach = (_sizes(layer)[0] - 1) * per_axis(layer.dilation, 1)[0]
    before, after = lengths(entry, reach + 1, reach + 1, 1)
    if per_axis(layer.stride, 1) != (1,) or before + after != reach or (reach and entry in MODES):
        raise ValueError(
            "takes segments with stride 1 and zeros around that keep the length; got "
            f"stride={layer.stride!r}, padding={layer.padding!r}; write padding='same' or 'causal'"
        )
    return before


def _not_over_time(layer: Any) -> set[str]:
    """The names of inputs that only a convolution over one axis takes."""
    return set() if len(_sizes(layer)) == 1 else {"segments"}


def _last_inputs(layer: Any, x: Any) -> dict[str, Slot]:
    """The inputs that the next output still sees, with their segments, where a cache is kept."""
    if not layer.cache or len(_sizes(layer)) > 1:
        return {}
    _check_image(layer, x)
    reach = (_sizes(layer)[0] - 1) * per_axis(layer.dilation, 1)[0]
    if not reach:
        return {}
    last = (*x.shape[:-2], reach)
    return {
        "inputs": Slot((*last, x.shape[-1]), zeros(), floating_type(x)),
        "segments": Slot(last, zeros(), "int32"),
    }


def _check_window(layer: Any, *names: tuple[str, ...]) -> None:
    owner, size = type(layer).__name__, layer.kernel_size
    if not isinstance(size, tuple):
        check_positive(layer, "kernel_size")
    elif not 1 <= len(size) <= 3:
        raise ValueError(
            f"{owner}.kernel_size has a number for each of 1 to 3 axes, got {size!r}; write "
            f"{owner}(..., kernel_size=(3, 3)) for images, say"
        )
    axes = len(_sizes(layer))
    for name in ("kernel_size", "stride", "dilation"):
        _check_per_axis(layer, name, axes, 1)
    try:
        entries(layer.padding, axes, *names)
    except ValueError as error:
        raise ValueError(f"{owner}.{error}") from None
    check_flags(layer, "bias")


def _check_per_axis(layer: Any, name: str, axes: int, least: int) -> None:
    numbers = per_axis(getattr(layer, name), axes)
    owner = type(layer).__name__
    for n in numbers:
        if is_traced(n):
            raise TypeError(
                f"{owner}.{name} holds the traced number {n}, but gives a shape: pass a Python "
                "int, under jax.jit by static_argnums"
            )
    if len(numbers) != axes or any(
        not isinstance(n, int) or isinstance(n, bool) or n < least for n in numbers
    ):
        raise ValueError(
            f"{owner}.{name} is an int >= {least}, or a tuple with one for each of the {axes} axes "
            f"of the kernel; got {getattr(layer, name)!r}"
        )


def _check_groups(layer: Any, number: int, name: str) -> None:
    if number % layer.groups:
        owner = type(layer).__name__
        raise ValueError(
            f"{owner}.{name} is a multiple of groups={layer.groups}, got {number}; write "
            f"{owner}({name}={-(-number // layer.groups) * layer.groups}, ...), say"
        )


def _check_cache(layer: Any) -> None:
    """Only a causal convolution over one axis can be fed a sequence piece by piece."""
    axes, owner = len(_sizes(layer)), type(layer).__name__
    if not isinstance(layer.cache, int) or isinstance(layer.cache, bool) or layer.cache < 0:
        raise ValueError(f"{owner}.cache is an int >= 0, got {layer.cache!r}")
    if not layer.cache:
        return
    each = entries(layer.padding, axes)
    if axes > 1 and "causal" not in each:
        return  # over images: nothing of it goes on
    span = (_sizes(layer)[0] - 1) * per_axis(layer.dilation, axes)[0] + 1
    causal = lengths(each[0], span, span, 1) == (span - 1, 0)  # as is a window of one place
    if axes > 1 or not causal or per_axis(layer.stride, axes) != (1,):
        raise ValueError(
            f"{owner} keeps a cache where it is causal, over one axis, and has stride 1; got "
            f"kernel_size={layer.kernel_size!r}, padding={layer.padding!r}, "
            f"stride={layer.stride!r}; write padding='causal', or leave it out of nn.cached(...)"
        )


def _check_image(layer: Any, x: Any) -> None:
    axes = len(_sizes(layer))
    check_rank(layer, x, axes + 1, f"(..., {AXES[axes]}, channels)")
