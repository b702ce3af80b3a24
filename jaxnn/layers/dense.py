"""Dense: the weighted sum plus a bias."""

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
    """y = x @ w + b.

    x is (..., n) and y (..., features), in the type of x; w is (n, features) and b (features,). He
    initialization by default, for ReLU. Raises ValueError for features < 1 and for an input
    without axes.

    `axis` may be another axis, or several, over which x is summed together; `features` may be a
    tuple: w is (*sizes of the axes, *features), b is features, and y has the other axes of x and
    then those of features.

    Reference: He et al., Delving deep into rectifiers, 2015.

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
        """Check the features, the flag and the axes."""
        if not isinstance(self.features, tuple):
            check_positive(self, "features")
        elif not self.features or not all(_is_int(n) and n >= 1 for n in self.features):
            raise ValueError(
                f"Dense.features is an int >= 1 or a tuple of some, got {self.features!r}"
            )
        check_flags(self, "bias")
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        if not axes or not all(map(_is_int, axes)):
            raise ValueError(f"Dense.axis is an int or a tuple of some, got {self.axis!r}")

    def parameters(self, x: Any) -> dict[str, Param]:
        """w, and b where there is a bias."""
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
        """x @ w + b."""
        return linear(x, params["w"], params["b"] if self.bias else None, self.axis)


def _is_int(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool)


def _sizes(x: Any, axis: int | tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of the axes summed over; ValueError for one that x lacks or that comes twice."""
    axes, ndim = axis if isinstance(axis, tuple) else (axis,), len(x.shape)
    if any(not -ndim <= i < ndim for i in axes) or len({i % ndim for i in axes}) < len(axes):
        raise ValueError(f"sums over axis={axis!r}, each of which {describe(x)} has to have, once")
    return tuple(x.shape[i] for i in axes)
