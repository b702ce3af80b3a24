"""Convolution layers over 1 to 3 axes, channels last."""

from typing import Any

import jax
import jax.numpy as jnp

from ..core.calls import State
from ..core.composite import Composite
from ..core.declarations import Param, Variable
from ..core.layer import Layer, Primitive
from ..explain.text import describe
from ..functional.convolution import PerAxis, convolution, packed_convolution, per_axis
from ..functional.linear import floating_type
from ..functional.padding import MODES, Padding, entries, lengths
from ..functional.segments import check_segments
from ..initializers import InitFn, he_normal, zeros
from ..masking import without_padding
from .checks import check_cache, check_not_training, check_positive
from .kernel import check_groups, check_image, check_kernel, kernel_parameters, kernel_sizes


class Conv(Primitive):
    """y[t] = sum_i x[t * stride + i * dilation] @ w[i] + b, over 1 to 3 axes.

    `kernel_size` has a number for each axis; an int is one axis. x is (..., *axes, n) with any
    number of batch axes and y (..., *axes, features), in the type of x; w is
    (*kernel_size, n / groups, features) and b (features,). `stride` and `dilation` are one number
    for all axes or one for each. Channels and features are cut into `groups` runs, and each run of
    features sees its run of channels. `padding` is one entry for all axes or a tuple with one for
    each: "same" (zeros; ceil(size / stride) outputs), "valid" (none), "causal" (zeros in front, so
    that no output sees a later input), "circular", "reflect", "replicate", an int (zeros on both
    sides), or a pair (before, after). He initialization by default, for ReLU.

    Over one axis, of time, it takes `segment_ids` by name: integers (..., T), 0 for padding and the
    number of the packed sequence elsewhere. An output sees zeros outside its own sequence, and is 0
    at padding, which is skipped. That wants stride 1 and zeros that keep the length. Of frames
    (..., T, L, n), with segment_ids (..., T), each is convolved along L as it is, and those at
    padding count as zeros.

    With `cache` > 0, set by `nn.with_cache`, a causal convolution over one axis keeps its last
    (kernel_size - 1) * dilation inputs as state, and takes a sequence piece by piece; a piece
    without segment_ids goes on in the last one.

    Raises ValueError where groups divide neither channels nor features, where a window is larger
    than the padded input, for an input with fewer axes, and for segment_ids of another shape or
    where the length changes.

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
    w_init: InitFn = he_normal()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check the fields."""
        check_kernel(self)
        check_positive(self, "features", "groups")
        check_groups(self, self.features, "features")
        _check_causal(self)

    def parameters(self, x: Any) -> dict[str, Param]:
        """w, and b where there is a bias."""
        return kernel_parameters(self, x, self.groups, self.features)

    def variables(self, x: Any) -> dict[str, Variable]:
        """The last inputs and their segment_ids, where a cache is kept."""
        return _last_inputs(self, x)

    def forward(
        self, params: Any, x: jax.Array, *, segment_ids: Any = None, state: State, train: bool
    ) -> tuple[jax.Array, State]:
        """The convolution plus the bias, and the last inputs."""
        return _convolved(self, params, x, segment_ids, state, train, self.groups)

    def _takes(self, method: str) -> set[str]:
        return super()._takes(method) - _not_over_time(self)


class DepthwiseConv(Primitive):
    """y[..., c * multiplier + j] is channel c of x convolved with a kernel of its own, plus b.

    It is `Conv` with as many groups as there are channels: x is (..., *axes, n), y
    (..., *axes, n * multiplier), w (*kernel_size, 1, n * multiplier), b (n * multiplier,). The
    other fields are those of `Conv`, and so are `segment_ids`.

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
    w_init: InitFn = he_normal()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check the fields."""
        check_kernel(self)
        check_positive(self, "multiplier")
        _check_causal(self)

    def parameters(self, x: Any) -> dict[str, Param]:
        """w, and b where there is a bias."""
        check_image(self, x)
        if not x.shape[-1]:
            raise ValueError(f"wants an input with at least one channel, got {describe(x)}")
        return kernel_parameters(self, x, x.shape[-1], x.shape[-1] * self.multiplier)

    def variables(self, x: Any) -> dict[str, Variable]:
        """The last inputs and their segment_ids, where a cache is kept."""
        return _last_inputs(self, x)

    def forward(
        self, params: Any, x: jax.Array, *, segment_ids: Any = None, state: State, train: bool
    ) -> tuple[jax.Array, State]:
        """Each channel convolved, plus the bias, and the last inputs."""
        return _convolved(self, params, x, segment_ids, state, train, x.shape[-1])

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
        goes_on = jnp.where(marks == 0, 1, marks)[..., -1:]
        marks = jnp.concatenate([marks, jnp.repeat(goes_on, length, -1)], -1)
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
    """Whether `segment_ids` mark the axis in front of the one convolved, and so nothing of it."""
    shape, over = tuple(getattr(segment_ids, "shape", ())), x.shape[:-1]
    if not shape or len(shape) >= len(over) or shape != over[: len(shape)]:
        check_segments(segment_ids, over)
        return False
    if len(shape) < len(over) - 1 or state:
        raise ValueError(
            f"segment_ids {shape} mark another axis of {describe(x)} than the one convolved: write "
            f"kernel_size=(1, {kernel_sizes(layer)[0]}), which takes none and keeps no cache"
        )
    check_segments(segment_ids, shape)
    return True


def _packed(
    layer: Any, params: Any, x: jax.Array, segment_ids: Any, state: State, groups: int
) -> tuple[jax.Array, State]:
    """The convolution of each packed sequence, and the last inputs and their segment_ids."""
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
    """The places that a window reaches before an output; ValueError where the length changes."""
    (entry,) = entries(layer.padding, 1)
    reach = (kernel_sizes(layer)[0] - 1) * per_axis(layer.dilation, 1)[0]
    before, after = lengths(entry, reach + 1, reach + 1, 1)
    if per_axis(layer.stride, 1) != (1,) or before + after != reach or (reach and entry in MODES):
        raise ValueError(
            "takes segment_ids with stride 1 and zeros around that keep the length; got "
            f"stride={layer.stride!r}, padding={layer.padding!r}; write padding='same' or 'causal'"
        )
    return before


def _not_over_time(layer: Any) -> set[str]:
    """The names of inputs that only a convolution over one axis takes."""
    return set() if len(kernel_sizes(layer)) == 1 else {"segment_ids"}


def _last_inputs(layer: Any, x: Any) -> dict[str, Variable]:
    """The inputs that the next output still sees, with their segment_ids, where a cache is kept."""
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
    """Only a causal convolution over one axis can be fed a sequence piece by piece."""
    check_cache(layer)
    if not layer.cache:
        return
    axes, owner = len(kernel_sizes(layer)), type(layer).__name__
    each = entries(layer.padding, axes)
    if axes > 1 and "causal" not in each:
        return  # over images: nothing of it goes on
    span = (kernel_sizes(layer)[0] - 1) * per_axis(layer.dilation, axes)[0] + 1
    causal = lengths(each[0], span, span, 1) == (span - 1, 0)  # as is a window of one place
    if axes > 1 or not causal or per_axis(layer.stride, axes) != (1,):
        raise ValueError(
            f"{owner} keeps a cache if it is causal, over one axis, and has stride 1; got "
            f"kernel_size={layer.kernel_size!r}, padding={layer.padding!r}, "
            f"stride={layer.stride!r}; write padding='causal', or nn.with_cache(net, match=...)"
        )
