"""Position encodings: sinusoidal, rotary with its scaling rules, and ALiBi.

A rotary embedding rotates pair i of a head's features by the angle position * frequencies[i]. The
scaling rules for sequences longer than those of training change the frequencies.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from .linear import floating_type, wider_type


def sinusoidal(positions: jax.Array, features: int, base: Any = 10000.0) -> jax.Array:
    """Sinusoidal position encoding.

    `y[2i] = sin(p / base**(2i / features))`, and `y[2i + 1]` is the cosine of the same angle.

    Args:
        positions: Integers p of any shape.
        features: Number of features.
        base: Ratio of the longest to the shortest wavelength. Default: 10000.

    Returns:
        float32 array of shape (..., features).

    Reference: Vaswani et al., Attention is all you need, 2017, section 3.5.

    >>> import jax.numpy as jnp
    >>> sinusoidal(jnp.array([0, 1]), 4).round(3).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.8410000205039978, 0.5400000214576721, 0.010000000707805157, 1.0]]
    """
    angles = _angles(positions, rotary_frequencies(features, base))
    pairs = jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1)
    return pairs.reshape(*positions.shape, 2 * pairs.shape[-2])[..., :features]


def rotary_frequencies(features: int, base: Any = 10000.0) -> jax.Array:
    """Return the frequency of each pair i of features, `base**(-2i / features)`.

    Args:
        features: Number of features.
        base: Ratio of the highest to the lowest frequency. Default: 10000.

    Returns:
        float32 array of shape (ceil(features / 2),), in radians per position.

    >>> rotary_frequencies(4).tolist()
    [1.0, 0.009999999776482582]
    """
    exponents = jnp.arange(0, features, 2, jnp.float32) / features
    return 1.0 / jnp.asarray(base, jnp.float32) ** exponents


def rotate(
    x: jax.Array,
    positions: jax.Array,
    frequencies: jax.Array,
    *,
    interleaved: bool = False,
    magnitude: Any = 1.0,
) -> jax.Array:
    """Rotate pairs of features: (a, b) becomes (a cos - b sin, b cos + a sin), times `magnitude`.

    Args:
        x: Array of shape (..., T, heads, d).
        positions: Integers of shape (..., T).
        frequencies: Angle per position of each pair, in radians, of shape (n,) with 2n <= d.
            Features from 2n on are unchanged.
        interleaved: If False, pair i consists of features i and i + n (GPT-NeoX, LLaMA); if True,
            of 2i and 2i + 1 (RoFormer, GPT-J). Default: False.
        magnitude: Factor of the rotated features. Default: 1.

    Returns:
        Array of the shape of x, in its floating type; computed in at least float32.

    Reference: Su et al., RoFormer: enhanced transformer with rotary position embedding, 2021.

    >>> import jax.numpy as jnp
    >>> quarter = jnp.array([jnp.pi / 2])
    >>> rotate(jnp.array([[[1.0, 2.0, 5.0]]]), jnp.array([1]), quarter).round(3).tolist()
    [[[-2.0, 1.0, 5.0]]]
    """
    n = frequencies.shape[0]
    wide = wider_type(floating_type(x), jnp.float32)
    angles = _angles(positions, frequencies.astype(wide))[..., None, :]  # the same for all heads
    cos, sin = (f(angles) * jnp.asarray(magnitude, wide) for f in (jnp.cos, jnp.sin))
    turned = x[..., : 2 * n].astype(wide)
    turned = turned.reshape(*x.shape[:-1], *((n, 2) if interleaved else (2, n)))
    axis = -1 if interleaved else -2
    a, b = (jnp.take(turned, i, axis) for i in (0, 1))
    cos, sin = (jnp.broadcast_to(t, a.shape) for t in (cos, sin))
    turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis).reshape(*x.shape[:-1], 2 * n)
    turned = turned.astype(floating_type(x))
    return jnp.concatenate([turned, x[..., 2 * n :].astype(turned.dtype)], -1)


def linear_frequencies(frequencies: jax.Array, factor: Any) -> jax.Array:
    """Position interpolation: divide all frequencies by `factor`.

    Args:
        frequencies: float32 array (n,), the angle per position of each pair, in radians.
        factor: Ratio of the new length to the original one.

    Reference: Chen et al., Extending context window of large language models via positional
    interpolation, 2023.
    """
    return frequencies / jnp.asarray(factor, frequencies.dtype)


def ntk_base(base: Any, factor: Any, features: int) -> jax.Array:
    """NTK-aware scaling: return `base * factor**(d / (d - 2))`.

    The lowest frequency is divided by `factor` and the highest is unchanged.

    Args:
        base: Base of the frequencies.
        factor: Ratio of the new length to the original one.
        features: Number d of rotated features.

    Reference: bloc97, NTK-aware scaled RoPE, 2023; Peng et al., YaRN, 2023, section 3.1.
    """
    base, factor = (jnp.asarray(a, jnp.float32) for a in (base, factor))
    return base * factor ** (features / max(features - 2, 1))


def dynamic_ntk_base(
    base: Any, factor: Any, features: int, length: int, original_length: Any
) -> jax.Array:
    """Dynamic NTK-aware scaling: return the base for a sequence of `length`.

    The base is unchanged up to `original_length`; for longer sequences it is scaled by
    factor * length / original_length - (factor - 1) as in `ntk_base`.

    Args:
        base: Base of the frequencies.
        factor: Factor of the scaling.
        features: Number of rotated features.
        length: Length of the sequence.
        original_length: Length of the sequences of training.

    Reference: emozilla, Dynamically scaled RoPE, 2023; Peng et al., YaRN, 2023, section 3.3.
    """
    factor, original = (jnp.asarray(a, jnp.float32) for a in (factor, original_length))
    longer = jnp.maximum(jnp.asarray(length, jnp.float32), original)
    return ntk_base(base, factor * longer / original - (factor - 1.0), features)


def yarn_frequencies(
    frequencies: jax.Array,
    factor: Any,
    original_length: Any,
    base: Any = 10000.0,
    fast: Any = 32.0,
    slow: Any = 1.0,
) -> jax.Array:
    """YaRN: interpolate only pairs with long wavelengths.

    Pairs that turn more than `fast` times in `original_length` are unchanged, and those that turn
    less than `slow` times are divided by `factor`. Between the two bounds, rounded outwards, the
    weight is linear in the pair's index.

    Args:
        frequencies: float32 array (n,), the angle per position of each pair, in radians.
        factor: Ratio of the new length to the original one.
        original_length: Length of the sequences of training.
        base: Base of the frequencies. Default: 10000.
        fast: Number of turns above which a pair is unchanged. Default: 32.
        slow: Number of turns below which a pair is divided by `factor`. Default: 1.

    Reference: Peng et al., YaRN: efficient context window extension of large language models, 2023.
    """
    n = frequencies.shape[0]
    base, factor, original = (jnp.asarray(a, jnp.float32) for a in (base, factor, original_length))

    def pair_that_turns(times: Any) -> jax.Array:
        times = jnp.asarray(times, jnp.float32)
        return n * jnp.log(original / (times * (2.0 * math.pi))) / jnp.log(base)

    low = jnp.maximum(jnp.floor(pair_that_turns(fast)), 0.0)
    high = jnp.minimum(jnp.ceil(pair_that_turns(slow)), 2.0 * n - 1.0)
    high = jnp.where(low == high, high + 0.001, high)
    ramp = jnp.clip((jnp.arange(n, dtype=jnp.float32) - low) / (high - low), 0.0, 1.0)
    return frequencies / factor * ramp + frequencies * (1.0 - ramp)


def yarn_magnitude(factor: Any) -> jax.Array:
    """YaRN's factor for queries and keys: 0.1 ln(factor) + 1, or 1 if factor <= 1."""
    factor = jnp.maximum(jnp.asarray(factor, jnp.float32), 1.0)
    return 0.1 * jnp.log(factor) + 1.0


def longrope_magnitude(factor: Any, original_length: Any) -> jax.Array:
    """LongRoPE's factor for queries and keys: sqrt(1 + ln(factor) / ln(original_length)), or 1 if
    factor <= 1."""
    factor = jnp.maximum(jnp.asarray(factor, jnp.float32), 1.0)
    return jnp.sqrt(1.0 + jnp.log(factor) / jnp.log(jnp.asarray(original_length, jnp.float32)))


def llama3_frequencies(
    frequencies: jax.Array,
    factor: Any,
    original_length: Any,
    low: Any = 1.0,
    high: Any = 4.0,
) -> jax.Array:
    """LLaMA 3.1: interpolate only pairs with long wavelengths.

    Pairs that turn more than `high` times in `original_length` are unchanged, and those that turn
    less than `low` times are divided by `factor`. Between them, the weight is linear in the number
    of turns.

    Args:
        frequencies: float32 array (n,), the angle per position of each pair, in radians.
        factor: Ratio of the new length to the original one.
        original_length: Length of the sequences of training.
        low: Number of turns below which a pair is divided by `factor`. Default: 1.
        high: Number of turns above which a pair is unchanged. Default: 4.

    Reference: Llama team, The Llama 3 herd of models, 2024 (the code published with it).
    """
    factor, original, low, high = (
        jnp.asarray(a, jnp.float32) for a in (factor, original_length, low, high)
    )
    turns = original * frequencies / (2.0 * math.pi)
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / factor)


def alibi_slopes(heads: int) -> jax.Array:
    """Return ALiBi's slope of each head: `2**(-8h / n)` for h = 1 to n, if heads n is a power of 2.

    Otherwise the first slopes are those of the next lower power of 2, and the others are every
    second one of the next higher power.

    Args:
        heads: Number of heads.

    Returns:
        float32 array of shape (heads,).

    Reference: Press et al., Train short, test long: attention with linear biases enables input
    length extrapolation, 2021 (other numbers: the code published with it).

    >>> alibi_slopes(4).tolist(), alibi_slopes(3).tolist()
    ([0.25, 0.0625, 0.015625, 0.00390625], [0.0625, 0.00390625, 0.25])
    """
    below = 2 ** int(math.log2(heads))
    steps = [8 * h / below for h in range(1, below + 1)]
    steps += [4 * h / below for h in range(1, 2 * (heads - below), 2)]
    return 2.0 ** -jnp.asarray(steps, jnp.float32)


def alibi(query: jax.Array, key: jax.Array, heads: int) -> jax.Array:
    """ALiBi's attention bias: `-slope * |query position - key position|`.

    Args:
        query: Integers of shape (..., T), the positions of queries.
        key: Integers of shape (..., S), the positions of keys.
        heads: Number of heads.

    Returns:
        float32 array of shape (..., heads, T, S).

    Reference: Press et al., 2021, as for `alibi_slopes`.

    >>> import jax.numpy as jnp
    >>> alibi(jnp.arange(2), jnp.arange(2), 1).tolist()
    [[[-0.0, -0.00390625], [-0.00390625, -0.0]]]
    """
    away = jnp.abs(query[..., :, None] - key[..., None, :]).astype(jnp.float32)[..., None, :, :]
    slopes = alibi_slopes(heads).reshape((1,) * (away.ndim - 3) + (heads, 1, 1))
    return -slopes * away


def _angles(positions: jax.Array, frequencies: jax.Array) -> jax.Array:
    """Multiply positions (...) by frequencies (n,), to (..., n)."""
    frequencies = frequencies.reshape((1,) * positions.ndim + frequencies.shape)
    return positions.astype(frequencies.dtype)[..., None] * frequencies
