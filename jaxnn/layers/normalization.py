"""Normalization layers: layer, root mean square, group, instance, local response, batch."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ..core.calls import State
from ..core.declarations import Param, Variable
from ..core.layer import Layer, Primitive
from ..explain.text import describe
from ..fields import is_traced
from ..functional import normalization as norm
from ..functional.gradients import gradient_once
from ..functional.linear import along_axis, floating_type, wider_type
from ..initializers import InitFn, ones, zeros
from .checks import check_flags, check_positive, check_rank


class LayerNorm(Primitive):
    """y = (x - mean) / sqrt(var + eps) * scale + b, with mean and var over the last axis.

    x and y are (..., n), scale and b (n,). `axis` may be any axis or several, `(-2, -1)`; scale and
    b then have their sizes, in the order of x. Statistics are taken in at least float32. Raises
    ValueError for an axis that x does not have.

    Reference: Ba et al., Layer normalization, 2016.

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, LayerNorm().init(jax.random.key(0), jnp.zeros((2, 8))))
    {'b': (8,), 'scale': (8,)}
    """

    scale: bool = True
    bias: bool = True
    eps: float = 1e-5
    axis: norm.Axes = -1
    scale_init: InitFn = ones()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check the fields."""
        check_flags(self, "scale", "bias")
        _check_eps(self, self.eps)
        _check_axes(self, self.axis)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Scale and bias, where wanted."""
        return _scale_and_bias(self, x, self.axis, self.scale, self.bias)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """x normalized over its axis or axes."""
        x = gradient_once(x)
        y = norm.standardize(x, *norm.moments(x, self.axis), self.eps)
        return _scaled(y, params, self.axis).astype(floating_type(x))


class RMSNorm(Primitive):
    """y = x / sqrt(mean(x**2) + eps) * scale, with the mean over the last axis.

    x and y are (..., n), scale is (n,). `axis` may be any axis or several, as in LayerNorm. The
    mean is taken in at least float32.

    Reference: Zhang and Sennrich, Root mean square layer normalization, 2019.

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, RMSNorm().init(jax.random.key(0), jnp.zeros((2, 8))))
    {'scale': (8,)}
    """

    scale: bool = True
    eps: float = 1e-6
    axis: norm.Axes = -1
    scale_init: InitFn = ones()

    def __post_init__(self) -> None:
        """Check the fields."""
        check_flags(self, "scale")
        _check_eps(self, self.eps)
        _check_axes(self, self.axis)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Scale, where wanted."""
        return _scale_and_bias(self, x, self.axis, self.scale, False)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """x divided by its root mean square."""
        wide = gradient_once(x).astype(wider_type(x.dtype, jnp.float32))
        y = norm.rms_norm(wide, self.axis, self.eps)
        return _scaled(y, params, self.axis).astype(floating_type(x))


class GroupNorm(Primitive):
    """y = (x - mean) / sqrt(var + eps) * scale + b, with mean and var over window and group.

    x and y are (..., *window, n), scale and b (n,). The n features fall into `groups` runs of
    neighbors, each with statistics of its own over its features and all of the window: all axes
    between the first, which holds the examples, and the last. Where there are more axes of
    examples, or none, `spatial` is the number of the window's axes: 2 for images (..., H, W, n).
    Statistics are taken in at least float32. Raises ValueError where the groups do not divide n.

    Reference: Wu and He, Group normalization, 2018.

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, GroupNorm(4).init(jax.random.key(0), jnp.zeros((2, 5, 5, 8))))
    {'b': (8,), 'scale': (8,)}
    """

    groups: int
    scale: bool = True
    bias: bool = True
    eps: float = 1e-5
    spatial: int | None = None
    scale_init: InitFn = ones()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check the fields."""
        check_positive(self, "groups")
        check_flags(self, "scale", "bias")
        _check_eps(self, self.eps)
        check_spatial(self, self.spatial)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Scale and bias, where wanted."""
        window_axes(self, x, self.spatial)
        if x.shape[-1] % self.groups:
            raise ValueError(
                f"{self.groups} groups do not divide the {x.shape[-1]} features of {describe(x)}; "
                "groups is a divisor of the last axis"
            )
        return _scale_and_bias(self, x, -1, self.scale, self.bias)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """x normalized over the window and each group of features."""
        y = norm.group_norm(x, self.groups, window_axes(self, x, self.spatial), self.eps)
        return _scaled(y, params, -1).astype(floating_type(x))


class InstanceNorm(Primitive):
    """y = (x - mean) / sqrt(var + eps) * scale + b, with mean and var over the window alone.

    x and y are (..., *window, n), scale and b (n,); each feature of each example has statistics of
    its own. The window is all axes between the first and the last, or the `spatial` axes before
    the last, as in GroupNorm; an input without one raises ValueError. Statistics are taken in at
    least float32.

    Reference: Ulyanov et al., Instance normalization: the missing ingredient for fast stylization,
    2016.

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, InstanceNorm().init(jax.random.key(0), jnp.zeros((2, 5, 5, 8))))
    {'b': (8,), 'scale': (8,)}
    """

    scale: bool = True
    bias: bool = True
    eps: float = 1e-5
    spatial: int | None = None
    scale_init: InitFn = ones()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check the fields."""
        check_flags(self, "scale", "bias")
        _check_eps(self, self.eps)
        check_spatial(self, self.spatial)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Scale and bias, where wanted."""
        if window_axes(self, x, self.spatial) == 0:
            raise ValueError(
                f"normalizes each feature over a window, which {describe(x)} does not have: one "
                "number less its own mean is 0; write nn.LayerNorm(), which normalizes features"
            )
        return _scale_and_bias(self, x, -1, self.scale, self.bias)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """x normalized over the window."""
        y = norm.group_norm(x, x.shape[-1], window_axes(self, x, self.spatial), self.eps)
        return _scaled(y, params, -1).astype(floating_type(x))


class LocalResponseNorm(Primitive):
    """y = x / (k + alpha / size * s)**beta, with s the sum of squares over neighboring features.

    x and y are (..., n). The `size` neighbors of a feature reach from size // 2 before it to
    (size - 1) // 2 after it; beyond the ends they are 0. There are no parameters. s is taken in at
    least float32. Raises ValueError for size < 1. (In the paper alpha is not divided by size, and
    k = 2, size = 5, alpha = 5e-4 in this form.)

    Reference: Krizhevsky et al., ImageNet classification with deep convolutional neural networks,
    2012.

    >>> import jax.numpy as jnp
    >>> LocalResponseNorm(1, alpha=1.0, beta=0.5, k=0.0).apply({}, jnp.array([2.0, -3.0])).tolist()
    [1.0, -1.0]
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def __post_init__(self) -> None:
        """Check the size."""
        check_positive(self, "size")

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """x divided by the response around each feature."""
        check_rank(self, x, 1, "(..., features)")
        return norm.local_response_norm(x, self.size, self.alpha, self.beta, self.k)


class BatchNorm(Primitive):
    """y = (x - mean) / sqrt(var + eps) * scale + b, with mean and var over all axes but `axis`.

    In training the statistics are the batch's (var divided by n), and the running ones become
    momentum * running + (1 - momentum) * batch; in inference they are the running ones, which are
    state: `mean` and `var`, float32 of shape (n,), starting at 0 and 1. scale and b are (n,). With
    `axis_name`, the name of a mapped axis (of `jax.vmap`, `jax.pmap`, `shard_map`), the batch is
    the one over all its lanes. Raises ValueError without state.

    Reference: Ioffe and Szegedy, Batch normalization, 2015.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.ones((4, 8))
    >>> jax.tree.map(jnp.shape, BatchNorm().init_state(x))
    {'mean': (8,), 'var': (8,)}
    """

    momentum: float = 0.9
    scale: bool = True
    bias: bool = True
    eps: float = 1e-5
    axis: int = -1
    axis_name: str | tuple[str, ...] | None = None
    scale_init: InitFn = ones()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check the fields."""
        check_flags(self, "scale", "bias")
        _check_eps(self, self.eps)
        if not isinstance(self.axis, int) or isinstance(self.axis, bool):
            raise ValueError(
                f"BatchNorm.axis is the axis of the features, an int; got {self.axis!r}"
            )
        number = isinstance(self.momentum, int | float) and not isinstance(self.momentum, bool)
        if not is_traced(self.momentum) and not (number and 0.0 <= self.momentum <= 1.0):
            raise ValueError(
                "BatchNorm.momentum is the share of the running statistics that stays, in [0, 1]; "
                f"got {self.momentum!r}"
            )

    def parameters(self, x: Any) -> dict[str, Param]:
        """Scale and bias, where wanted."""
        return _scale_and_bias(self, x, self.axis, self.scale, self.bias)

    def variables(self, x: Any) -> dict[str, Variable]:
        """The running mean and variance."""
        n = x.shape[self.axis]
        return {
            "mean": Variable((n,), zeros(), "float32"),
            "var": Variable((n,), ones(), "float32"),
        }

    def forward(
        self, params: Any, x: jax.Array, *, state: State, train: bool
    ) -> tuple[jax.Array, State]:
        """x normalized, and the running statistics after it."""
        if train:
            others = tuple(i for i in range(x.ndim) if i != self.axis % x.ndim)
            if math.prod(x.shape[i] for i in others) == 0:
                raise ValueError(f"cannot take the statistics of an empty batch, {describe(x)}")
            x = gradient_once(x)
            mean, var = norm.moments(x, others, self.axis_name)
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
    # 0 * NaN is NaN: at 0 and 1 the other statistics have no part.
    return jnp.where(momentum == 0, new, jnp.where(momentum == 1, old, mean))


def _check_eps(layer: Layer, eps: Any) -> None:
    number = isinstance(eps, int | float) and not isinstance(eps, bool)
    if not is_traced(eps) and not (number and eps >= 0.0):
        raise ValueError(f"{type(layer).__name__}.eps is a number >= 0, got {eps!r}")


def check_spatial(layer: Layer, spatial: Any) -> None:
    """Raise ValueError where a number of window axes is neither None nor an int of at least 0."""
    whole = isinstance(spatial, int) and not isinstance(spatial, bool) and spatial >= 0
    if spatial is not None and not whole:
        raise ValueError(
            f"{type(layer).__name__}.spatial is the number of axes between examples and features, "
            f"an int >= 0, 2 for images; got {spatial!r}"
        )


def window_axes(layer: Layer, x: Any, spatial: int | None) -> int:
    """The number of axes of the window of x (..., *window, features); ValueError for too few."""
    if spatial is None:
        check_rank(layer, x, 2, "(examples, ..., features)")
        return len(x.shape) - 2
    check_rank(layer, x, spatial + 1, f"(..., {spatial} axes of the window, features)")
    return spatial


def _check_axes(layer: Layer, axis: Any) -> None:
    axes = axis if isinstance(axis, tuple) else (axis,)
    if not axes or any(not isinstance(one, int) or isinstance(one, bool) for one in axes):
        raise ValueError(
            f"{type(layer).__name__}.axis is the axis to normalize, or several: -1 or (-2, -1), "
            f"say; got {axis!r}"
        )


def _scale_and_bias(
    layer: Any, x: Any, axis: norm.Axes, scale: bool, bias: bool
) -> dict[str, Param]:
    if not hasattr(x, "shape"):
        raise TypeError(f"wants an array, got {x!r}; write jnp.asarray(x)")
    axes, ndim = axis if isinstance(axis, tuple) else (axis,), len(x.shape)
    for one in axes:
        if not -ndim <= one < ndim:
            raise ValueError(f"normalizes axis {one}, which {describe(x)} does not have")
    if len({one % ndim for one in axes}) < len(axes):
        raise ValueError(f"normalizes the axes {axes}, two of which are one in {describe(x)}")
    shape = tuple(x.shape[i] for i in sorted(one % ndim for one in axes))
    declared = {"scale": Param(shape, layer.scale_init)} if scale else {}
    return declared | {"b": Param(shape, layer.b_init)} if bias else declared


def _scaled(y: jax.Array, params: Any, axis: norm.Axes) -> jax.Array:
    """y * scale + b along the axis or axes, as far as there are parameters, in the type of y."""
    axes = {one % y.ndim for one in (axis if isinstance(axis, tuple) else (axis,))}
    shape = [n if i in axes else 1 for i, n in enumerate(y.shape)]
    if "scale" in params:
        y = y * params["scale"].astype(y.dtype).reshape(shape)
    if "b" in params:
        y = y + params["b"].astype(y.dtype).reshape(shape)
    return y
