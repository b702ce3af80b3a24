"""Diagonal linear recurrences, computed by an associative scan."""

import jax
import jax.numpy as jnp
from jax import lax


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
