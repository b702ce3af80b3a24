"""Normalization as plain functions. Statistics are taken in at least float32, variances by two
passes: the mean first, then the mean square of what is left, since the mean of squares less the
squared mean loses all digits where the mean is large."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .linear import along_axis, floating_type, wider_type

Axes = int | tuple[int, ...]


def moments(x: jax.Array, axis: Axes, axis_name: Any = None) -> tuple[jax.Array, jax.Array]:
    """Mean and variance (divided by n) over `axis`, kept as axes of size 1, in at least float32.

    With `axis_name` they are those over all devices or lanes of that mapped axis.
    """
    return _moments(x.astype(wider_type(x.dtype, jnp.float32)), axis, axis_name)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _moments(x: jax.Array, axis: Axes, axis_name: Any) -> tuple[jax.Array, jax.Array]:
    mean = _mean(x, axis, axis_name)
    return mean, _mean(jnp.square(x - mean), axis, axis_name)


@_moments.defjvp
def _(axis: Axes, axis_name: Any, primals: Any, tangents: Any) -> Any:
    """The variance's derivative without the part through the mean, a sum that is 0."""
    (x,), (dx,) = primals, tangents
    mean, variance = _moments(x, axis, axis_name)
    dvariance = _mean(2 * ((x - mean) * dx), axis, axis_name)
    return (mean, variance), (_mean(dx, axis, axis_name), dvariance)


def _mean(x: jax.Array, axis: Axes, axis_name: Any) -> jax.Array:
    mean = jnp.mean(x, axis, keepdims=True)
    return mean if axis_name is None else lax.pmean(mean, axis_name)


def standardize(
    x: jax.Array, mean: jax.Array, variance: jax.Array, eps: Any, scale: jax.Array | None = None
) -> jax.Array:
    """(x - mean) / sqrt(variance + eps) * scale, in the wider type of x and the statistics.

    A scale broadcasts to the statistics.
    """
    x, mean, variance = (a.astype(wider_type(x.dtype, mean.dtype)) for a in (x, mean, variance))
    factor = lax.rsqrt(variance + jnp.asarray(eps, x.dtype))
    return _centered(x, mean, factor if scale is None else factor * scale.astype(x.dtype))


@jax.custom_jvp
def _centered(x: jax.Array, mean: jax.Array, factor: jax.Array) -> jax.Array:
    return (x - mean) * factor


@_centered.defjvp
def _(primals: Any, tangents: Any) -> Any:
    """dmean * factor is of the statistics' size: what goes backward is summed before it is
    multiplied, and that sum is the gradient of a bias, too."""
    (x, mean, factor), (dx, dmean, dfactor) = primals, tangents
    centered = x - mean
    return centered * factor, dx * factor - dmean * factor + centered * dfactor


def layer_norm(x: jax.Array, axis: Axes = -1, eps: float = 1e-5) -> jax.Array:
    """x less its mean, divided by its standard deviation, over `axis`; in the floating type of x.

    >>> import jax.numpy as jnp
    >>> layer_norm(jnp.array([1.0, 3.0]), eps=0.0).tolist()
    [-1.0, 1.0]
    """
    return standardize(x, *moments(x, axis), eps).astype(floating_type(x))


def rms_norm(x: jax.Array, axis: Axes = -1, eps: float = 1e-6) -> jax.Array:
    """x divided by its root mean square over `axis`; in the floating type of x.

    >>> import jax.numpy as jnp
    >>> rms_norm(jnp.array([3.0, 3.0]), eps=0.0).tolist()
    [1.0, 1.0]
    """
    wide = x.astype(wider_type(x.dtype, jnp.float32))
    square = jnp.mean(jnp.square(wide), axis, keepdims=True)
    return (wide * lax.rsqrt(square + jnp.asarray(eps, wide.dtype))).astype(floating_type(x))


def group_norm(x: jax.Array, groups: int, spatial: int, eps: float = 1e-5) -> jax.Array:
    """x (..., *window, features) standardized over the `spatial` axes of the window and each of
    `groups` runs of neighboring features; in at least float32.

    >>> import jax.numpy as jnp
    >>> group_norm(jnp.array([1.0, 3.0, 10.0, 30.0]), groups=2, spatial=0, eps=0.0).tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    axes = (*range(split.ndim - 2 - spatial, split.ndim - 2), split.ndim - 1)
    return standardize(split, *moments(split, axes), eps).reshape(x.shape)


def local_response_norm(x: jax.Array, size: int, alpha: Any, beta: Any, k: Any) -> jax.Array:
    """x / (k + alpha / size * s) ** beta, with s the sum of squares over `size` neighboring
    features of the last axis, size // 2 of them before; in the floating type of x.

    >>> import jax.numpy as jnp
    >>> local_response_norm(jnp.array([3.0, 4.0]), size=2, alpha=2.0, beta=0.5, k=0.0).tolist()
    [1.0, 0.800000011920929]
    """
    wide = x.astype(wider_type(floating_type(x), jnp.float32))
    before = [(0, 0)] * (x.ndim - 1) + [(size // 2, (size - 1) // 2)]
    window = (1,) * (x.ndim - 1) + (size,)
    squares = lax.reduce_window(
        jnp.square(wide), wide.dtype.type(0), lax.add, window, (1,) * x.ndim, before
    )
    alpha, beta, k = (jnp.asarray(number, wide.dtype) for number in (alpha, beta, k))
    return (wide * jnp.power(k + alpha / size * squares, -beta)).astype(floating_type(x))


def spectral_norm(
    w: jax.Array, u: jax.Array, steps: int = 1, eps: float = 1e-12
) -> tuple[jax.Array, jax.Array]:
    """The largest singular value of w, all axes but the last by the last, and the next u.

    `steps` rounds of power iteration start from u (n,), an estimate of the right singular vector:
    v = w u / |w u|, u = w^T v / |w^T v|; the value is v^T w u, differentiable in w with u and v
    held fixed. A u of zeros starts from a fixed direction. Both in at least float32.

    Reference: Miyato et al., Spectral normalization for generative adversarial networks, 2018.

    >>> import jax.numpy as jnp
    >>> value, u = spectral_norm(jnp.diag(jnp.array([3.0, 1.0])), jnp.zeros(2), steps=20)
    >>> round(float(value), 4)
    3.0
    """
    matrix = w.astype(wider_type(w.dtype, jnp.float32)).reshape(-1, w.shape[-1])
    still, u = lax.stop_gradient(matrix), lax.stop_gradient(u).astype(matrix.dtype)
    start = jnp.cos(jnp.arange(u.size, dtype=u.dtype))  # no direction that weights have by design
    u = jnp.where(jnp.any(u != 0), u, start)

    def unit(vector: jax.Array) -> jax.Array:
        length = jnp.sqrt(jnp.sum(jnp.square(vector)))
        return vector / jnp.maximum(length, jnp.asarray(eps, vector.dtype))

    def step(_: Any, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        v = unit(jnp.dot(still, pair[0], precision="highest"))
        return unit(jnp.dot(v, still, precision="highest")), v

    first = (u, jnp.zeros(matrix.shape[0], u.dtype))
    u, v = step(0, first) if steps == 1 else lax.fori_loop(0, steps, step, first)
    return jnp.dot(v, jnp.dot(matrix, u, precision="highest")), u


def weight_norm(v: jax.Array, g: jax.Array) -> jax.Array:
    """w = g * v / |v|, with |v| over all axes but the last and g (v.shape[-1],); in the type of v.

    Where v is 0, w is 0.

    Reference: Salimans and Kingma, Weight normalization, 2016.

    >>> import jax.numpy as jnp
    >>> weight_norm(jnp.array([[3.0], [4.0]]), jnp.array([10.0])).tolist()
    [[6.0], [8.0]]
    """
    wide = v.astype(wider_type(v.dtype, jnp.float32))
    squares = jnp.sum(jnp.square(wide), tuple(range(v.ndim - 1)))
    scale = g.astype(wide.dtype) * lax.rsqrt(jnp.where(squares > 0, squares, 1))
    return (wide * along_axis(scale, v.ndim, -1)).astype(v.dtype)
