"""Dense: an affine map of the features."""

from typing import Annotated, Any

import jax

from ..core.declarations import Param
from ..core.layer import Primitive
from ..functional.linear import linear
from ..initializers import InitFn, he_normal, zeros
from ..validation import each, positive
from .checks import axis_or_axes, check_rank, distinct_axes
from .fans import by_axes

_FEATURES = each(positive, "an int >= 1 or a tuple of them").such(
    hint="write for example Dense(features=128)"
)


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

    features: Annotated[int | tuple[int, ...], _FEATURES]
    bias: bool = True
    axis: Annotated[int | tuple[int, ...], axis_or_axes] = -1
    w_init: InitFn = he_normal()
    b_init: InitFn = zeros()

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare w, and b if there is a bias."""
        check_rank(x, 1, "(..., inputs)")
        features, w_init = self.features, self.w_init
        sizes = tuple(x.shape[i] for i in distinct_axes(x, self.axis))
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
