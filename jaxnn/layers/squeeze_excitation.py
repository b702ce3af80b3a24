"""SqueezeExcitation: weight features by a function of their means."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core.declarations import Param
from ..core.layer import Primitive
from ..functional.linear import floating_type, linear, wider_type
from ..initializers import InitFn, he_normal, zeros
from .checks import plain_function, positive_size
from .normalization import window_axes, window_rank


class SqueezeExcitation(Primitive):
    """Squeeze and excitation: `y = x * sigmoid(activation(mean(x) @ reduce + b) @ expand + b)`.

    x and y have shape `(..., *window, n)`. The mean is taken over the window, in at least float32.
    Parameters are reduce/w (n, m) and expand/w (m, n), with m = max(1, n // reduction), and
    reduce/b (m,) and expand/b (n,).

    Args:
        reduction: Factor by which the hidden features are fewer than the channels. Default: 16.
        activation: Activation of the hidden features. Default: `jax.nn.relu`.
        spatial: Number of axes of the window, which precede the last axis. None means all axes
            between the first and the last. Default: None.
        w_init: Initializer of both weights. Default: `he_normal()`.
        b_init: Initializer of both biases. Default: `zeros()`.

    Raises:
        ValueError: If `reduction` is below 1.

    Reference: Hu et al., Squeeze-and-excitation networks, 2018.

    >>> import jax, jax.numpy as jnp
    >>> net, x = SqueezeExcitation(4), jnp.zeros((2, 5, 5, 8))
    >>> jax.tree.map(jnp.shape, net.init(jax.random.key(0), x))
    {'expand': {'b': (8,), 'w': (2, 8)}, 'reduce': {'b': (2,), 'w': (8, 2)}}
    """

    reduction: Annotated[int, positive_size] = 16
    activation: Annotated[Callable[[jax.Array], jax.Array], plain_function] = jax.nn.relu
    spatial: Annotated[int | None, window_rank] = None
    w_init: InitFn = he_normal()
    b_init: InitFn = zeros()

    def parameters(self, x: Any) -> dict[str, dict[str, Param]]:
        """Declare two weights and their biases."""
        window_axes(x, self.spatial)
        n = x.shape[-1]
        m = max(1, n // self.reduction)
        return {
            name: {"w": Param(shape, self.w_init), "b": Param(shape[1:], self.b_init)}
            for name, shape in {"reduce": (n, m), "expand": (m, n)}.items()
        }

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x with each feature weighted."""
        axes = tuple(range(x.ndim - 1 - window_axes(x, self.spatial), x.ndim - 1))
        x = x.astype(floating_type(x))
        wide = wider_type(x.dtype, jnp.float32)
        squeezed = jnp.mean(x, axes, dtype=wide, keepdims=True).astype(x.dtype)
        hidden = self.activation(linear(squeezed, params["reduce"]["w"], params["reduce"]["b"]))
        weights = linear(hidden, params["expand"]["w"], params["expand"]["b"])
        return x * jnp.broadcast_to(jax.nn.sigmoid(weights), x.shape)
