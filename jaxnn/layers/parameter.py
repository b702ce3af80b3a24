"""Parameter: a bare learned array."""

from typing import Any

import jax

from ..core.declarations import Param
from ..core.initialisers import Initialiser, zeros
from ..core.primitive import Primitive


class Parameter(Primitive):
    """y = w: a learned array of `shape`, without inputs.

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, Parameter((3, 4)).init(jax.random.key(0)))
    {'w': (3, 4)}
    """

    shape: tuple[int, ...]
    w_init: Initialiser = zeros()

    def parameters(self) -> dict[str, Param]:
        """The array."""
        return {"w": Param(self.shape, self.w_init)}

    def forward(self, params: Any) -> jax.Array:
        """The array."""
        return params["w"]
