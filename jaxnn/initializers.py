"""Initializers: frozen values that draw an array from a key, a shape, and a type.

They draw the same numbers as `jax.nn.initializers`, and compare, hash, and print as values, so a
layer with an initializer is a value too. Any function of `(key, shape, dtype)` may be used instead.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from .core.values import Value
from .fields import is_traced
from .validation import Accepts, check_below, number, require, unwritten


def _is_initializer(value: Any) -> bool:
    if isinstance(value, Initializer):
        return True
    try:
        inspect.signature(value).bind(None, (), None)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return callable(value)
    return True


initializer: Accepts = Accepts(
    "a function of (key, shape, dtype)",
    _is_initializer,
    TypeError,
    "write nn.normal(stddev), or call the function if it returns an initializer",
)
Shape = Sequence[int]
InitFn: TypeAlias = Annotated[Callable[[Any, Shape, Any], jax.Array], initializer]
Mode = Literal["fan_in", "fan_out", "fan_avg"]
Distribution = Literal["truncated_normal", "normal", "uniform"]

# Standard deviation of a standard normal variable truncated to [-2, 2].
TRUNCATED_STDDEV = 0.87962566103423978


class Initializer(Value):
    """Base of the initializers: `initializer(key, shape, dtype)` returns an array."""

    @unwritten("no __call__; write def __call__(self, key, shape, dtype): ... return array")
    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return an array of `shape` and `dtype` drawn from `key`.

        Args:
            key: PRNG key.
            shape: Shape of the array.
            dtype: Type of the array. Default: float32.
        """
        ...


class constant(Initializer):
    """Set every element to `value`; no key is needed.

    Args:
        value: Number; may be traced.

    >>> constant(0.5)(None, (2,)).tolist()
    [0.5, 0.5]
    """

    value: float

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return an array filled with `value`."""
        return jnp.full(shape, self.value, dtype)


def zeros() -> constant:
    """Set every element to 0."""
    return constant(0.0)


def ones() -> constant:
    """Set every element to 1."""
    return constant(1.0)


class normal(Initializer):
    """Draw from a normal distribution with mean 0.

    Args:
        stddev: Standard deviation. Default: 0.01.
    """

    stddev: float = 0.01

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return an array of normal numbers."""
        return jax.random.normal(key, shape, dtype) * jnp.asarray(self.stddev, dtype)


class truncated_normal(Initializer):
    """Draw from a standard normal distribution truncated to [lower, upper], times `stddev`.

    Args:
        stddev: Standard deviation before truncation, as in `jax.nn.initializers`. Default: 0.01.
        lower: Lower bound, in standard deviations. Default: -2.
        upper: Upper bound, greater than `lower`. Default: 2.
    """

    stddev: float = 0.01
    lower: float = -2.0
    upper: float = 2.0

    def __post_init__(self) -> None:
        """Check the bounds."""
        check_below(self, "lower", "upper")

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return an array of truncated normal numbers."""
        drawn = jax.random.truncated_normal(key, self.lower, self.upper, shape, dtype)
        return drawn * jnp.asarray(self.stddev, dtype)


class uniform(Initializer):
    """Draw from a uniform distribution on [lower, upper).

    Args:
        lower: Lower bound. Default: 0.
        upper: Upper bound. Default: 0.01.

    >>> import jax
    >>> bool((abs(uniform(-0.1, 0.1)(jax.random.key(0), (100,))) <= 0.1).all())
    True
    """

    lower: float = 0.0
    upper: float = 0.01

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return an array of uniform numbers."""
        return jax.random.uniform(key, shape, dtype, self.lower, self.upper)


class variance_scaling(Initializer):
    """Draw with mean 0 and variance `scale / fan`.

    The number of inputs is the size of `in_axis` times that of every axis which is neither in
    `in_axis`, `out_axis`, nor `batch_axis` (a convolution's window); likewise for outputs.

    Args:
        scale: Number >= 0; may be traced.
        mode: The fan: "fan_in", the number of inputs; "fan_out", that of outputs; or "fan_avg",
            their mean.
        distribution: "truncated_normal", "normal", or "uniform".
        in_axis: Axis or axes of the inputs. Default: -2.
        out_axis: Axis or axes of the outputs. Default: -1.
        batch_axis: Axis or axes that do not count. Default: ().

    References: LeCun et al., Efficient BackProp, 1998; Glorot and Bengio, Understanding the
    difficulty of training deep feedforward neural networks, 2010; He et al., Delving deep into
    rectifiers, 2015.
    """

    scale: Annotated[float, number(0)]
    mode: Mode
    distribution: Distribution
    in_axis: int | tuple[int, ...] = -2
    out_axis: int | tuple[int, ...] = -1
    batch_axis: int | tuple[int, ...] = ()

    def fan(self, shape: Shape) -> float:
        """Return the fan of an array of `shape`; raise ValueError if it lacks the axes.

        Args:
            shape: Shape of the array.
        """
        used = [*_axes(self.in_axis), *_axes(self.out_axis), *_axes(self.batch_axis)]
        if any(not -len(shape) <= axis < len(shape) for axis in used):
            raise ValueError(
                f"{self!r} needs axes {used}, but the array has shape {tuple(shape)}; write "
                "nn.normal(stddev) for an array without inputs and outputs"
            )
        inside = {axis % len(shape) for axis in _axes(self.in_axis)}
        outside = {axis % len(shape) for axis in _axes(self.out_axis)}
        batch = {axis % len(shape) for axis in _axes(self.batch_axis)}
        window = math.prod(n for i, n in enumerate(shape) if i not in inside | outside | batch)
        fan_in = window * math.prod(shape[i] for i in inside)
        fan_out = window * math.prod(shape[i] for i in outside)
        fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
        return fans[self.mode]

    def sized(self, shape: Shape) -> Initializer:
        """Return the initializer without fans that is equal to this one at `shape`.

        Args:
            shape: Shape of the array.
        """
        variance = self.scale / max(1.0, self.fan(shape))
        root: Any = jnp.sqrt(variance) if is_traced(variance) else math.sqrt(variance)
        if self.distribution == "normal":
            return normal(root)
        if self.distribution == "truncated_normal":
            return truncated_normal(root / TRUNCATED_STDDEV)
        bound = root * math.sqrt(3.0)
        return uniform(-bound, bound)

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return an array drawn with the variance for `shape`."""
        return self.sized(shape)(key, shape, dtype)


def _axes(axis: int | tuple[int, ...]) -> tuple[int, ...]:
    return (axis,) if isinstance(axis, int) else axis


def lecun_normal() -> variance_scaling:
    """Draw from a truncated normal distribution with variance 1 / fan_in."""
    return variance_scaling(1.0, "fan_in", "truncated_normal")


def lecun_uniform() -> variance_scaling:
    """Draw from a uniform distribution with variance 1 / fan_in."""
    return variance_scaling(1.0, "fan_in", "uniform")


def glorot_normal() -> variance_scaling:
    """Draw from a truncated normal distribution with variance 2 / (fan_in + fan_out)."""
    return variance_scaling(1.0, "fan_avg", "truncated_normal")


def glorot_uniform() -> variance_scaling:
    """Draw from a uniform distribution with variance 2 / (fan_in + fan_out)."""
    return variance_scaling(1.0, "fan_avg", "uniform")


def he_normal() -> variance_scaling:
    """Draw from a truncated normal distribution with variance 2 / fan_in, for ReLU.

    >>> he_normal()
    variance_scaling(2.0, 'fan_in', 'truncated_normal')
    """
    return variance_scaling(2.0, "fan_in", "truncated_normal")


def he_uniform() -> variance_scaling:
    """Draw from a uniform distribution with variance 2 / fan_in, for ReLU."""
    return variance_scaling(2.0, "fan_in", "uniform")


class orthogonal(Initializer):
    """Draw a matrix with orthonormal rows or columns, whichever are fewer, times `scale`.

    All axes but the last are combined. Raises ValueError for fewer than two axes.

    Args:
        scale: Factor. Default: 1.

    Reference: Saxe et al., Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks, 2014.
    """

    scale: float = 1.0

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return an orthogonal array of `shape`."""
        return jax.nn.initializers.orthogonal(self.scale)(key, tuple(shape), dtype)


class delta_orthogonal(Initializer):
    """Draw a convolution kernel that is zero except for an orthogonal matrix at its center.

    Shapes are `(*window, in, out)` with 1 to 3 window axes and in <= out; others raise ValueError.

    Args:
        scale: Factor. Default: 1.

    Reference: Xiao et al., Dynamical isometry and a mean field theory of CNNs, 2018.
    """

    scale: float = 1.0

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return a delta-orthogonal kernel of `shape`."""
        return jax.nn.initializers.delta_orthogonal(self.scale)(key, tuple(shape), dtype)


class identity(Initializer):
    """Set a matrix to the identity times `scale`; raise ValueError unless the shape is (n, m).

    Args:
        scale: Factor. Default: 1.

    >>> identity(2.0)(None, (2, 2)).tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """

    scale: float = 1.0

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return an identity matrix of `shape`."""
        require(len(shape) == 2, "the shape of identity", "(n, m)", tuple(shape))
        return jnp.eye(*shape, dtype=dtype) * jnp.asarray(self.scale, dtype)
