"""Dropout and other noise in training; the identity in inference.

Integer inputs become floating in both, so that output types agree. If the rate or standard
deviation is a concrete 0, the layers are the identity in training too, and need no key.
"""

from typing import Annotated, Any

import jax

from ..core.layer import Primitive
from ..fields import is_traced
from ..functional.dropout import alpha_dropout, dropout, gaussian_dropout, gaussian_noise
from ..functional.linear import floating_type
from ..validation import each, integer, number
from .checks import check_rank, distinct_axes, dropout_rate

_DIMS = each(integer(), "an axis or a tuple of axes, such as (-3, -2) for images", range(100))


class Dropout(Primitive):
    """Dropout: in training, set elements to 0 with probability `rate`.

    Other elements are divided by 1 - rate. In inference it is the identity. x and y have any shape.
    `rate` may be traced, so that a sweep over rates compiles one program; at a traced rate of 1,
    outputs and gradients are 0.

    Args:
        rate: Probability in [0, 1).
        broadcast_dims: Axes along which all elements share one mask. For images (..., H, W, C),
            (-3, -2) drops whole feature maps (spatial dropout); for sequences (..., T, C), -2 drops
            a feature at all times. Default: ().

    Raises:
        ValueError: If the rate is outside [0, 1) or rounds to 1 in float32, if x does not have an
            axis of `broadcast_dims`, or in training without a key.

    References: Srivastava et al., Dropout: a simple way to prevent neural networks from
    overfitting, 2014; Tompson et al., Efficient object localization using convolutional networks,
    2015 (spatial).

    >>> import jax, jax.numpy as jnp
    >>> y = Dropout(0.5).apply({}, jnp.ones(100), key=jax.random.key(0), train=True)
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """

    rate: Annotated[float, dropout_rate]
    broadcast_dims: Annotated[int | tuple[int, ...], _DIMS] = ()

    def _draws(self) -> bool:
        return not _is_zero(self.rate)

    def forward(self, params: Any, x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        """Return x with random zeros in training, and x in inference."""
        axes = distinct_axes(x, self.broadcast_dims)
        if not train or not self._draws():
            return _floating(x)
        return dropout(key, x, self.rate, axes)


class AlphaDropout(Primitive):
    """Dropout for SELU networks, which keeps mean 0 and variance 1.

    In training, each element is set to SELU's limit at -infinity, -1.758, with probability `rate`.
    The result is a * x + b with `a = ((1 - rate) * (1 + rate * 1.758**2))**-0.5` and
    `b = a * rate * 1.758`. In inference it is the identity. x and y have any shape.

    Args:
        rate: Probability in [0, 1). It may be traced; at a traced rate of 1 the result is 0.
        broadcast_dims: Axes along which all elements share one mask, as for `Dropout`. Default: ().

    Raises:
        ValueError: If the rate is outside [0, 1), if x does not have an axis of `broadcast_dims`,
            or in training without a key.

    Reference: Klambauer et al., Self-normalizing neural networks, 2017.

    >>> import jax, jax.numpy as jnp
    >>> y = AlphaDropout(0.5).apply({}, jnp.zeros(100), key=jax.random.key(0), train=True)
    >>> sorted({round(float(one), 4) for one in y})
    [-0.7792, 0.7792]
    """

    rate: Annotated[float, dropout_rate]
    broadcast_dims: Annotated[int | tuple[int, ...], _DIMS] = ()

    def _draws(self) -> bool:
        return not _is_zero(self.rate)

    def forward(self, params: Any, x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        """Return x with random elements replaced in training, and x in inference."""
        axes = distinct_axes(x, self.broadcast_dims)
        if not train or not self._draws():
            return _floating(x)
        return alpha_dropout(key, x, self.rate, axes)


class StochasticDepth(Primitive):
    """Stochastic depth: in training, set whole examples to 0 with probability `rate`.

    Other examples are divided by 1 - rate. In inference it is the identity. Used at the end of a
    residual branch, it skips the branch for random examples:
    `Residual(Sequential(branch, StochasticDepth(0.1)))`. Examples lie along the first axis; for
    other layouts use `Dropout` with `broadcast_dims`.

    Args:
        rate: Probability in [0, 1); may be traced.

    Raises:
        ValueError: If the rate is outside [0, 1), or in training without a key.

    Reference: Huang et al., Deep networks with stochastic depth, 2016.

    >>> import jax, jax.numpy as jnp
    >>> net = StochasticDepth(0.5)
    >>> net.apply({}, jnp.ones((4, 3)), key=jax.random.key(1), train=True).sum(1).tolist()
    [6.0, 0.0, 6.0, 6.0]
    """

    rate: Annotated[float, dropout_rate]

    def _draws(self) -> bool:
        return not _is_zero(self.rate)

    def forward(self, params: Any, x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        """Return x with random examples set to 0 in training, and x in inference."""
        check_rank(x, 1, "(examples, ...)")
        if not train or not self._draws():
            return _floating(x)
        return dropout(key, x, self.rate, tuple(range(1, x.ndim)))


class GaussianNoise(Primitive):
    """Gaussian noise: in training, `y = x + stddev * n` with n standard normal.

    In inference it is the identity. x and y have any shape.

    Args:
        stddev: Standard deviation, a number >= 0; may be traced.

    Raises:
        ValueError: If `stddev` is below 0, or in training without a key.

    Reference: Bishop, Training with noise is equivalent to Tikhonov regularization, 1995.

    >>> import jax, jax.numpy as jnp
    >>> y = GaussianNoise(0.1).apply({}, jnp.zeros(1000), key=jax.random.key(0), train=True)
    >>> round(float(y.std()), 1)
    0.1
    """

    stddev: Annotated[float, number(0)]

    def _draws(self) -> bool:
        return not _is_zero(self.stddev)

    def forward(self, params: Any, x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        """Return x with noise in training, and x in inference."""
        check_rank(x, 0, "(...)")
        if not train or not self._draws():
            return _floating(x)
        return gaussian_noise(key, x, self.stddev)


class GaussianDropout(Primitive):
    """Gaussian dropout: in training, `y = x * n`, with n normal of mean 1.

    The variance of n is rate / (1 - rate), that of the factors of `Dropout(rate)`. In inference it
    is the identity. x and y have any shape.

    Args:
        rate: Rate in [0, 1); may be traced.

    Raises:
        ValueError: If the rate is outside [0, 1), or in training without a key.

    Reference: Srivastava et al., Dropout: a simple way to prevent neural networks from
    overfitting, 2014.

    >>> import jax, jax.numpy as jnp
    >>> y = GaussianDropout(0.5).apply({}, jnp.ones(10000), key=jax.random.key(0), train=True)
    >>> round(float(y.mean()), 1), round(float(y.std()), 1)
    (1.0, 1.0)
    """

    rate: Annotated[float, dropout_rate]

    def _draws(self) -> bool:
        return not _is_zero(self.rate)

    def forward(self, params: Any, x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        """Return x times noise in training, and x in inference."""
        check_rank(x, 0, "(...)")
        if not train or not self._draws():
            return _floating(x)
        return gaussian_dropout(key, x, self.rate)


def _floating(x: Any) -> Any:
    """Convert integers to the floating type that training returns."""
    dtype = floating_type(x)
    return x if x.dtype == dtype else x.astype(dtype)


def _is_zero(number: Any) -> bool:
    return not is_traced(number) and number == 0
