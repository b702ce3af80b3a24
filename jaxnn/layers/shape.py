"""Layers that change only the shape of an array."""

import math
from typing import Annotated, Any

import jax

from ..core.layer import Primitive
from ..explain.text import describe
from ..validation import Accepts, is_int, natural
from .checks import check_rank

_START = natural.such(what="an axis, an int >= 0")
_SHAPE = Accepts(
    "a tuple of ints, at most one of them -1",
    lambda v: isinstance(v, tuple) and all(is_int(n) and n >= -1 for n in v) and v.count(-1) < 2,
)


class Flatten(Primitive):
    """Flatten axes: all axes from `start` on become one.

    (batch, 28, 28) becomes (batch, 784).

    Args:
        start: First axis to flatten. Default: 1.

    >>> import jax.numpy as jnp
    >>> Flatten().apply({}, jnp.zeros((5, 28, 28))).shape
    (5, 784)
    """

    start: Annotated[int, _START] = 1

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x with its axes from `start` on flattened."""
        check_rank(x, self.start, f"(*{self.start} axes, ...)")
        return x.reshape(*x.shape[: self.start], math.prod(x.shape[self.start :]))


class Reshape(Primitive):
    """Reshape the axes from `start` on to `shape`.

    Args:
        shape: New sizes; one of them may be -1, which is inferred.
        start: First axis to reshape. Default: 1.

    Raises:
        ValueError: If the number of elements differs.

    >>> import jax.numpy as jnp
    >>> Reshape((28, 28, 1)).apply({}, jnp.zeros((5, 784))).shape
    (5, 28, 28, 1)
    """

    shape: Annotated[tuple[int, ...], _SHAPE]
    start: Annotated[int, _START] = 1

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x with its axes from `start` on reshaped."""
        check_rank(x, self.start, f"(*{self.start} axes, ...)")
        have, want = math.prod(x.shape[self.start :]), math.prod(n for n in self.shape if n >= 0)
        if (have != want) if -1 not in self.shape else (want == 0 or have % want):
            raise ValueError(
                f"cannot reshape {describe(x)} to {self.shape} from axis {self.start} on: it has "
                f"{have} elements there"
            )
        shape = (have // want if n == -1 else n for n in self.shape)  # supports an empty batch
        return x.reshape(*x.shape[: self.start], *shape)
