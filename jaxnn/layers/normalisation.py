"""Normalisation layers: layer, root mean square, batch."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ..core.calls import State
from ..core.declarations import Param, Slot, describe
from ..core.initialisers import Initialiser, ones, zeros
from ..core.layer import Layer
from ..core.primitive import Primitive
from ..core.values import is_traced
from ..functional import normalisation as norm
from ..functional.linear import along_axis, floating_type, wider_type
from .checks import check_flags


class LayerNorm(Primitive):
    """y = (x - mean) / sqrt(var + eps) * scale + b, with mean and var over the last axis.

    x and y are (..., n), scale and b (n,). Statistics are taken in at least float32.

    Reference: Ba et al., Layer normalization, 2016.

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, LayerNorm().init(jax.random.key(0), jnp.zeros((2, 8))))
    {'b': (8,), 'scale': (8,)}
    """

    scale: bool = True
    bias: bool = True
    eps: float = 1e-5
    scale_init: Initialiser = ones()
    b_init: Initialiser = zeros()

    def __post_init__(self) -> None:
        """Check the fields."""
        check_flags(self, "scale", "bias")
        _check_eps(self, self.eps)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Scale and bias, where wanted."""
        return _scale_and_bias(self, x, -1, self.scale, self.bias)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """x normalised over its last axis."""
        y = norm.standardise(x, *norm.moments(x, -1), self.eps)
        return _scaled(y, params, -1).astype(floating_type(x))


class RMSNorm(Primitive):
    """y = x / sqrt(mean(x**2) + eps) * scale, with the mean over the last axis.

    x and y are (..., n), scale is (n,). The mean is taken in at least float32.

    Reference: Zhang and Sennrich, Root mean square layer normalization, 2019.

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, RMSNorm().init(jax.random.key(0), jnp.zeros((2, 8))))
    {'scale': (8,)}
    """

    scale: bool = True
    eps: float = 1e-6
    scale_init: Initialiser = ones()

    def __post_init__(self) -> None:
        """Check the fields."""
        check_flags(self, "scale")
        _check_eps(self, self.eps)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Scale, where wanted."""
        return _scale_and_bias(self, x, -1, self.scale, False)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """x divided by its root mean square."""
        wide = x.astype(wider_type(x.dtype, jnp.float32))
        return _scaled(norm.rms_norm(wide, -1, self.eps), params, -1).astype(floating_type(x))


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
    scale_init: Initialiser = ones()
    b_init: Initialiser = zeros()

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

    def variables(self, x: Any) -> dict[str, Slot]:
        """The running mean and variance."""
        n = x.shape[self.axis]
        return {"mean": Slot((n,), zeros(), "float32"), "var": Slot((n,), ones(), "float32")}

    def forward(
        self, params: Any, x: jax.Array, *, state: State, train: bool
    ) -> tuple[jax.Array, State]:
        """x normalised, and the running statistics after it."""
        if train:
            others = tuple(i for i in range(x.ndim) if i != self.axis % x.ndim)
            if math.prod(x.shape[i] for i in others) == 0:
                raise ValueError(f"cannot take the statistics of an empty batch, {describe(x)}")
            mean, var = norm.moments(x, others, self.axis_name)
            batch = {"mean": mean.reshape(-1), "var": var.reshape(-1)}
            state = {
                name: _running(old, batch[name].astype(old.dtype), self.momentum)
                for name, old in state.items()
            }
        else:
            mean, var = (along_axis(state[name], x.ndim, self.axis) for name in ("mean", "var"))
        y = norm.standardise(x, mean, var, self.eps)
        return _scaled(y, params, self.axis).astype(floating_type(x)), state


def _running(old: jax.Array, new: jax.Array, momentum: Any) -> jax.Array:
    momentum = jnp.asarray(momentum, old.dtype)
    return momentum * old + (1.0 - momentum) * new


def _check_eps(layer: Layer, eps: Any) -> None:
    number = isinstance(eps, int | float) and not isinstance(eps, bool)
    if not is_traced(eps) and not (number and eps >= 0.0):
        raise ValueError(f"{type(layer).__name__}.eps is a number >= 0, got {eps!r}")


def _scale_and_bias(layer: Any, x: Any, axis: int, scale: bool, bias: bool) -> dict[str, Param]:
    if not hasattr(x, "shape"):
        raise TypeError(f"wants an array, got {x!r}; write jnp.asarray(x)")
    if not -len(x.shape) <= axis < len(x.shape):
        raise ValueError(f"normalises axis {axis}, which {describe(x)} does not have")
    n = x.shape[axis]
    declared = {"scale": Param((n,), layer.scale_init)} if scale else {}
    return declared | {"b": Param((n,), layer.b_init)} if bias else declared


def _scaled(y: jax.Array, params: Any, axis: int) -> jax.Array:
    """y * scale + b along `axis`, as far as there are parameters, in the type of y."""
    if "scale" in params:
        y = y * along_axis(params["scale"].astype(y.dtype), y.ndim, axis)
    if "b" in params:
        y = y + along_axis(params["b"].astype(y.dtype), y.ndim, axis)
    return y
