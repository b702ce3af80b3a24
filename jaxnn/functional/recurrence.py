"""Recurrent cells as functions of one step, and the scan over a sequence.

A step has three parts: the input's contribution to the gates, whose matrix products are computed
for all steps before the scan; the hidden state's contribution, one product per step that is split
by gate afterwards; and the elementwise rest, which is defined here. The derivatives are written out
because they store fewer arrays for the backward pass than automatic differentiation: one factor for
each tangent.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import sigmoid

from ..arrays import widened
from .convolution import looped
from .segments import Count, packed_positions


@jax.custom_jvp
def lstm_step(
    c: jax.Array, i: jax.Array, f: jax.Array, g: jax.Array, o: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Elementwise part of an LSTM step: `c' = f * c + i * g`, `h' = o * tanh(c')`.

    A sigmoid is applied to i, f, and o and a tanh to g first. All arrays have one shape.

    Returns:
        The pair (c', h').

    >>> import jax.numpy as jnp
    >>> c, h = lstm_step(jnp.array(2.0), *jnp.zeros(4))
    >>> round(float(c), 4), round(float(h), 4)
    (1.0, 0.3808)
    """
    c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
    return c, sigmoid(o) * jnp.tanh(c)


@lstm_step.defjvp
def _(primals: Any, tangents: Any) -> Any:
    c, i, f, g, o = primals
    dc, di, df, dg, do = tangents
    i, f, o, g = sigmoid(i), sigmoid(f), sigmoid(o), jnp.tanh(g)
    new = f * c + i * g
    t = jnp.tanh(new)
    dnew = f * dc + (c * f * (1 - f)) * df + (g * i * (1 - i)) * di + (i * (1 - g * g)) * dg
    return (new, o * t), (dnew, (o * (1 - t * t)) * dnew + (t * o * (1 - o)) * do)


@jax.custom_jvp
def gru_step(h: jax.Array, r: jax.Array, k: jax.Array, z: jax.Array, u: jax.Array) -> jax.Array:
    """Elementwise part of a GRU step: `h' = (1 - k) * n + k * h`, with `n = tanh(z + r * u)`.

    A sigmoid is applied to r and k first. z is the contribution of the input and u that of the
    hidden state. All arrays have one shape.

    >>> import jax.numpy as jnp
    >>> float(gru_step(jnp.array(2.0), *jnp.zeros(4)))
    1.0
    """
    n = jnp.tanh(z + sigmoid(r) * u)
    return n + sigmoid(k) * (h - n)


@gru_step.defjvp
def _(primals: Any, tangents: Any) -> Any:
    h, r, k, z, u = primals
    dh, dr, dk, dz, du = tangents
    r, k = sigmoid(r), sigmoid(k)
    n = jnp.tanh(z + r * u)
    slope = (1 - k) * (1 - n * n)
    new = k * dh + ((h - n) * k * (1 - k)) * dk
    return n + k * (h - n), new + slope * dz + (slope * r) * du + (slope * u * r * (1 - r)) * dr


@jax.custom_jvp
def minimal_gated_step(h: jax.Array, f: jax.Array, z: jax.Array, u: jax.Array) -> jax.Array:
    """Elementwise part of a minimal gated step: `h' = (1 - f) * n + f * h`.

    `n = tanh(z + f * u)`. A sigmoid is applied to f first. z is the contribution of the input and u
    that of the hidden state. All arrays have one shape.

    >>> import jax.numpy as jnp
    >>> float(minimal_gated_step(jnp.array(2.0), *jnp.zeros(3)))
    1.0
    """
    f = sigmoid(f)
    n = jnp.tanh(z + f * u)
    return n + f * (h - n)


@minimal_gated_step.defjvp
def _(primals: Any, tangents: Any) -> Any:
    h, f, z, u = primals
    dh, df, dz, du = tangents
    f = sigmoid(f)
    n = jnp.tanh(z + f * u)
    slope = (1 - f) * (1 - n * n)
    new = f * dh + slope * dz + (slope * f) * du
    return n + f * (h - n), new + ((slope * u + h - n) * f * (1 - f)) * df


class Marks(NamedTuple):
    """Booleans (..., T): `real` is False at padding; `begins` is True at the start of a sequence
    that follows another one."""

    real: jax.Array
    begins: jax.Array


def marks(segment_ids: jax.Array, last: jax.Array, *, reverse: bool = False) -> tuple[Marks, Any]:
    """Return the marks of `segment_ids` (..., T), and the last segment after them.

    `last` (...) is each row's last segment before them. 0 marks padding; in `last` it means that no
    segment has begun.

    >>> import jax.numpy as jnp
    >>> found, last = marks(jnp.array([0, 1, 0, 1, 2]), jnp.array(0))
    >>> found.real.astype(int).tolist(), found.begins.astype(int).tolist(), int(last)
    ([0, 1, 0, 1, 1], [0, 0, 0, 0, 1], 2)
    """
    if reverse:
        segment_ids = jnp.flip(segment_ids, -1)
    begun = (last != 0).astype(jnp.int32)
    found, count = packed_positions(segment_ids, Count(last, begun, begun))
    real = found.sequence != 0
    both = Marks(real, real & (found.position == 0) & (found.sequence > 1))
    return (Marks(*(jnp.flip(m, -1) for m in both)) if reverse else both), count.segment


def select_rows(mask: jax.Array, one: Any, other: Any) -> Any:
    """Select `one` if the mask (batch...) is true, else `other`, in each leaf (batch..., ...).

    >>> import jax.numpy as jnp
    >>> select_rows(jnp.array([True, False]), jnp.ones((2, 1)), jnp.zeros((2, 1))).tolist()
    [[1.0], [0.0]]
    """
    return jax.tree.map(
        lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim)), a, b),
        one,
        other,
    )


Step = Callable[[Any, Any], tuple[Any, Any, Any]]


def scan(
    step: Step, carry: Any, start: Any, xs: Any, marks: Marks | None, reverse: bool
) -> tuple[Any, Any, Any]:
    """Scan (carry, y, extra) = step(carry, x) over the leading axis of `xs`; stack y and extra.

    `marks` have the same leading axis. At padding the carry is unchanged and y is 0. At the start
    of a sequence that follows another one, the carry is reset to `start`.
    """

    def body(carry: Any, at: Any) -> Any:
        x, here = at
        if here is None:
            new, y, extra = step(carry, x)
            return new, (y, extra)
        carry = select_rows(here.begins, start, carry)
        new, y, extra = step(carry, x)
        nothing = jax.tree.map(jnp.zeros_like, y)
        return select_rows(here.real, new, carry), (select_rows(here.real, y, nothing), extra)

    with looped():
        carry, (y, extra) = lax.scan(body, carry, (xs, marks), reverse=reverse)
    return carry, y, extra


Products = tuple[jax.Array, ...]
Recur = Callable[[Any, jax.Array], Products]
Gates = Callable[..., tuple[Any, jax.Array]]


def gate_sums(z: Products, u: Products, apart: bool) -> Products:
    """Sum the contributions of the input and the hidden state to each gate.

    If `apart`, the last two are returned unsummed.

    >>> gate_sums((1, 2), (10, 20), apart=False), gate_sums((1, 2), (10, 20), apart=True)
    ((11, 22), (11, 2, 20))
    """
    if apart:
        return (*gate_sums(z[:-1], u[:-1], False), z[-1], u[-1])
    return tuple(a + b for a, b in zip(z, u, strict=True))


@functools.partial(jax.custom_jvp[Any], nondiff_argnums=(0, 1, 2, 3, 4))
def unroll(
    recur: Recur,
    gates: Gates,
    apart: bool,
    batch: int,
    reverse: bool,
    params: Any,
    carry: dict[str, Any],
    start: dict[str, Any],
    z: Products,
    marks: Marks | None,
    factor: jax.Array | None = None,
) -> tuple[Any, Any]:
    """Scan the steps of a cell over the leading axis of z.

    A step is `carry, y = gates(carry, *joined(z_t, recur(params, carry["h"] * factor)))`.

    Returns the last carry and y of all steps. The carry has `batch` batch axes. `recur` must be
    linear in `params` and accept any number of leading axes. The derivative of the parameters is
    then one product after the scan; the derivative of `lax.scan` would add one product per step.
    """
    given = z, None
    return _unroll(recur, gates, apart, reverse, params, carry, start, given, marks, factor)[:2]


@unroll.defjvp
def _(
    recur: Recur,
    gates: Gates,
    apart: bool,
    batch: int,
    reverse: bool,
    primals: Any,
    tangents: Any,
) -> tuple[Any, Any]:
    params, carry, start, z, marks, factor = primals
    dparams, dcarry, _, dz, _, _ = tangents

    def run(carry: Any, given: Any) -> Any:
        return _unroll(recur, gates, apart, reverse, params, carry, start, given, marks, factor)

    nudge = jnp.zeros_like(z[-1]) if apart else None
    (last, y, hidden), derivative = jax.linearize(run, carry, (z, nudge))
    # Batch axes come first, so that they remain sharded if a convolution merges axes.
    # Wide, since the fast form of a product with few rows and narrow weights has no transpose.
    du = recur(widened(dparams), jnp.moveaxis(hidden, 0, batch))
    du = tuple(jnp.moveaxis(one, batch, 0) for one in du)
    *dz, dnudge = gate_sums(dz, du, True) if apart else (*gate_sums(dz, du, False), None)
    dlast, dy, _ = derivative(dcarry, (tuple(dz), dnudge))
    return (last, y), (dlast, dy)


def _unroll(
    recur: Recur,
    gates: Gates,
    apart: bool,
    reverse: bool,
    params: Any,
    carry: Any,
    start: Any,
    given: tuple[Products, jax.Array | None],
    marks: Marks | None,
    factor: jax.Array | None,
) -> tuple[Any, Any, Any]:
    """`unroll` that also returns the hidden states before each step, times the factor.

    `given` is the pair of z and a term that is added to the hidden state's last product.
    """

    def step(carry: Any, at: Any) -> Any:
        z, nudge = at
        h = carry["h"] if factor is None else carry["h"] * factor
        u = recur(params, h)
        if nudge is not None:
            u = (*u[:-1], _nudged(u[-1], nudge))
        return *gates(carry, *gate_sums(z, u, apart)), h

    return scan(step, carry, start, given, marks, reverse)


@jax.custom_jvp
def _nudged(u: jax.Array, nudge: jax.Array) -> jax.Array:
    """u + nudge for a nudge of 0: no computation, except in derivatives."""
    return u


@_nudged.defjvp
def _(primals: Any, tangents: Any) -> tuple[Any, Any]:
    return primals[0], tangents[0] + tangents[1]


def linear_recurrence(
    a: jax.Array,
    b: jax.Array,
    h: jax.Array | None = None,
    *,
    reverse: bool = False,
    resets: bool = False,
) -> jax.Array:
    """Compute `h_t = a_t * h_{t-1} + b_t` over the leading axis.

    The scan takes O(log T) steps, each over the whole sequence at once. It is stable if |a| <= 1,
    because it forms only products of a and sums of their multiples of b.

    Args:
        a: Real or complex array of shape (T, ...); its other axes may have size 1.
        b: Array of shape (T, ...), of the type and rank of `a`.
        h: State before the first step, of shape (...). Default: zeros.
        reverse: If True, h_t is computed from h_{t+1}. Default: False.
        resets: If True, an a_t of 0 starts a new sequence: h_{t-1} has no effect even if it is NaN
            or infinite, and a_t has no gradient. Default: False.

    Returns:
        The states h_t, with the shape and type of `b`.

    Reference: Martin and Cundy, Parallelizing linear recurrent neural nets over sequence length,
    2018.

    >>> import jax.numpy as jnp
    >>> linear_recurrence(jnp.array([0.5, 0.5, 0.0]), jnp.array([1.0, 1.0, 3.0])).tolist()
    [1.0, 1.5, 3.0]
    """

    def decayed(a: jax.Array, b: jax.Array) -> jax.Array:
        return a * (jnp.where(a == 0, jnp.zeros_like(b), b) if resets else b)  # 0 * NaN is NaN

    if h is not None:
        first = -1 if reverse else 0
        b = b.at[first].add(decayed(a[first], h))

    def join(one: tuple[jax.Array, jax.Array], two: tuple[jax.Array, jax.Array]) -> tuple:
        return two[0] * one[0], decayed(two[0], one[1]) + two[1]

    return lax.associative_scan(join, (a, b), reverse=reverse)[1]


def decay(log_rate: jax.Array, log_phase: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return `a = exp(-exp(log_rate) + i exp(log_phase))` and `sqrt(1 - |a|^2)`.

    |a| is below 1. Multiplying the input by the second value keeps the state at unit variance for
    inputs of unit variance. It is computed without forming 1 - |a|^2, which would lose all digits
    for a slow decay.

    Args:
        log_rate: Real floating array (...), the logarithm of the decay rate.
        log_phase: Real floating array (...), the logarithm of the angle in radians.

    Returns:
        A complex array `a` and a real array, both of shape (...).

    >>> import jax.numpy as jnp
    >>> a, scale = decay(jnp.log(jnp.log(2.0)), jnp.array(-30.0))
    >>> round(float(a.real), 6), round(float(scale**2), 6)
    (0.5, 0.75)
    """
    rate = jnp.exp(log_rate)
    a = jnp.exp(lax.complex(-rate, jnp.exp(log_phase)))
    return a, jnp.sqrt(-jnp.expm1(-2 * rate))
