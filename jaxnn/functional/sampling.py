"""Sampling of the next token: transforms of logits, which compose, and their validation.

    jax.random.categorical(key, top_p(top_k(with_temperature(logits, 0.8), 40), 0.95))

Logits have shape (..., vocabulary) and any floating type, which the result keeps. Excluded tokens
get -infinity. `temperature`, `k`, and `p` may be traced.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..validation import Accepts

_TEMPERATURE = Accepts(
    "a number >= 0",
    lambda v: bool(0 <= v < math.inf),
    hint="0 takes the most probable token",
    traced=True,
)
_TOP_K = None | Accepts(
    "an int >= 1, the number of tokens to keep",
    lambda v: isinstance(v, int | np.integer) and v is not True and int(v) >= 1,
    traced=True,
)
_TOP_P = None | Accepts("a probability in (0, 1]", lambda v: bool(0 < v <= 1), traced=True)


def with_temperature(logits: jax.Array, temperature: Any) -> jax.Array:
    """Divide logits by a temperature.

    The result is logits / temperature: sharper below 1, flatter above 1. At 0 only the largest
    logit is kept (the first one if several are equal), so a draw from the result is `argmax`.

    Args:
        logits: Floating array of shape (..., vocabulary).
        temperature: Scalar >= 0.

    Returns:
        Logits of the shape and type of `logits`.

    Reference: Ackley, Hinton, and Sejnowski, A learning algorithm for Boltzmann machines, 1985.

    >>> logits = jnp.array([1.0, 3.0, 3.0])
    >>> with_temperature(logits, 2.0).tolist(), with_temperature(logits, 0.0).tolist()
    ([0.5, 1.5, 1.5], [-inf, 3.0, -inf])
    """
    temperature = jnp.asarray(temperature, logits.dtype)
    greatest = jnp.argmax(logits, -1, keepdims=True)
    tokens = jax.lax.broadcasted_iota(greatest.dtype, logits.shape, logits.ndim - 1)
    greedy = jnp.where(tokens == greatest, logits, jnp.asarray(-jnp.inf, logits.dtype))
    warm = logits / jnp.where(temperature > 0, temperature, jnp.ones_like(temperature))
    return jnp.where(temperature > 0, warm, greedy)


def top_k(logits: jax.Array, k: Any) -> jax.Array:
    """Keep the k largest logits, and any equal to the smallest of them.

    Args:
        logits: Floating array of shape (..., vocabulary).
        k: Integer >= 1. A value larger than the vocabulary keeps all logits.

    Returns:
        Logits of the shape and type of `logits`; the others are -infinity.

    Reference: Fan, Lewis, and Dauphin, Hierarchical neural story generation, 2018.

    >>> top_k(jnp.array([1.0, 4.0, 2.0, 3.0]), 2).tolist()
    [-inf, 4.0, -inf, 3.0]
    """
    place = jnp.minimum(jnp.asarray(k, jnp.int32), logits.shape[-1]) - 1
    least = jnp.take(jnp.sort(logits, -1, descending=True), place, axis=-1)[..., None]
    return jnp.where(logits >= least, logits, jnp.asarray(-jnp.inf, logits.dtype))


def top_p(logits: jax.Array, p: Any) -> jax.Array:
    """Keep the smallest set of most probable tokens with total probability at least p.

    Tokens as probable as the last one of the set are kept too. The most probable token is always
    kept. Probabilities are summed in at least float32.

    Args:
        logits: Floating array of shape (..., vocabulary).
        p: Scalar in (0, 1].

    Returns:
        Logits of the shape and type of `logits`; the others are -infinity.

    Reference: Holtzman et al., The curious case of neural text degeneration, 2020.

    >>> logits = jnp.log(jnp.array([0.125, 0.5, 0.25, 0.125]))
    >>> jnp.exp(top_p(logits, 0.7)).tolist()
    [0.0, 0.5, 0.25, 0.0]
    """
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    p = jnp.asarray(p, wide.dtype)
    falling = jnp.sort(wide, -1, descending=True)
    before = jnp.cumsum(jax.nn.softmax(falling, -1), -1)[..., :-1]
    # A token is kept if the sum before it is below p. If p = 1, rounding must not drop a token.
    kept = jnp.concatenate([jnp.ones_like(before[..., :1], bool), (before < p) | (p >= 1)], -1)
    least = jnp.min(jnp.where(kept, falling, jnp.inf), -1, keepdims=True)
    return jnp.where(wide >= least, logits, jnp.asarray(-jnp.inf, logits.dtype))


def check_sampling(temperature: Any, k: Any = None, p: Any = None) -> None:
    """Validate the settings of a draw. Traced values are not checked.

    Args:
        temperature: Finite number >= 0.
        k: Integer >= 1, or None.
        p: Number in (0, 1], or None.

    Raises:
        ValueError: If a concrete value is out of range.

    >>> check_sampling(-1.0)
    Traceback (most recent call last):
    ValueError: temperature must be a number >= 0, got -1.0; 0 takes the most probable token
    """
    _TEMPERATURE(temperature, "temperature")
    _TOP_K(k, "top_k")
    _TOP_P(p, "top_p")
