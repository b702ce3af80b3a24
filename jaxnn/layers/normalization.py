"""Normalization: layer, root mean square, group, instance, local response, and batch."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core.calls import State
from ..core.declarations import Param, Variable
from ..core.layer import Primitive
from ..explain.text import describe
from ..functional import normalization as norm
from ..functional.gradients import gradient_once, spread
from ..functional.linear import along_axis, floating_type, wider_type
from ..functional.segments import check_segments
from ..initializers import InitFn, ones, zeros
from ..validation import Accepts, fraction, integer, natural, number, require
from .checks import (
    axis_or_axes,
    check_multiples,
    check_not_empty,
    check_rank,
    distinct_axes,
    positive_size,
)

_AXIS = integer().such(what="the axis of the features, an int")
_MOMENTUM = fraction.such(
    what="the weight of the old statistics, a number from 0 to 1",
    hint="the number of input features is inferred from the input",
)
window_rank: Accepts = None | natural.such(
    what="the number of axes between examples and features, an int >= 0 (2 for images)"
)


class LayerNorm(Primitive):
    """Layer normalization: `y = (x - mean) / sqrt(var + eps) * scale + b`, over the last axis.

    x and y have shape (..., n). Parameters are scale and b (n,); with several axes they have the
    sizes of these axes, in the order of x. Statistics are computed in at least float32.

    Args:
        scale: Whether to multiply by a learned scale. Default: True.
        bias: Whether to add b. Default: True.
        eps: Added to the variance, a number >= 0. Default: 1e-5.
        axis: Axis or axes to normalize over. Default: -1.
        scale_init: Initializer of scale. Default: `ones()`.
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If x does not have an axis of `axis`.

    Reference: Ba et al., Layer normalization, 2016.

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, LayerNorm().init(jax.random.key(0), jnp.zeros((2, 8))))
    {'b': (8,), 'scale': (8,)}
    """

    scale: bool = True
    bias: bool = True
    eps: Annotated[float, number(0)] = 1e-5
    axis: Annotated[norm.Axes, axis_or_axes] = -1
    scale_init: InitFn = ones()
    b_init: InitFn = zeros()

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare scale and b, as requested."""
        return _scale_and_bias(self, x, self.axis, self.scale, self.bias)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x normalized over `axis`."""
        x = gradient_once(x)
        y = norm.standardize(x, *norm.moments(x, self.axis), self.eps)
        return _scaled(y, params, self.axis).astype(floating_type(x))


class RMSNorm(Primitive):
    """RMS normalization: `y = x / sqrt(mean(x**2) + eps) * scale`, over the last axis.

    x and y have shape (..., n). The parameter is scale (n,). The mean is computed in at least
    float32.

    Args:
        scale: Whether to multiply by a learned scale. Default: True.
        eps: Added to the mean square, a number >= 0. Default: 1e-6.
        axis: Axis or axes to normalize over, as for `LayerNorm`. Default: -1.
        scale_init: Initializer of scale. Default: `ones()`.

    Reference: Zhang and Sennrich, Root mean square layer normalization, 2019.

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, RMSNorm().init(jax.random.key(0), jnp.zeros((2, 8))))
    {'scale': (8,)}
    """

    scale: bool = True
    eps: Annotated[float, number(0)] = 1e-6
    axis: Annotated[norm.Axes, axis_or_axes] = -1
    scale_init: InitFn = ones()

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare scale, if requested."""
        return _scale_and_bias(self, x, self.axis, self.scale, False)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x divided by its root mean square."""
        wide = gradient_once(x).astype(wider_type(x.dtype, jnp.float32))
        y = norm.rms_norm(wide, self.axis, self.eps)
        return _scaled(y, params, self.axis).astype(floating_type(x))


class GroupNorm(Primitive):
    """Group normalization: `y = (x - mean) / sqrt(var + eps) * scale + b`, over window and group.

    x and y have shape `(..., *window, n)`. Parameters are scale and b (n,). The features are split
    into `groups` groups of neighbors. The mean and variance of a group are taken over its features
    and the window, separately for each example, in at least float32.

    Positions that `segment_ids` mark as padding (0) have no effect on the statistics, and each
    packed sequence is normalized by its own statistics. They are integers (..., T) for the leading
    axes of x, and T is the first axis of the window. They are ignored if they end before the
    window, or if x does not have their axes.

    Args:
        groups: Number of groups; must divide n.
        scale: Whether to multiply by a learned scale. Default: True.
        bias: Whether to add b. Default: True.
        eps: Added to the variance, a number >= 0. Default: 1e-5.
        spatial: Number of axes of the window, which precede the last axis: 2 for images
            (..., H, W, n). None means all axes between the first and the last. Default: None.
        scale_init: Initializer of scale. Default: `ones()`.
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If the number of features is not a multiple of `groups`.

    Reference: Wu and He, Group normalization, 2018.

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, GroupNorm(4).init(jax.random.key(0), jnp.zeros((2, 5, 5, 8))))
    {'b': (8,), 'scale': (8,)}
    """

    groups: Annotated[int, positive_size]
    scale: bool = True
    bias: bool = True
    eps: Annotated[float, number(0)] = 1e-5
    spatial: Annotated[int | None, window_rank] = None
    scale_init: InitFn = ones()
    b_init: InitFn = zeros()

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare scale and b, as requested."""
        window_axes(x, self.spatial)
        check_multiples(x, "features", x.shape[-1:], (self.groups,), "change GroupNorm.groups")
        return _scale_and_bias(self, x, -1, self.scale, self.bias)

    def forward(
        self, params: Any, x: jax.Array, *, segment_ids: jax.Array | None = None
    ) -> jax.Array:
        """Return x normalized over the window and each group of features."""
        y = _over_window(x, self.groups, self.spatial, self.eps, segment_ids)
        return _scaled(y, params, -1).astype(floating_type(x))


class InstanceNorm(Primitive):
    """Instance normalization: `y = (x - mean) / sqrt(var + eps) * scale + b`, over the window.

    x and y have shape `(..., *window, n)`. Parameters are scale and b (n,). The mean and variance
    are taken separately for each feature of each example, in at least float32.

    Positions that `segment_ids` mark as padding (0) have no effect on the statistics, and each
    packed sequence is normalized by its own statistics. They are integers (..., T) for the leading
    axes of x, and T is the first axis of the window. They are ignored if they end before the
    window, or if x does not have their axes.

    Args:
        scale: Whether to multiply by a learned scale. Default: True.
        bias: Whether to add b. Default: True.
        eps: Added to the variance, a number >= 0. Default: 1e-5.
        spatial: Number of axes of the window, which precede the last axis. None means all axes
            between the first and the last. Default: None.
        scale_init: Initializer of scale. Default: `ones()`.
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If the input has no window.

    Reference: Ulyanov et al., Instance normalization: the missing ingredient for fast stylization,
    2016.

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, InstanceNorm().init(jax.random.key(0), jnp.zeros((2, 5, 5, 8))))
    {'b': (8,), 'scale': (8,)}
    """

    scale: bool = True
    bias: bool = True
    eps: Annotated[float, number(0)] = 1e-5
    spatial: Annotated[int | None, window_rank] = None
    scale_init: InitFn = ones()
    b_init: InitFn = zeros()

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare scale and b, as requested."""
        if window_axes(x, self.spatial) == 0:
            raise ValueError(
                f"expected a window to normalize each feature over, but {describe(x)} has none; a "
                "number minus its own mean is 0; use nn.LayerNorm() to normalize over features"
            )
        return _scale_and_bias(self, x, -1, self.scale, self.bias)

    def forward(
        self, params: Any, x: jax.Array, *, segment_ids: jax.Array | None = None
    ) -> jax.Array:
        """Return x normalized over the window."""
        y = _over_window(x, x.shape[-1], self.spatial, self.eps, segment_ids)
        return _scaled(y, params, -1).astype(floating_type(x))


class LocalResponseNorm(Primitive):
    """Local response normalization: `y = x / (k + alpha / size * s)**beta`.

    s is the sum of squares over `size` neighboring features, from size // 2 before a feature to
    (size - 1) // 2 after it, in at least float32; features beyond the ends count as 0. x and y have
    shape (..., n). There are no parameters. In the paper, alpha is not divided by size; in this
    form its values are k = 2, size = 5, alpha = 5e-4.

    Args:
        size: Number of neighboring features. Default: 5.
        alpha: Factor of the mean square. Default: 1e-4.
        beta: Exponent. Default: 0.75.
        k: Constant added to the scaled sum. Default: 1.

    Raises:
        ValueError: If `size` is below 1.

    Reference: Krizhevsky et al., ImageNet classification with deep convolutional neural networks,
    2012.

    >>> import jax.numpy as jnp
    >>> LocalResponseNorm(1, alpha=1.0, beta=0.5, k=0.0).apply({}, jnp.array([2.0, -3.0])).tolist()
    [1.0, -1.0]
    """

    size: Annotated[int, positive_size] = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x divided by the response of its neighbors."""
        check_rank(x, 1, "(..., features)")
        return norm.local_response_norm(x, self.size, self.alpha, self.beta, self.k)


class BatchNorm(Primitive):
    """Batch normalization: `y = (x - mean) / sqrt(var + eps) * scale + b`.

    In training, the mean and the biased variance are those of the batch over all axes but `axis`,
    and each running statistic becomes momentum * running + (1 - momentum) * batch. In inference
    they are the running statistics. Parameters are scale and b (n,). The state is `mean` and `var`,
    float32 of shape (n,), which start at 0 and 1.

    Positions that `segment_ids` mark as padding (0) have no effect on the statistics. They are
    integers for the leading axes of x, such as (..., T) for x (..., T, n), and are ignored if x
    does not have these axes, as after pooling.

    On a mesh, the statistics are those of the whole batch, on all devices.

    Args:
        momentum: Weight of the old running statistics, in [0, 1]. Default: 0.9.
        scale: Whether to multiply by a learned scale. Default: True.
        bias: Whether to add b. Default: True.
        eps: Added to the variance, a number >= 0. Default: 1e-5.
        axis: Axis of the features. Default: -1.
        axis_name: Name or names of mapped axes (of `jax.vmap`, `jax.pmap`, or `shard_map`) over
            which the batch statistics are also taken. Default: None.
        scale_init: Initializer of scale. Default: `ones()`.
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If `apply` receives no state, or if a training batch is empty.

    Reference: Ioffe and Szegedy, Batch normalization, 2015.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.ones((4, 8))
    >>> jax.tree.map(jnp.shape, BatchNorm().init_state(x))
    {'mean': (8,), 'var': (8,)}
    """

    momentum: Annotated[float, _MOMENTUM] = 0.9
    scale: bool = True
    bias: bool = True
    eps: Annotated[float, number(0)] = 1e-5
    axis: Annotated[int, _AXIS] = -1
    axis_name: str | tuple[str, ...] | None = None
    scale_init: InitFn = ones()
    b_init: InitFn = zeros()

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare scale and b, as requested."""
        return _scale_and_bias(self, x, self.axis, self.scale, self.bias)

    def variables(self, x: Any) -> dict[str, Variable]:
        """Declare the running mean and variance."""
        n = x.shape[self.axis]
        return {
            "mean": Variable((n,), zeros(), "float32"),
            "var": Variable((n,), ones(), "float32"),
        }

    def forward(
        self,
        params: Any,
        x: jax.Array,
        *,
        segment_ids: jax.Array | None = None,
        state: State,
        train: bool,
    ) -> tuple[jax.Array, State]:
        """Return x normalized, and the new running statistics."""
        real, marks = None, _marks(x, segment_ids, x.ndim)
        if marks is not None:
            ahead = f"an axis behind those of segment_ids {marks.shape}"
            require(self.axis % x.ndim >= marks.ndim, "BatchNorm.axis", ahead, self.axis)
            real = (marks != 0).reshape(marks.shape + (1,) * (x.ndim - marks.ndim))
        if train:
            others = tuple(i for i in range(x.ndim) if i != self.axis % x.ndim)
            check_not_empty(x, others, "a batch of at least one element, to compute statistics")
            x = gradient_once(x)
            mean, var = norm.moments(x, others, self.axis_name, real)
            batch = {"mean": mean.reshape(-1), "var": var.reshape(-1)}
            state = {
                name: _running(old, batch[name].astype(old.dtype), self.momentum)
                for name, old in state.items()
            }
        else:
            mean, var = (along_axis(state[name], x.ndim, self.axis) for name in ("mean", "var"))
        rest = dict(params)
        scale = rest.pop("scale", None)
        scale = None if scale is None else along_axis(scale, x.ndim, self.axis)
        y = norm.standardize(x, mean, var, self.eps, scale)
        return _scaled(y, rest, self.axis).astype(floating_type(x)), state


def _running(old: jax.Array, new: jax.Array, momentum: Any) -> jax.Array:
    momentum = jnp.asarray(momentum, old.dtype)
    mean = momentum * old + (1.0 - momentum) * new
    # 0 * NaN is NaN, so at 0 and 1 the statistic of weight 0 is left out.
    return jnp.where(momentum == 0, new, jnp.where(momentum == 1, old, mean))


def _marks(x: jax.Array, segment_ids: Any, most: int) -> Any:
    """Return segment_ids that mark at most `most` first axes of x; None if x does not have them."""
    if segment_ids is None or len(getattr(segment_ids, "shape", ())) > x.ndim - 1:
        return None
    check_segments(segment_ids, x.shape[: min(segment_ids.ndim, most)])
    return segment_ids


def _over_window(
    x: jax.Array, groups: int, spatial: int | None, eps: float, segment_ids: Any
) -> jax.Array:
    """Return x standardized over the window and each group of features, or each sequence there."""
    axes = window_axes(x, spatial)
    marks = _marks(x, segment_ids, x.ndim - axes)
    if marks is None or marks.ndim < x.ndim - axes or axes == 0:
        return norm.group_norm(x, groups, axes, eps)
    return norm.segment_group_norm(x, groups, marks, eps)


def window_axes(x: Any, spatial: int | None) -> int:
    """Return the number of window axes of x; raise ValueError if x has too few axes."""
    if spatial is None:
        check_rank(x, 2, "(examples, ..., features)")
        return len(x.shape) - 2
    check_rank(x, spatial + 1, f"(..., {spatial} window axes, features)")
    return spatial


def _scale_and_bias(
    layer: Any, x: Any, axis: norm.Axes, scale: bool, bias: bool
) -> dict[str, Param]:
    axes = distinct_axes(x, axis)
    shape = tuple(x.shape[i] for i in sorted(axes))
    declared = {"scale": Param(shape, layer.scale_init)} if scale else {}
    return declared | {"b": Param(shape, layer.b_init)} if bias else declared


def _scaled(y: jax.Array, params: Any, axis: norm.Axes) -> jax.Array:
    """Return y * scale + b along `axis`, with the parameters that exist, in the type of y."""
    axes = tuple(sorted(one % y.ndim for one in (axis if isinstance(axis, tuple) else (axis,))))
    if "scale" in params:
        y = y * spread(params["scale"].astype(y.dtype), y, axes)
    if "b" in params:
        y = y + spread(params["b"].astype(y.dtype), y, axes)
    return y
