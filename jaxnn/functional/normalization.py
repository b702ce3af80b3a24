"""Normalization.

Statistics are computed in at least float32. Variances take two passes, the mean first and then the
mean square of the difference, because the mean of squares minus the squared mean loses all digits
if the mean is large.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .linear import along_axis, floating_type, wider_type
from .segments import packed_positions

Axes = int | tuple[int, ...]


def moments(
    x: jax.Array, axis: Axes, axis_name: Any = None, real: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Return the mean and variance (divided by n) over `axis`, in at least float32.

    Args:
        x: Array of any shape.
        axis: Axes to reduce; they are kept with size 1.
        axis_name: Name of a mapped axis (of devices or lanes) to reduce over, too. Default: None.
        real: Booleans that broadcast to x, False for elements to leave out. Without any other
            element, both are 0. Default: None, all elements count.
    """
    wide = x.astype(wider_type(x.dtype, jnp.float32))
    if real is None:
        return _moments(wide, axis, axis_name, True)
    count = _sum(jnp.broadcast_to(real, x.shape).astype(wide.dtype), axis, axis_name)
    divisor = jnp.maximum(count, 1)
    mean = _sum(jnp.where(real, wide, 0), axis, axis_name) / divisor
    return mean, _sum(jnp.where(real, jnp.square(wide - mean), 0), axis, axis_name) / divisor


def _sum(x: jax.Array, axis: Axes, axis_name: Any) -> jax.Array:
    total = jnp.sum(x, axis, keepdims=True)
    return total if axis_name is None else lax.psum(total, axis_name)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _moments(x: jax.Array, axis: Axes, axis_name: Any, alone: bool) -> tuple[jax.Array, jax.Array]:
    mean = _mean(x, axis, axis_name)
    # Without a derivative, x - mean is used here and in the result; without the barrier, XLA's CPU
    # compiler would write it to memory once for both.
    center = lax.optimization_barrier(mean) if alone else mean
    return mean, _mean(jnp.square(x - center), axis, axis_name)


@_moments.defjvp
def _(axis: Axes, axis_name: Any, alone: bool, primals: Any, tangents: Any) -> Any:
    """Return the derivative; its part through the mean is a sum of 0, and is omitted."""
    del alone
    (x,), (dx,) = primals, tangents
    mean, variance = _moments(x, axis, axis_name, False)
    dvariance = _mean(2 * ((x - mean) * dx), axis, axis_name)
    return (mean, variance), (_mean(dx, axis, axis_name), dvariance)


def _mean(x: jax.Array, axis: Axes, axis_name: Any) -> jax.Array:
    mean = jnp.mean(x, axis, keepdims=True)
    return mean if axis_name is None else lax.pmean(mean, axis_name)


def standardize(
    x: jax.Array, mean: jax.Array, variance: jax.Array, eps: Any, scale: jax.Array | None = None
) -> jax.Array:
    """Return `(x - mean) / sqrt(variance + eps) * scale`, in the wider of both types.

    Args:
        x: Array of any shape.
        mean: Array that broadcasts to x.
        variance: Array that broadcasts to x.
        eps: Added to the variance.
        scale: Array that broadcasts to the statistics. Default: None, for no scale.
    """
    x, mean, variance = (a.astype(wider_type(x.dtype, mean.dtype)) for a in (x, mean, variance))
    factor = lax.rsqrt(variance + jnp.asarray(eps, x.dtype))
    return _centered(x, mean, factor if scale is None else factor * scale.astype(x.dtype))


@jax.custom_jvp
def _centered(x: jax.Array, mean: jax.Array, factor: jax.Array) -> jax.Array:
    return (x - mean) * factor


@_centered.defjvp
def _(primals: Any, tangents: Any) -> Any:
    """dmean * factor has the statistics' shape, so the backward pass sums before it multiplies, and
    that sum is also the gradient of a bias."""
    (x, mean, factor), (dx, dmean, dfactor) = primals, tangents
    centered = x - mean
    return centered * factor, dx * factor - dmean * factor + centered * dfactor


def running(
    state: dict[str, jax.Array], batch: dict[str, jax.Array], momentum: Any
) -> dict[str, jax.Array]:
    """Return `momentum * state + (1 - momentum) * batch` for each statistic.

    Args:
        state: Running statistics, each (n,), and the `count` of batches if the momentum is None.
        batch: Statistics of a batch.
        momentum: Weight of the old statistics. None stands for count / (count + 1), which gives all
            batches equal weights.

    >>> import jax.numpy as jnp
    >>> state = {"mean": jnp.array([2.0]), "count": jnp.array(3)}
    >>> found = running(state, {"mean": jnp.array([6.0])}, None)
    >>> found["mean"].tolist(), int(found["count"])
    ([3.0], 4)
    """
    new = {}
    if momentum is None:
        count = state["count"]
        new, momentum = {"count": count + 1}, count / (count + 1)
    for name, one in batch.items():
        old = state[name]
        weight, one = jnp.asarray(momentum, old.dtype), one.astype(old.dtype)
        mean = weight * old + (1.0 - weight) * one
        # 0 * NaN is NaN, so at 0 and 1 the statistic of weight 0 is left out.
        new[name] = jnp.where(weight == 0, one, jnp.where(weight == 1, old, mean))
    return new


def layer_norm(x: jax.Array, axis: Axes = -1, eps: float = 1e-5) -> jax.Array:
    """Standardize x over `axis`: `y = (x - mean) / sqrt(variance + eps)`.

    Args:
        x: Array of any shape.
        axis: Axis or axes of the statistics. Default: -1.
        eps: Added to the variance. Default: 1e-5.

    Returns:
        Array of the shape of x, in its floating type.

    Reference: Ba, Kiros, and Hinton, Layer normalization, 2016.

    >>> import jax.numpy as jnp
    >>> layer_norm(jnp.array([1.0, 3.0]), eps=0.0).tolist()
    [-1.0, 1.0]
    """
    return standardize(x, *moments(x, axis), eps).astype(floating_type(x))


def rms_norm(x: jax.Array, axis: Axes = -1, eps: float = 1e-6) -> jax.Array:
    """Divide x by its root mean square over `axis`: `y = x / sqrt(mean(x**2) + eps)`.

    Args:
        x: Array of any shape.
        axis: Axis or axes of the mean. Default: -1.
        eps: Added to the mean square. Default: 1e-6.

    Returns:
        Array of the shape of x, in its floating type.

    Reference: Zhang and Sennrich, Root mean square layer normalization, 2019.

    >>> import jax.numpy as jnp
    >>> rms_norm(jnp.array([3.0, 3.0]), eps=0.0).tolist()
    [1.0, 1.0]
    """
    wide = x.astype(wider_type(x.dtype, jnp.float32))
    square = jnp.mean(jnp.square(wide), axis, keepdims=True)
    return (wide * lax.rsqrt(square + jnp.asarray(eps, wide.dtype))).astype(floating_type(x))


def unit_norm(x: jax.Array, axis: Axes = -1, eps: Any = 1e-12) -> jax.Array:
    """Divide x by its Euclidean norm over `axis`: `y = x / max(|x|, eps)`.

    Args:
        x: Array of any shape.
        axis: Axis or axes of the norm. Default: -1.
        eps: Lower bound of the norm. Default: 1e-12.

    Returns:
        Array of the shape of x, in its floating type.

    >>> import jax.numpy as jnp
    >>> unit_norm(jnp.array([0.0, 2.0])).tolist()
    [0.0, 1.0]
    """
    wide = x.astype(wider_type(floating_type(x), jnp.float32))
    square = jnp.sum(jnp.square(wide), axis, keepdims=True)
    # The root of 0 has an infinite slope; below the bound the factor is a constant.
    least = jnp.square(jnp.asarray(eps, wide.dtype))
    return (wide * lax.rsqrt(jnp.maximum(square, least))).astype(floating_type(x))


def group_norm(
    x: jax.Array, groups: int, spatial: int, eps: float = 1e-5
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """Standardize x over spatial axes and groups of features: `y = (x - mean) / sqrt(var + eps)`.

    Args:
        x: Array of shape `(..., *window, features)`.
        groups: Number of groups of neighboring features.
        spatial: Number of axes in `window`.
        eps: Added to the variance. Default: 1e-5.

    Returns:
        Array of the shape of x, in at least float32; the means and the variances of the examples,
        (examples, groups); and the number of examples.

    Reference: Wu and He, Group normalization, 2018.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([1.0, 3.0, 10.0, 30.0])
    >>> y, mean, _, count = group_norm(x, groups=2, spatial=0, eps=0.0)
    >>> y.tolist(), mean.tolist(), count
    ([-1.0, 1.0, -1.0, 1.0], [[2.0, 20.0]], 1)
    """
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    axes = (*range(split.ndim - 2 - spatial, split.ndim - 2), split.ndim - 1)
    mean, var = moments(split, axes)
    y = standardize(split, mean, var, eps).reshape(x.shape)
    rows = mean.size // groups
    return y, mean.reshape(rows, groups), var.reshape(rows, groups), rows


def segment_group_norm(
    x: jax.Array, groups: int, segment_ids: jax.Array, eps: float = 1e-5
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """Standardize x over each packed sequence and group of features.

    Args:
        x: Array of shape `(..., T, *window, features)`.
        groups: Number of groups of neighboring features.
        segment_ids: Integers (..., T): 0 for padding, which has no effect, and otherwise the number
            of the packed sequence.
        eps: Added to the variance. Default: 1e-5.

    Returns:
        Array of the shape of x, in at least float32, 0 at padding; the means and the variances of
        the sequence of each position, (positions, groups), 0 at padding; and the number of
        positions that are not padding.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([1.0, 3.0, 10.0, 30.0, 9.0])[:, None]
    >>> y, mean, _, count = segment_group_norm(x, 1, jnp.array([1, 1, 2, 2, 0]), eps=0.1)
    >>> y.round(1).ravel().tolist(), mean.ravel().tolist(), int(count)
    ([-1.0, 1.0, -1.0, 1.0, 0.0], [2.0, 2.0, 20.0, 20.0, 0.0], 4)
    """
    *batch, steps = segment_ids.shape
    n = x.shape[-1] // groups
    split = x.astype(wider_type(x.dtype, jnp.float32)).reshape(
        math.prod(batch), steps, -1, groups, n
    )
    place = packed_positions(segment_ids)[0].sequence.reshape(-1, steps)
    real = (place != 0)[..., None, None, None]
    split = jnp.where(real, split, 0)

    def means(a: jax.Array) -> jax.Array:
        """Return the means of (..., T, window, groups, n) over each sequence, at its positions."""
        at_steps = jnp.mean(a, (2, 4))  # (rows, T, groups)
        ones = jnp.ones((*at_steps.shape[:2], 1), a.dtype)
        both = jnp.concatenate([at_steps, ones], -1)
        sums = jax.vmap(lambda a, i: jax.ops.segment_sum(a, i, steps + 1)[i])(both, place)
        return (sums[..., :-1] / sums[..., -1:])[:, :, None, :, None]

    mean = means(split)
    var = means(jnp.square(split - mean))
    y = standardize(split, mean, var, eps)
    each = (math.prod(batch) * steps, groups)
    y = jnp.where(real, y, 0).reshape(x.shape)
    return y, mean.reshape(each), var.reshape(each), jnp.sum(real, dtype=jnp.int32)


def local_response_norm(x: jax.Array, size: int, alpha: Any, beta: Any, k: Any) -> jax.Array:
    """Divide features by a power of their neighbors' squares.

    `y = x / (k + alpha / size * s)**beta`, and s is the sum of squares over `size` neighboring
    features of the last axis, size // 2 of them before the feature.

    Args:
        x: Array of shape (..., n).
        size: Number of neighboring features.
        alpha: Factor of the mean square.
        beta: Exponent.
        k: Constant added to the scaled sum.

    Returns:
        Array of the shape of x, in its floating type.

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
    """Return the largest singular value of w, and the next estimate of its right singular vector.

    Each step of power iteration computes v = w u / |w u| and u = w^T v / |w^T v|. The value is
    v^T w u, differentiable in w with u and v constant.

    Args:
        w: Array of shape (..., n), used as a matrix of all axes but the last by the last.
        u: Estimate of the right singular vector, of shape (n,). Zeros start from a fixed
            direction.
        steps: Number of steps. Default: 1.
        eps: Lower bound of the norms to divide by. Default: 1e-12.

    Returns:
        A scalar and a vector (n,), both in at least float32.

    Reference: Miyato et al., Spectral normalization for generative adversarial networks, 2018.

    >>> import jax.numpy as jnp
    >>> value, u = spectral_norm(jnp.diag(jnp.array([3.0, 1.0])), jnp.zeros(2), steps=20)
    >>> round(float(value), 4)
    3.0
    """
    matrix = w.astype(wider_type(w.dtype, jnp.float32)).reshape(-1, w.shape[-1])
    still, u = lax.stop_gradient(matrix), lax.stop_gradient(u).astype(matrix.dtype)
    start = jnp.cos(jnp.arange(u.size, dtype=u.dtype))  # a direction unlikely to occur in weights
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
    """Weight normalization: `w = g * v / |v|`, with the norm over all axes but the last.

    Args:
        v: Directions, of shape (..., n). A direction of zeros gives zeros.
        g: Lengths, of shape (n,).

    Returns:
        Array of the shape and type of v.

    Reference: Salimans and Kingma, Weight normalization, 2016.

    >>> import jax.numpy as jnp
    >>> weight_norm(jnp.array([[3.0], [4.0]]), jnp.array([10.0])).tolist()
    [[6.0], [8.0]]
    """
    wide = v.astype(wider_type(v.dtype, jnp.float32))
    squares = jnp.sum(jnp.square(wide), tuple(range(v.ndim - 1)))
    scale = g.astype(wide.dtype) * lax.rsqrt(jnp.where(squares > 0, squares, 1))
    return (wide * along_axis(scale, v.ndim, -1)).astype(v.dtype)
