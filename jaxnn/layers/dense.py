"""Dense: the weighted sum plus a bias."""

from typing import Any

import jax

from ..core.declarations import Param
from ..core.initialisers import Initialiser, he_normal, zeros
from ..core.primitive import Primitive
from ..functional.linear import linear
from .checks import check_flags, check_positive, check_rank


class Dense(Primitive):
    """y = x @ w + b.

    x is (..., n) and y (..., features), in the type of x; w is (n, features) and b (features,). He
    initialisation by default, for ReLU. Raises ValueError for features < 1 and for an input
    without axes.

    Reference: He et al., Delving deep into rectifiers, 2015.

    >>> import jax, jax.numpy as jnp
    >>> params = Dense(128).init(jax.random.key(0), jnp.zeros((32, 784)))
    >>> jax.tree.map(jnp.shape, params)
    {'b': (128,), 'w': (784, 128)}
    """

    features: int
    bias: bool = True
    w_init: Initialiser = he_normal()
    b_init: Initialiser = zeros()

    def __post_init__(self) -> None:
        """Check the number of features and the flag."""
        check_positive(self, "features")
        check_flags(self, "bias")

    def parameters(self, x: Any) -> dict[str, Param]:
        """w, and b where there is a bias."""
        check_rank(self, x, 1, "(..., inputs)")
        shapes = {"w": Param((x.shape[-1], self.features), self.w_init)}
        return shapes | {"b": Param((self.features,), self.b_init)} if self.bias else shapes

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """x @ w + b."""
        return linear(x, params["w"], params["b"] if self.bias else None)
