"""GatedFeedForward: a transformer's feed-forward block with a multiplicative gate."""

from collections.abc import Callable
from typing import Annotated, Any

import jax

from ..core.declarations import Param
from ..core.layer import Primitive
from ..functional.linear import linear
from ..initializers import InitFn, lecun_normal, zeros
from .checks import check_rank, plain_function, positive_size


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
