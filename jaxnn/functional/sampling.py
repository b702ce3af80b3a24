"""From logits to the next token: maps of logits to logits, which compose, and a draw.

    jax.random.categorical(key, top_p(top_k(with_temperature(logits, 0.8), 40), 0.95))

Logits are (..., vocabulary) of any floating type and stay so; a token that is ruled out gets
-infinity. Temperatures, counts and shares may be traced.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..fields import is_traced


def with_temperature(logits: jax.Array, temperature: Any) -> jax.Array:
    """logits / temperature: below 1 sharper, above 1 flatter; at 0 the greatest logit alone.

    Of several greatest logits the first stays at 0, so that the draw that follows is `argmax`.

    Reference: Ackley, Hinton and Sejnowski, A learning algorithm for Boltzmann machines, 1985.

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
    """The k greatest logits, and those equal to the last of them; -infinity for all others.

    A k above the vocabulary keeps everything.

    Reference: Fan, Lewis and Dauphin, Hierarchical neural story generation, 2018.

    >>> top_k(jnp.array([1.0, 4.0, 2.0, 3.0]), 2).tolist()
    [-inf, 4.0, -inf, 3.0]
    """
    place = jnp.minimum(jnp.asarray(k, jnp.int32), logits.shape[-1]) - 1
    least = jnp.take(jnp.sort(logits, -1, descending=True), place, axis=-1)[..., None]
    return jnp.where(logits >= least, logits, jnp.asarray(-jnp.inf, logits.dtype))


def top_p(logits: jax.Array, p: Any) -> jax.Array:
    """The fewest most probable tokens whose probabilities sum to at least p; -infinity for others.

    Tokens as probable as the last of them stay too, and the most probable one always does. The sum
    is taken in at least float32.

    Reference: Holtzman et al., The curious case of neural text degeneration, 2020.

    >>> logits = jnp.log(jnp.array([0.125, 0.5, 0.25, 0.125]))
    >>> jnp.exp(top_p(logits, 0.7)).tolist()
    [0.0, 0.5, 0.25, 0.0]
    """
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    p = jnp.asarray(p, wide.dtype)
    falling = jnp.sort(wide, -1, descending=True)
    before = jnp.cumsum(jax.nn.softmax(falling, -1), -1)[..., :-1]
    # The sum before a token decides; p = 1 must not be lost to rounding of the sum.
    kept = jnp.concatenate([jnp.ones_like(before[..., :1], bool), (before < p) | (p >= 1)], -1)
    least = jnp.min(jnp.where(kept, falling, jnp.inf), -1, keepdims=True)
    return jnp.where(wide >= least, logits, jnp.asarray(-jnp.inf, logits.dtype))


def check_sampling(temperature: Any, k: Any = None, p: Any = None) -> None:
    """Raise ValueError for a temperature, k or p out of range, where it is known.

    >>> check_sampling(-1.0)
    Traceback (most recent call last):
    ValueError: temperature is a number >= 0, where 0 takes the most probable token; got -1.0
    """
    if not is_traced(temperature) and not 0 <= temperature < math.inf:
        raise ValueError(
            "temperature is a number >= 0, where 0 takes the most probable token; got "
            f"{temperature!r}"
        )
    if k is not None and not is_traced(k):
        whole = isinstance(k, int | np.integer) and not isinstance(k, bool)
        if not whole or k < 1:
            raise ValueError(f"top_k is an int >= 1, the number of tokens left; got {k!r}")
    if p is not None and not is_traced(p) and not 0 < p <= 1:
        raise ValueError(f"top_p is a share of the probability, in (0, 1]; got {p!r}")
