"""Normalization: layer, root mean square, unit, group, instance, and local response."""

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
from ..validation import Accepts, above, fraction, natural, number
from . import (
    axis_or_axes,
    check_multiples,
    check_not_empty,
    check_rank,
    distinct_axes,
    positive_size,
)

momentum_of: Accepts = fraction.such(
    what="the weight of the old statistics, a number from 0 to 1",
    hint="the number of input features is inferred from the input",
)
_STATISTICS = (("mean", zeros()), ("var", ones()))
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
        return scale_and_bias(self, x, self.axis, self.scale, self.bias)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x normalized over `axis`."""
        x = gradient_once(x)
        y = norm.standardize(x, *norm.moments(x, self.axis), self.eps)
        return scaled(y, params, self.axis).astype(floating_type(x))


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
        return scale_and_bias(self, x, self.axis, self.scale, False)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x divided by its root mean square."""
        wide = gradient_once(x).astype(wider_type(x.dtype, jnp.float32))
        y = norm.rms_norm(wide, self.axis, self.eps)
        return scaled(y, params, self.axis).astype(floating_type(x))


class UnitNorm(Primitive):
    """Unit normalization: `y = x / max(|x|, eps)`, with the Euclidean norm over `axis`.

    x and y have any shape. There are no parameters. The norm is computed in at least float32.

    Args:
        axis: Axis or axes of the norm. Default: -1.
        eps: Lower bound of the norm, a number > 0; x = 0 gives 0. Default: 1e-12.

    Raises:
        ValueError: If x does not have an axis of `axis`.

    Reference: Wang et al., NormFace: L2 hypersphere embedding for face verification, 2017.

    >>> import jax.numpy as jnp
    >>> UnitNorm().apply({}, jnp.array([[3.0, 4.0], [0.0, 0.0]])).round(3).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """

    axis: Annotated[norm.Axes, axis_or_axes] = -1
    eps: Annotated[float, above(0)] = 1e-12

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x divided by its norm."""
        distinct_axes(x, self.axis)
        return norm.unit_norm(gradient_once(x), self.axis, self.eps)


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
        return scale_and_bias(self, x, -1, self.scale, self.bias)

    def forward(
        self, params: Any, x: jax.Array, *, segment_ids: jax.Array | None = None
    ) -> jax.Array:
        """Return x normalized over the window and each group of features."""
        y, *_ = _over_window(x, self.groups, self.spatial, self.eps, segment_ids)
        return scaled(y, params, -1).astype(floating_type(x))


class InstanceNorm(Primitive):
    """Instance normalization: `y = (x - mean) / sqrt(var + eps) * scale + b`, over the window.

    x and y have shape `(..., *window, n)`. Parameters are scale and b (n,). The mean and variance
    are taken separately for each feature of each example, in at least float32.

    With `track_running_stats`, training also updates running statistics, which inference uses
    instead: each becomes momentum * running + (1 - momentum) * (the mean over the examples). The
    state is that of `BatchNorm`.

    Positions that `segment_ids` mark as padding (0) have no effect on the statistics, and each
    packed sequence is normalized by its own statistics. They are integers (..., T) for the leading
    axes of x, and T is the first axis of the window. They are ignored if they end before the
    window, or if x does not have their axes. In running statistics, a sequence counts by its
    length.

    Args:
        scale: Whether to multiply by a learned scale. Default: True.
        bias: Whether to add b. Default: True.
        eps: Added to the variance, a number >= 0. Default: 1e-5.
        spatial: Number of axes of the window, which precede the last axis. None means all axes
            between the first and the last. Default: None.
        track_running_stats: Whether inference uses running statistics. Default: False.
        momentum: Weight of the old running statistics, as for `BatchNorm`. Default: 0.9.
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
    track_running_stats: bool = False
    momentum: Annotated[float | None, None | momentum_of] = 0.9
    scale_init: InitFn = ones()
    b_init: InitFn = zeros()

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare scale and b, as requested."""
        if window_axes(x, self.spatial) == 0:
            raise ValueError(
                f"expected a window to normalize each feature over, but {describe(x)} has none; a "
                "number minus its own mean is 0; use nn.LayerNorm() to normalize over features"
            )
        return scale_and_bias(self, x, -1, self.scale, self.bias)

    def variables(self, x: Any) -> dict[str, Variable]:
        """Declare the running statistics, if they are tracked."""
        if not self.track_running_stats:
            return {}
        return running_statistics(x.shape[-1], self.momentum)

    def forward(
        self,
        params: Any,
        x: jax.Array,
        *,
        segment_ids: jax.Array | None = None,
        state: State,
        train: bool,
    ) -> tuple[jax.Array, State]:
        """Return x normalized over the window, and the new running statistics."""
        if self.track_running_stats and not train:
            mean, var = (along_axis(state[name], x.ndim, -1) for name in ("mean", "var"))
            y = norm.standardize(x, mean, var, self.eps)
        else:
            y, mean, var, count = _over_window(x, x.shape[-1], self.spatial, self.eps, segment_ids)
            if self.track_running_stats:
                check_not_empty(x, range(x.ndim - 1), "a batch of at least one element")
                count = jnp.maximum(jnp.asarray(count, mean.dtype), 1)
                batch = {"mean": jnp.sum(mean, 0) / count, "var": jnp.sum(var, 0) / count}
                state = norm.running(state, batch, self.momentum)
        return scaled(y, params, -1).astype(floating_type(x)), state or {}


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


def running_statistics(n: int, momentum: Any) -> dict[str, Variable]:
    """Declare running statistics of n features; a momentum of None needs the number of batches."""
    kept = {name: Variable((n,), init, "float32") for name, init in _STATISTICS}
    return kept | {"count": Variable((), zeros(), "int32")} if momentum is None else kept


def padding_marks(x: jax.Array, segment_ids: Any, most: int) -> Any:
    """Return segment_ids that mark at most `most` first axes of x; None if x does not have them."""
    if segment_ids is None or len(getattr(segment_ids, "shape", ())) > x.ndim - 1:
        return None
    check_segments(segment_ids, x.shape[: min(segment_ids.ndim, most)])
    return segment_ids


def _over_window(
    x: jax.Array, groups: int, spatial: int | None, eps: float, segment_ids: Any
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """Return x standardized over the window and each group of features, or each sequence there,
    with the means, variances, and their number, as `functional.normalization.group_norm` does."""
    axes = window_axes(x, spatial)
    marks = padding_marks(x, segment_ids, x.ndim - axes)
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


def scale_and_bias(
    layer: Any, x: Any, axis: norm.Axes, scale: bool, bias: bool
) -> dict[str, Param]:
    """Declare scale and b of the sizes of some axes, as requested."""
    axes = distinct_axes(x, axis)
    shape = tuple(x.shape[i] for i in sorted(axes))
    declared = {"scale": Param(shape, layer.scale_init)} if scale else {}
    return declared | {"b": Param(shape, layer.b_init)} if bias else declared


def scaled(y: jax.Array, params: Any, axis: norm.Axes) -> jax.Array:
    """Return y * scale + b along `axis`, with the parameters that exist, in the type of y."""
    axes = tuple(sorted(one % y.ndim for one in (axis if isinstance(axis, tuple) else (axis,))))
    if "scale" in params:
        y = y * spread(params["scale"].astype(y.dtype), y, axes)
    if "b" in params:
        y = y + spread(params["b"].astype(y.dtype), y, axes)
    return y
