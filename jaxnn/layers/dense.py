"""Dense: an affine map of the features."""

from typing import Any

import jax

from ..core.declarations import Param
from ..core.layer import Primitive
from ..explain.text import describe
from ..functional.linear import linear
from ..initializers import InitFn, he_normal, zeros
from .checks import check_flags, check_positive, check_rank
from .fans import by_axes


class Dense(Primitive):
    """Affine map: `y = x @ w + b`.

    x has shape (..., n) and y (..., features), in the type of x. Parameters are w (n, features) and
    b (features,). With several axes or a tuple of features, w has shape
    `(*sizes of the axes, *features)` and b `features`; y has the other axes of x followed by
    `features`.

    Args:
        features: Number of output features, or a tuple of several sizes.
        bias: Whether to add b. Default: True.
        axis: Axis of x, or a tuple of axes, to sum over. Default: -1.
        w_init: Initializer of w. Default: `he_normal()`, for ReLU.
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If `features` is below 1, or if the input lacks an axis of `axis`.

    Reference: He et al., Delving deep into rectifiers, 2015 (initialization).

    >>> import jax, jax.numpy as jnp
    >>> params = Dense(128).init(jax.random.key(0), jnp.zeros((32, 784)))
    >>> jax.tree.map(jnp.shape, params)
    {'b': (128,), 'w': (784, 128)}
    >>> heads = Dense((8, 16)).init(jax.random.key(0), jnp.zeros((32, 784)))
    >>> jax.tree.map(jnp.shape, heads)
    {'b': (8, 16), 'w': (784, 8, 16)}
    >>> joined = Dense(784, axis=(-2, -1)).init(jax.random.key(0), jnp.zeros((32, 8, 16)))
    >>> jax.tree.map(jnp.shape, joined)
    {'b': (784,), 'w': (8, 16, 784)}
    """

    features: int | tuple[int, ...]
    bias: bool = True
    axis: int | tuple[int, ...] = -1
    w_init: InitFn = he_normal()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check the fields."""
        if not isinstance(self.features, tuple):
            check_positive(self, "features")
        elif not self.features or not all(_is_int(n) and n >= 1 for n in self.features):
            raise ValueError(
                f"Dense.features must be an int >= 1 or a tuple of them, got {self.features!r}"
            )
        check_flags(self, "bias")
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        if not axes or not all(map(_is_int, axes)):
            raise ValueError(f"Dense.axis must be an int or a tuple of ints, got {self.axis!r}")

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare w, and b if there is a bias."""
        check_rank(self, x, 1, "(..., inputs)")
        sizes, features, w_init = x.shape[-1:], self.features, self.w_init
        if self.axis != -1:
            sizes = _sizes(x, self.axis)
        if not isinstance(features, tuple):
            features = (features,)
        if len(sizes) + len(features) > 2:
            inputs = tuple(range(len(sizes)))
            outputs = tuple(range(len(sizes), len(sizes) + len(features)))
            w_init = by_axes(w_init, inputs, outputs)
        shapes = {"w": Param((*sizes, *features), w_init)}
        return shapes | {"b": Param(features, self.b_init)} if self.bias else shapes

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x @ w + b."""
        return linear(x, params["w"], params["b"] if self.bias else None, self.axis)


def _is_int(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool)


def _sizes(x: Any, axis: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes of the summed axes; raise ValueError if x lacks one or one is repeated."""
    axes, ndim = axis if isinstance(axis, tuple) else (axis,), len(x.shape)
    if any(not -ndim <= i < ndim for i in axes) or len({i % ndim for i in axes}) < len(axes):
        raise ValueError(f"axis={axis!r} must name distinct axes of {describe(x)}")
    return tuple(x.shape[i] for i in axes)
