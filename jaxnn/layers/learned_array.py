"""LearnedArray: a learned array without inputs."""

from typing import Any

import jax

from ..core.declarations import Param
from ..core.layer import Primitive
from ..initializers import InitFn, zeros


class LearnedArray(Primitive):
    """Learned array without inputs: `y = w`.

    Under `Precision`, y and its gradient have the compute type. If many outputs use y, as in x + y,
    use `shared_sum(x, y)` or `shared_product(x, y)` of `jaxnn.functional.gradients`, which compute
    its gradient in float32.

    Args:
        shape: Shape of the array.
        w_init: Initializer of the array. Default: `zeros()`.

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, LearnedArray((3, 4)).init(jax.random.key(0)))
    {'w': (3, 4)}
    """

    shape: tuple[int, ...]
    w_init: InitFn = zeros()

    def parameters(self) -> dict[str, Param]:
        """Declare the array."""
        return {"w": Param(self.shape, self.w_init)}

    def forward(self, params: Any) -> jax.Array:
        """Return the array."""
        return params["w"]
