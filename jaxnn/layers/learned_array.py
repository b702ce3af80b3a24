"""LearnedArray: a bare learned array."""

from typing import Any

import jax

from ..core.declarations import Param
from ..core.layer import Primitive
from ..initializers import InitFn, zeros


class LearnedArray(Primitive):
    """y = w: a learned array of `shape`, without inputs.

    Under `Precision`, y and its gradient have the computing type. If many outputs share y, as in
    x + y, write `shared_sum(x, y)` or `shared_product(x, y)` of `jaxnn.functional.gradients`, which
    sum its gradient in float32.

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, LearnedArray((3, 4)).init(jax.random.key(0)))
    {'w': (3, 4)}
    """

    shape: tuple[int, ...]
    w_init: InitFn = zeros()

    def parameters(self) -> dict[str, Param]:
        """The array."""
        return {"w": Param(self.shape, self.w_init)}

    def forward(self, params: Any) -> jax.Array:
        """The array."""
        return params["w"]
