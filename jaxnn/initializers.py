"""Initializers: frozen values that draw an array from a key, a shape and a type.

They draw the numbers of `jax.nn.initializers`, and compare, hash and print by what they are, so a
layer that holds one is a value too. Any function of `(key, shape, dtype)` may stand for one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from .core.values import Value
from .fields import is_traced

Shape = Sequence[int]
InitFn: TypeAlias = Callable[[Any, Shape, Any], jax.Array]
Mode = Literal["fan_in", "fan_out", "fan_avg"]
Distribution = Literal["truncated_normal", "normal", "uniform"]

# The standard deviation of a standard normal cut to [-2, 2].
TRUNCATED_STDDEV = 0.87962566103423978


class Initializer(Value):
    """Base of the initializers: `initializer(key, shape, dtype)` gives an array."""

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """An array of `shape` and `dtype` drawn from `key`."""
        raise NotImplementedError


class constant(Initializer):
    """Every element is `value`; no key is needed.

    >>> constant(0.5)(None, (2,)).tolist()
    [0.5, 0.5]
    """

    value: float

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """An array full of `value`."""
        return jnp.full(shape, self.value, dtype)


def zeros() -> constant:
    """Every element is 0."""
    return constant(0.0)


def ones() -> constant:
    """Every element is 1."""
    return constant(1.0)


class normal(Initializer):
    """Normal with mean 0 and standard deviation `stddev`."""

    stddev: float = 0.01

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """An array of normal numbers."""
        return jax.random.normal(key, shape, dtype) * jnp.asarray(self.stddev, dtype)


class truncated_normal(Initializer):
    """A standard normal cut to [lower, upper], times `stddev`.

    `stddev` is that of the normal before it is cut, as in `jax.nn.initializers`.
    """

    stddev: float = 0.01
    lower: float = -2.0
    upper: float = 2.0

    def __post_init__(self) -> None:
        """Check the bounds."""
        if not is_traced(self.lower) and not is_traced(self.upper) and self.lower >= self.upper:
            raise ValueError(
                f"truncated_normal wants lower < upper, got {self.lower}, {self.upper}"
            )

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """An array of truncated normal numbers."""
        drawn = jax.random.truncated_normal(key, self.lower, self.upper, shape, dtype)
        return drawn * jnp.asarray(self.stddev, dtype)


class uniform(Initializer):
    """Uniform on [lower, upper).

    >>> import jax
    >>> bool((abs(uniform(-0.1, 0.1)(jax.random.key(0), (100,))) <= 0.1).all())
    True
    """

    lower: float = 0.0
    upper: float = 0.01

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """An array of uniform numbers."""
        return jax.random.uniform(key, shape, dtype, self.lower, self.upper)


class variance_scaling(Initializer):
    """Mean 0 and variance `scale / fan`, with the fan that `mode` names.

    The fan is the number of inputs ("fan_in"), of outputs ("fan_out") or their mean ("fan_avg"):
    the size of `in_axis` or `out_axis` times that of every axis in neither of them nor in
    `batch_axis` (a convolution's window).

    References: LeCun et al., Efficient BackProp, 1998; Glorot and Bengio, Understanding the
    difficulty of training deep feedforward neural networks, 2010; He et al., Delving deep into
    rectifiers, 2015.
    """

    scale: float
    mode: Mode
    distribution: Distribution
    in_axis: int | tuple[int, ...] = -2
    out_axis: int | tuple[int, ...] = -1
    batch_axis: int | tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the scale and the names."""
        if not is_traced(self.scale) and not self.scale >= 0.0:
            raise ValueError(f"variance_scaling.scale is a number >= 0, got {self.scale!r}")
        if self.mode not in ("fan_in", "fan_out", "fan_avg"):
            raise ValueError(f"mode is 'fan_in', 'fan_out' or 'fan_avg', got {self.mode!r}")
        if self.distribution not in ("truncated_normal", "normal", "uniform"):
            raise ValueError(
                "distribution is 'truncated_normal', 'normal' or 'uniform', got "
                f"{self.distribution!r}"
            )

    def fan(self, shape: Shape) -> float:
        """The fan of an array of `shape`; ValueError where it lacks the axes."""
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
        """The initializer without fans that this one is at `shape`."""
        variance = self.scale / max(1.0, self.fan(shape))
        root: Any = jnp.sqrt(variance) if is_traced(variance) else math.sqrt(variance)
        if self.distribution == "normal":
            return normal(root)
        if self.distribution == "truncated_normal":
            return truncated_normal(root / TRUNCATED_STDDEV)
        bound = root * math.sqrt(3.0)
        return uniform(-bound, bound)

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """An array drawn with the variance that `shape` asks for."""
        return self.sized(shape)(key, shape, dtype)


def _axes(axis: int | tuple[int, ...]) -> tuple[int, ...]:
    return (axis,) if isinstance(axis, int) else axis


def lecun_normal() -> variance_scaling:
    """Truncated normal with variance 1 / fan_in."""
    return variance_scaling(1.0, "fan_in", "truncated_normal")


def lecun_uniform() -> variance_scaling:
    """Uniform with variance 1 / fan_in."""
    return variance_scaling(1.0, "fan_in", "uniform")


def glorot_normal() -> variance_scaling:
    """Truncated normal with variance 2 / (fan_in + fan_out)."""
    return variance_scaling(1.0, "fan_avg", "truncated_normal")


def glorot_uniform() -> variance_scaling:
    """Uniform with variance 2 / (fan_in + fan_out)."""
    return variance_scaling(1.0, "fan_avg", "uniform")


def he_normal() -> variance_scaling:
    """Truncated normal with variance 2 / fan_in, for ReLU.

    >>> he_normal()
    variance_scaling(2.0, 'fan_in', 'truncated_normal')
    """
    return variance_scaling(2.0, "fan_in", "truncated_normal")


def he_uniform() -> variance_scaling:
    """Uniform with variance 2 / fan_in, for ReLU."""
    return variance_scaling(2.0, "fan_in", "uniform")


class orthogonal(Initializer):
    """A matrix with orthonormal rows or columns, whichever are fewer, times `scale`.

    All axes but the last are one. Raises ValueError below two axes.

    Reference: Saxe et al., Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks, 2014.
    """

    scale: float = 1.0

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """An orthogonal array of `shape`."""
        return jax.nn.initializers.orthogonal(self.scale)(key, tuple(shape), dtype)


class delta_orthogonal(Initializer):
    """A convolution kernel that is zero but for an orthogonal matrix at its center.

    Shapes are (*window, in, out) with 1 to 3 window axes and in <= out; others raise ValueError.

    Reference: Xiao et al., Dynamical isometry and a mean field theory of CNNs, 2018.
    """

    scale: float = 1.0

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """A delta-orthogonal kernel of `shape`."""
        return jax.nn.initializers.delta_orthogonal(self.scale)(key, tuple(shape), dtype)


class identity(Initializer):
    """The identity matrix times `scale`; ValueError unless the shape is (n, m).

    >>> identity(2.0)(None, (2, 2)).tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """

    scale: float = 1.0

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """An identity matrix of `shape`."""
        if len(shape) != 2:
            raise ValueError(f"identity wants a shape (n, m), got {tuple(shape)}")
        return jnp.eye(*shape, dtype=dtype) * jnp.asarray(self.scale, dtype)
