"""Dropout: random zeros in training."""

from typing import Any

import jax

from ..core.primitive import Primitive
from ..core.values import is_traced
from ..functional.dropout import dropout


class Dropout(Primitive):
    """In training, each element is 0 with probability `rate` and divided by 1 - rate otherwise.

    In inference it is the identity. `rate` may be a traced number, so that a sweep over rates is
    one program. Raises ValueError for a rate outside [0, 1), and in training without a key.

    Reference: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting,
    2014.

    >>> import jax, jax.numpy as jnp
    >>> y = Dropout(0.5).apply({}, jnp.ones(100), key=jax.random.key(0), train=True)
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """

    rate: float

    def __post_init__(self) -> None:
        """Check the rate."""
        if is_traced(self.rate):
            return
        number = isinstance(self.rate, int | float) and not isinstance(self.rate, bool)
        if not number or not 0.0 <= self.rate < 1.0:
            raise ValueError(f"Dropout.rate is the share dropped, in [0, 1); got {self.rate!r}")

    def forward(self, params: Any, x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        """x with random zeros in training, x in inference."""
        if not train or (not is_traced(self.rate) and self.rate == 0):
            return x
        return dropout(key, x, self.rate)
