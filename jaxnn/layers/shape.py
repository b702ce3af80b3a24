"""Layers that change only the shape of an array."""

import math
from typing import Any

import jax

from ..core.layer import Primitive
from ..explain.text import describe


class Flatten(Primitive):
    """Flatten axes: all axes from `start` on become one.

    (batch, 28, 28) becomes (batch, 784).

    Args:
        start: First axis to flatten. Default: 1.

    >>> import jax.numpy as jnp
    >>> Flatten().apply({}, jnp.zeros((5, 28, 28))).shape
    (5, 784)
    """

    start: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_start(self.start, "Flatten")

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x with its axes from `start` on flattened."""
        _check_axes(x, self.start)
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

    shape: tuple[int, ...]
    start: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_start(self.start, "Reshape")
        sizes = self.shape if isinstance(self.shape, tuple) else (None,)
        if any(not isinstance(n, int) or n < -1 for n in sizes) or sizes.count(-1) > 1:
            raise ValueError(
                f"Reshape.shape must be a tuple of ints, at most one of them -1; got {self.shape!r}"
            )

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x with its axes from `start` on reshaped."""
        _check_axes(x, self.start)
        have, want = math.prod(x.shape[self.start :]), math.prod(n for n in self.shape if n >= 0)
        if (have != want) if -1 not in self.shape else (want == 0 or have % want):
            raise ValueError(
                f"cannot reshape {describe(x)} to {self.shape} from axis {self.start} on: it has "
                f"{have} elements there"
            )
        shape = (have // want if n == -1 else n for n in self.shape)  # supports an empty batch
        return x.reshape(*x.shape[: self.start], *shape)


def _check_start(start: Any, owner: str) -> None:
    if not isinstance(start, int) or start < 0:
        raise ValueError(f"{owner}.start must be an axis, an int >= 0; got {start!r}")


def _check_axes(x: Any, start: int) -> None:
    if not hasattr(x, "ndim"):
        raise TypeError(f"expected an array, got {x!r}; use jnp.asarray(x)")
    if x.ndim < start:
        raise ValueError(f"expected an input of at least {start} axes, got {describe(x)}")
