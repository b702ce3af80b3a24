"""Layers that multiply features by gates: GatedFeedForward and SqueezeExcitation."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core.declarations import Param
from ..core.layer import Primitive
from ..functional.linear import floating_type, linear, wider_type
from ..initializers import InitFn, he_normal, lecun_normal, zeros
from .checks import check_rank, plain_function, positive_size
from .normalization import window_axes, window_rank


class GatedFeedForward(Primitive):
    """Gated feed-forward block: `y = (activation(x @ gate) * (x @ up)) @ down`.

    x and y have shape (..., n). Parameters are gate/w and up/w (n, hidden), down/w (hidden, n), and
    for each one a bias b if `bias` is True.

    Args:
        hidden: Number of hidden features.
        activation: Activation of the gate: `jax.nn.silu` for SwiGLU, `jax.nn.gelu` for GeGLU,
            `jax.nn.sigmoid` for GLU. Default: `jax.nn.silu`.
        bias: Whether to add biases. Default: False.
        w_init: Initializer of the weights. Default: `lecun_normal()`.
        b_init: Initializer of the biases. Default: `zeros()`.
        down_init: Initializer of down/w. Default: `w_init`.

    Raises:
        ValueError: If `hidden` is below 1, or if the input has no axes.

    Reference: Shazeer, GLU variants improve transformer, 2020.

    >>> import jax, jax.numpy as jnp
    >>> params = GatedFeedForward(12).init(jax.random.key(0), jnp.zeros((2, 4)))
    >>> jax.tree.map(jnp.shape, params)
    {'down': {'w': (12, 4)}, 'gate': {'w': (4, 12)}, 'up': {'w': (4, 12)}}
    """

    hidden: Annotated[int, positive_size]
    activation: Annotated[Callable[[jax.Array], jax.Array], plain_function] = jax.nn.silu
    bias: bool = False
    w_init: InitFn = lecun_normal()
    b_init: InitFn = zeros()
    down_init: InitFn | None = None

    def parameters(self, x: Any) -> dict[str, dict[str, Param]]:
        """Declare three weights, and biases if `bias` is True."""
        check_rank(x, 1, "(..., features)")
        n = x.shape[-1]
        sizes = {"gate": (n, self.hidden), "up": (n, self.hidden), "down": (self.hidden, n)}
        inits = {"down": self.down_init or self.w_init}
        return {
            name: {"w": Param(shape, inits.get(name, self.w_init))}
            | ({"b": Param(shape[1:], self.b_init)} if self.bias else {})
            for name, shape in sizes.items()
        }

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the gated hidden features, mapped to the input's features."""

        def mapped(name: str, x: jax.Array) -> jax.Array:
            return linear(x, params[name]["w"], params[name].get("b"))

        return mapped("down", self.activation(mapped("gate", x)) * mapped("up", x))


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
