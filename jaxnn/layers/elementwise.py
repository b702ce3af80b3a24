"""Elementwise layers: dropout and other noise, PReLU, RReLU, LayerScale, and LearnedArray.

Activations without parameters are plain functions: use `jax.nn.relu` as a layer.

Dropout and noise are the identity in inference, and so is a layer in training if its rate or
standard deviation is a concrete 0; it then needs no key. Integer inputs become floating in both, so
that output types agree.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core.declarations import Param
from ..core.layer import Primitive
from ..fields import is_traced
from ..functional.dropout import alpha_dropout, dropout, gaussian_dropout, gaussian_noise
from ..functional.gradients import shared_product
from ..functional.linear import floating_type, to_compute_type
from ..initializers import InitFn, constant, zeros
from ..validation import check_below, each, integer, number
from . import axis_or_axes, check_rank, distinct_axes, dropout_rate


class PReLU(Primitive):
    """Parametric ReLU: `y = x` if x >= 0, otherwise `y = alpha * x`, with a learned alpha.

    x and y have any shape. The parameter is alpha, whose shape consists of the sizes of the axes in
    `axis`.

    Args:
        axis: Axis or axes of x along which alpha varies: -1 for one number per feature, (1, 2, 3)
            for one per element of an image, as in keras. Default: None, for a single number.
        alpha_init: Initializer of alpha. Default: `constant(0.25)`.

    Reference: He et al., Delving deep into rectifiers, 2015.

    >>> import jax, jax.numpy as jnp
    >>> net = PReLU()
    >>> net.apply(net.init(jax.random.key(0), jnp.ones(2)), jnp.array([-1.0, 2.0])).tolist()
    [-0.25, 2.0]
    """

    axis: Annotated[int | tuple[int, ...] | None, None | axis_or_axes] = None
    alpha_init: InitFn = constant(0.25)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare the slopes."""
        check_rank(x, 0, "(...)")
        return {"alpha": Param(tuple(x.shape[i] for i in self._axes(x)), self.alpha_init)}

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x with its negative part scaled."""
        alpha = params["alpha"]
        x, _ = to_compute_type(x, alpha)
        axes = self._axes(x)
        first = min(axes, default=x.ndim)
        sizes = [x.shape[i] if i in axes else 1 for i in range(first, x.ndim)]
        return jnp.where(x >= 0, x, shared_product(x, alpha.reshape(sizes)))

    def _axes(self, x: Any) -> tuple[int, ...]:
        return () if self.axis is None else tuple(sorted(distinct_axes(x, self.axis)))


class RReLU(Primitive):
    """Randomized ReLU: `y = x` if x >= 0, otherwise `y = slope * x`.

    In training, slope is uniform from `lower` to `upper`, drawn for each element; in inference it
    is (lower + upper) / 2. x and y have any shape. There are no parameters.

    Args:
        lower: Smallest slope; may be traced. Default: 1/8.
        upper: Largest slope; may be traced. Default: 1/3.

    Raises:
        ValueError: If `lower` is not below `upper`, or in training without a key.

    Reference: Xu et al., Empirical evaluation of rectified activations in convolutional network,
    2015.

    >>> import jax, jax.numpy as jnp
    >>> RReLU(0.0, 0.5).apply({}, jnp.array([-1.0, 2.0])).tolist()
    [-0.25, 2.0]
    """

    lower: Annotated[float, number()] = 1 / 8
    upper: Annotated[float, number()] = 1 / 3

    def __post_init__(self) -> None:
        """Check the bounds."""
        check_below(self, "lower", "upper")

    def forward(self, params: Any, x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        """Return x with its negative part scaled."""
        check_rank(x, 0, "(...)")
        x = x.astype(floating_type(x))
        lower, upper, middle = (jnp.asarray(a, jnp.float32) for a in (self.lower, self.upper, 0.5))
        at = jax.random.uniform(key, x.shape, jnp.float32) if train else middle
        slope = (lower + at * (upper - lower)).astype(x.dtype)
        return jnp.where(x >= 0, x, slope * x)


class LayerScale(Primitive):
    """Layer scale: `y = x * scale`, with a small initial scale.

    x and y have shape (..., n). The parameter is scale (n,). A deep network with
    `Residual(Sequential(branch, LayerScale()))` starts near the identity.

    Args:
        scale_init: Initializer of scale. Default: `constant(1e-5)`.

    Raises:
        ValueError: If the input has no axes.

    Reference: Touvron et al., Going deeper with image transformers, 2021 (0.1 up to 18 blocks, 1e-5
    up to 24, 1e-6 beyond).

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, LayerScale().init(jax.random.key(0), jnp.zeros((2, 8))))
    {'scale': (8,)}
    """

    scale_init: InitFn = constant(1e-5)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare one factor for each feature."""
        check_rank(x, 1, "(..., features)")
        return {"scale": Param((x.shape[-1],), self.scale_init)}

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x times the factors."""
        x, _ = to_compute_type(x, params["scale"])
        return shared_product(x, params["scale"])


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
