"""Dropout and its relatives: noise in training, the identity in inference.

Integers become floating in both, so that the two have one type. Where a rate or standard deviation
is known to be 0, training is the identity too, draws nothing and needs no key.
"""

from typing import Any

import jax

from ..core.layer import Primitive
from ..explain.text import describe
from ..fields import is_traced
from ..functional.dropout import alpha_dropout, dropout, gaussian_noise
from ..functional.linear import floating_type
from .checks import check_rank, check_share


class Dropout(Primitive):
    """In training, each element is 0 with probability `rate` and divided by 1 - rate otherwise.

    In inference it is the identity. Elements along the axes `broadcast_dims` fall together: on
    images (..., H, W, C), `Dropout(0.1, broadcast_dims=(-3, -2))` drops whole feature maps (spatial
    dropout), and on sequences (..., T, C), `broadcast_dims=-2` drops a feature at all times. `rate`
    may be a traced number, so that a sweep over rates is one program; at a traced rate of 1 all
    elements and gradients are 0. Raises ValueError for a rate outside [0, 1) or one that float32
    rounds to 1, for a shared axis that x does not have, and in training without a key.

    Reference: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting,
    2014; Tompson et al., Efficient object localization using convolutional networks, 2015
    (spatial).

    >>> import jax, jax.numpy as jnp
    >>> y = Dropout(0.5).apply({}, jnp.ones(100), key=jax.random.key(0), train=True)
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """

    rate: float
    broadcast_dims: int | tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the rate and the axes."""
        check_share(self, "rate")
        axes = (
            self.broadcast_dims
            if isinstance(self.broadcast_dims, tuple)
            else (self.broadcast_dims,)
        )
        if any(not isinstance(axis, int) or isinstance(axis, bool) for axis in axes):
            raise ValueError(
                "Dropout.broadcast_dims is an axis or several along which elements fall together: "
                f"(-3, -2) for images, say; got {self.broadcast_dims!r}"
            )

    def _draws(self) -> bool:
        return not _is_zero(self.rate)

    def forward(self, params: Any, x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        """x with random zeros in training, x in inference."""
        check_rank(self, x, 0, "(...)")
        for axis in (
            self.broadcast_dims
            if isinstance(self.broadcast_dims, tuple)
            else (self.broadcast_dims,)
        ):
            if not -x.ndim <= axis < x.ndim:
                raise ValueError(f"drops along axis {axis}, which {describe(x)} does not have")
        if not train or not self._draws():
            return _floating(x)
        return dropout(key, x, self.rate, self.broadcast_dims)


class AlphaDropout(Primitive):
    """Dropout for SELU networks: mean 0 and variance 1 stay.

    In training, each element becomes SELU's lowest value, -1.758, with probability `rate`, and the
    result is a * x + b, with a = ((1 - rate) * (1 + rate * 1.758**2))**-0.5 and
    b = a * rate * 1.758. In inference it is the identity. `rate` may be traced; at 1 the
    result is 0. Raises ValueError for a rate outside [0, 1), and in training without a key.

    Reference: Klambauer et al., Self-normalizing neural networks, 2017.

    >>> import jax, jax.numpy as jnp
    >>> y = AlphaDropout(0.5).apply({}, jnp.zeros(100), key=jax.random.key(0), train=True)
    >>> sorted({round(float(one), 4) for one in y})
    [-0.7792, 0.7792]
    """

    rate: float

    def __post_init__(self) -> None:
        """Check the rate."""
        check_share(self, "rate")

    def _draws(self) -> bool:
        return not _is_zero(self.rate)

    def forward(self, params: Any, x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        """x with random lowest values in training, x in inference."""
        check_rank(self, x, 0, "(...)")
        if not train or not self._draws():
            return _floating(x)
        return alpha_dropout(key, x, self.rate)


class StochasticDepth(Primitive):
    """In training, each example is 0 with probability `rate` and divided by 1 - rate otherwise.

    It closes a residual branch, which an example then does without:
    `Residual(Sequential(branch, StochasticDepth(0.1)))`. Examples lie along the first axis; for
    others write Dropout with the axes that fall together, `Dropout(0.1, broadcast_dims=(-2, -1))`.
    In inference it is the identity. `rate` may be traced. Raises ValueError for a rate outside [0,
    1), and in training without a key.

    Reference: Huang et al., Deep networks with stochastic depth, 2016.

    >>> import jax, jax.numpy as jnp
    >>> net = StochasticDepth(0.5)
    >>> net.apply({}, jnp.ones((4, 3)), key=jax.random.key(1), train=True).sum(1).tolist()
    [6.0, 0.0, 6.0, 6.0]
    """

    rate: float

    def __post_init__(self) -> None:
        """Check the rate."""
        check_share(self, "rate")

    def _draws(self) -> bool:
        return not _is_zero(self.rate)

    def forward(self, params: Any, x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        """x with random examples of zeros in training, x in inference."""
        check_rank(self, x, 1, "(examples, ...)")
        if not train or not self._draws():
            return _floating(x)
        return dropout(key, x, self.rate, tuple(range(1, x.ndim)))


class GaussianNoise(Primitive):
    """In training, y = x + stddev * n, with n standard normal; in inference the identity.

    `stddev` may be traced. Raises ValueError for stddev < 0, and in training without a key.

    Reference: Bishop, Training with noise is equivalent to Tikhonov regularization, 1995.

    >>> import jax, jax.numpy as jnp
    >>> y = GaussianNoise(0.1).apply({}, jnp.zeros(1000), key=jax.random.key(0), train=True)
    >>> round(float(y.std()), 1)
    0.1
    """

    stddev: float

    def __post_init__(self) -> None:
        """Check the standard deviation."""
        number = isinstance(self.stddev, int | float) and not isinstance(self.stddev, bool)
        if not is_traced(self.stddev) and not (number and self.stddev >= 0.0):
            raise ValueError(
                f"GaussianNoise.stddev is the noise's standard deviation, a number >= 0; got "
                f"{self.stddev!r}"
            )

    def _draws(self) -> bool:
        return not _is_zero(self.stddev)

    def forward(self, params: Any, x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        """x with noise in training, x in inference."""
        check_rank(self, x, 0, "(...)")
        if not train or not self._draws():
            return _floating(x)
        return gaussian_noise(key, x, self.stddev)


def _floating(x: Any) -> Any:
    """x, where it is of integers as floats, which it is in training too."""
    dtype = floating_type(x)
    return x if x.dtype == dtype else x.astype(dtype)


def _is_zero(number: Any) -> bool:
    return not is_traced(number) and number == 0
