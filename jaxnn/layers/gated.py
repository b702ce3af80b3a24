"""GatedFeedForward: a transformer's feed-forward block with a multiplicative gate."""

from collections.abc import Callable
from typing import Any

import jax

from ..core.declarations import Param
from ..core.layer import Primitive
from ..functional.linear import linear
from ..initializers import InitFn, lecun_normal, zeros
from .checks import check_activation, check_flags, check_positive, check_rank


class GatedFeedForward(Primitive):
    """y = (activation(x @ gate) * (x @ up)) @ down.

    x and y are (..., n); gate/w and up/w are (n, hidden), down/w is (hidden, n), each with a bias b
    where `bias` says so. With the default activation it is SwiGLU, with `jax.nn.gelu` GeGLU, with
    `jax.nn.sigmoid` GLU. `down_init` draws down/w, where it is not to be as `w_init` says. Raises
    ValueError for hidden < 1 and for an input without axes.

    Reference: Shazeer, GLU variants improve transformer, 2020.

    >>> import jax, jax.numpy as jnp
    >>> params = GatedFeedForward(12).init(jax.random.key(0), jnp.zeros((2, 4)))
    >>> jax.tree.map(jnp.shape, params)
    {'down': {'w': (12, 4)}, 'gate': {'w': (4, 12)}, 'up': {'w': (4, 12)}}
    """

    hidden: int
    activation: Callable[[jax.Array], jax.Array] = jax.nn.silu
    bias: bool = False
    w_init: InitFn = lecun_normal()
    b_init: InitFn = zeros()
    down_init: InitFn | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        check_positive(self, "hidden")
        check_flags(self, "bias")
        check_activation(self, "activation")

    def parameters(self, x: Any) -> dict[str, dict[str, Param]]:
        """Three matrices, and biases where wanted."""
        check_rank(self, x, 1, "(..., features)")
        n = x.shape[-1]
        sizes = {"gate": (n, self.hidden), "up": (n, self.hidden), "down": (self.hidden, n)}
        inits = {"down": self.down_init or self.w_init}
        return {
            name: {"w": Param(shape, inits.get(name, self.w_init))}
            | ({"b": Param(shape[1:], self.b_init)} if self.bias else {})
            for name, shape in sizes.items()
        }

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """The gated hidden features, mapped back."""

        def mapped(name: str, x: jax.Array) -> jax.Array:
            return linear(x, params[name]["w"], params[name].get("b"))

        return mapped("down", self.activation(mapped("gate", x)) * mapped("up", x))
