"""Bilinear: a bilinear form of two inputs for each feature."""

from typing import Annotated, Any

import jax

from ..core.declarations import Param
from ..core.layer import Primitive
from ..explain.text import describe
from ..functional.linear import bilinear
from ..initializers import InitFn, lecun_normal, zeros
from .checks import check_rank, positive_size


class Bilinear(Primitive):
    """Bilinear form of two inputs: `y_k = sum_ij x_i w_ijk z_j + b_k`.

    x has shape (..., n), z (..., m) with the same leading axes, and y (..., features), in the type
    of x. Parameters are w (n, m, features) and b (features,).

    Args:
        features: Number of output features.
        bias: Whether to add b. Default: True.
        w_init: Initializer of w. Default: `lecun_normal()`, of variance 1 / (n * m).
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If the leading axes of the inputs differ.

    >>> import jax, jax.numpy as jnp
    >>> params = Bilinear(5).init(jax.random.key(0), jnp.zeros((2, 3)), jnp.zeros((2, 4)))
    >>> jax.tree.map(jnp.shape, params)
    {'b': (5,), 'w': (3, 4, 5)}
    """

    features: Annotated[int, positive_size]
    bias: bool = True
    w_init: InitFn = lecun_normal()
    b_init: InitFn = zeros()

    def parameters(self, x: Any, z: Any) -> dict[str, Param]:
        """Declare w, and b if there is a bias."""
        for one in (x, z):
            check_rank(one, 1, "(..., inputs)")
        if x.shape[:-1] != z.shape[:-1]:
            raise ValueError(
                "expected two inputs (..., n) and (..., m) with equal leading axes, got "
                f"{describe((x, z))}; use jnp.broadcast_to(x, shape)"
            )
        shapes = {"w": Param((x.shape[-1], z.shape[-1], self.features), self.w_init)}
        return shapes | {"b": Param((self.features,), self.b_init)} if self.bias else shapes

    def forward(self, params: Any, x: jax.Array, z: jax.Array) -> jax.Array:
        """Return the bilinear form plus the bias."""
        return bilinear(x, z, params["w"], params["b"] if self.bias else None)
