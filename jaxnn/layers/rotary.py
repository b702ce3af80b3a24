"""RotaryEmbedding: rotation of queries and keys by their positions, and its scaling rules.

A `RotaryEmbedding` is a value, used as a field of `MultiHeadAttention`. A scaling rule for longer
sequences is a value, too, used as a field of `RotaryEmbedding`.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core.values import Value
from ..functional import positions as rules
from ..validation import Accepts, above, instance, is_number, require, tuple_of, unwritten

_FACTORS = tuple_of(above(0), "a tuple of numbers > 0, one for each rotated pair")
_FRACTION = Accepts("a fraction of the features, in (0, 1]", lambda v: is_number(v) and 0 < v <= 1)


class Scaling(Value):
    """Base of the scaling rules for sequences longer than those of training.

    If `by_length` is True, all angles depend on the length of the sequence, so the rule cannot be
    used with a cache or with segment_ids.
    """

    by_length = False

    @unwritten("no frequencies; write def frequencies(self, features, base, length): ...")
    def frequencies(self, features: int, base: Any, length: int) -> jax.Array:
        """Return the frequencies of the pairs of `features`, in a sequence of `length`."""
        ...

    def magnitude_of_turned(self) -> Any:
        """Return the factor of rotated queries and keys."""
        return 1.0


class LinearScaling(Scaling):
    """Position interpolation: divide all positions by `factor`.

    Args:
        factor: Number > 0.

    Reference: Chen et al., Extending context window of large language models via positional
    interpolation, 2023.

    >>> LinearScaling(4.0).frequencies(4, base=10000.0, length=1).tolist()
    [0.25, 0.0024999999441206455]
    """

    factor: Annotated[float, above(0)]

    def frequencies(self, features: int, base: Any, length: int) -> jax.Array:
        """Return the frequencies divided by `factor`."""
        return rules.linear_frequencies(rules.rotary_frequencies(features, base), self.factor)


class NTKScaling(Scaling):
    """NTK-aware scaling: the base becomes `base * factor**(d / (d - 2))`.

    Args:
        factor: Number > 0 by which the lowest frequency is divided.

    Reference: bloc97, NTK-aware scaled RoPE, 2023.

    >>> NTKScaling(4.0).frequencies(4, base=10000.0, length=1).tolist()
    [1.0, 0.0024999999441206455]
    """

    factor: Annotated[float, above(0)]

    def frequencies(self, features: int, base: Any, length: int) -> jax.Array:
        """Return the frequencies of the larger base."""
        return rules.rotary_frequencies(features, rules.ntk_base(base, self.factor, features))


class DynamicNTKScaling(Scaling):
    """NTK-aware scaling with a factor that depends on the length T of the sequence.

    Up to `original_length`, frequencies are unchanged. For longer sequences the base is that of
    `NTKScaling` with the factor `factor * T / original_length - (factor - 1)`. All angles depend on
    T, so the rule cannot be used with a cache or with segment_ids.

    Args:
        factor: Number > 0.
        original_length: Length of the sequences of training.

    Reference: emozilla, Dynamically scaled RoPE, 2023.

    >>> rule = DynamicNTKScaling(2.0, original_length=16)
    >>> [round(1 / float(rule.frequencies(4, 10000.0, length)[1])) for length in (8, 16, 32)]
    [100, 100, 300]
    """

    factor: Annotated[float, above(0)]
    original_length: Annotated[int, above(0)]

    by_length = True

    def frequencies(self, features: int, base: Any, length: int) -> jax.Array:
        """Return the frequencies of the base for `length`."""
        base = rules.dynamic_ntk_base(base, self.factor, features, length, self.original_length)
        return rules.rotary_frequencies(features, base)


class YaRNScaling(Scaling):
    """YaRN: interpolate only slow pairs, and scale queries and keys.

    Pairs that turn more than `fast` times in `original_length` are unchanged, and those that turn
    less than `slow` times are divided by `factor`; pairs between them are interpolated linearly.

    Args:
        factor: Number > 0 by which slow frequencies are divided.
        original_length: Length of the sequences of training.
        fast: Number of turns above which a pair is unchanged. Default: 32.
        slow: Number of turns below which a pair is divided by `factor`. Default: 1.
        magnitude: Factor of queries and keys. Default: 0.1 ln(factor) + 1.

    Reference: Peng et al., YaRN: efficient context window extension of large language models, 2023.

    >>> rule = YaRNScaling(4.0, original_length=4096)
    >>> [round(float(f), 5) for f in rule.frequencies(4, base=10000.0, length=4096)]
    [1.0, 0.00625]
    """

    factor: Annotated[float, above(0)]
    original_length: Annotated[int, above(0)]
    fast: Annotated[float, above(0)] = 32.0
    slow: Annotated[float, above(0)] = 1.0
    magnitude: Annotated[float | None, None | above(0)] = None

    def frequencies(self, features: int, base: Any, length: int) -> jax.Array:
        """Return the interpolated frequencies."""
        plain = rules.rotary_frequencies(features, base)
        return rules.yarn_frequencies(
            plain, self.factor, self.original_length, base, self.fast, self.slow
        )

    def magnitude_of_turned(self) -> Any:
        """Return `magnitude`, or its default."""
        return rules.yarn_magnitude(self.factor) if self.magnitude is None else self.magnitude


class Llama3Scaling(Scaling):
    """LLaMA 3.1: interpolate only slow pairs.

    Pairs that turn more than `high` times in `original_length` are unchanged, and those that turn
    less than `low` times are divided by `factor`; pairs between them are interpolated linearly.

    Args:
        factor: Number > 0 by which slow frequencies are divided. Default: 8.
        original_length: Length of the sequences of training. Default: 8192.
        low: Number of turns below which a pair is divided by `factor`. Default: 1.
        high: Number of turns above which a pair is unchanged. Default: 4.

    Reference: Llama team, The Llama 3 herd of models, 2024 (the code published with it).

    >>> [round(float(f), 6) for f in Llama3Scaling().frequencies(4, base=500000.0, length=8192)]
    [1.0, 0.000525]
    """

    factor: Annotated[float, above(0)] = 8.0
    original_length: Annotated[int, above(0)] = 8192
    low: Annotated[float, above(0)] = 1.0
    high: Annotated[float, above(0)] = 4.0

    def frequencies(self, features: int, base: Any, length: int) -> jax.Array:
        """Return the interpolated frequencies."""
        plain = rules.rotary_frequencies(features, base)
        return rules.llama3_frequencies(
            plain, self.factor, self.original_length, self.low, self.high
        )


class LongRoPEScaling(Scaling):
    """LongRoPE: divide each pair's frequency by a separate factor, found by search.

    The factors depend on the length of the sequence, so the rule cannot be used with a cache or
    with segment_ids.

    Args:
        short: Factors for sequences up to `original_length`, one for each rotated pair.
        long: Factors for longer sequences, one for each rotated pair.
        original_length: Length of the sequences of training.
        factor: Ratio of the new length to the original one.
        magnitude: Factor of queries and keys. Default: sqrt(1 + ln(factor) / ln(original_length)).

    Reference: Ding et al., LongRoPE: extending LLM context window beyond 2 million tokens, 2024;
    magnitude as in Phi-3.

    >>> rule = LongRoPEScaling((1.0, 1.0), (1.0, 4.0), 4096, 32.0)
    >>> rule.frequencies(4, base=10000.0, length=8192).tolist()
    [1.0, 0.0024999999441206455]
    """

    short: Annotated[tuple[float, ...], _FACTORS]
    long: Annotated[tuple[float, ...], _FACTORS]
    original_length: Annotated[int, above(0)]
    factor: Annotated[float, above(0)]
    magnitude: Annotated[float | None, None | above(0)] = None

    by_length = True

    def __post_init__(self) -> None:
        """Check that `short` and `long` have equal lengths."""
        self._check_count("long", len(self.short), "that of LongRoPEScaling.short")

    def frequencies(self, features: int, base: Any, length: int) -> jax.Array:
        """Return the frequencies divided by their factors."""
        name = "long" if length > self.original_length else "short"
        each = f"a factor for each pair of the {features} rotated features"
        self._check_count(name, features // 2, each)
        factors = jnp.asarray(getattr(self, name), jnp.float32)
        return rules.rotary_frequencies(features, base) / factors

    def _check_count(self, name: str, wanted: int, why: str) -> None:
        count = len(getattr(self, name))
        where = f"the number of LongRoPEScaling.{name}"
        require(count == wanted, where, f"{wanted}, {why}", count)

    def magnitude_of_turned(self) -> Any:
        """Return `magnitude`, or its default."""
        if self.magnitude is not None:
            return self.magnitude
        return rules.longrope_magnitude(self.factor, self.original_length)


scaling_rule: Accepts = instance(Scaling, "a rule such as nn.LinearScaling(2.0)")


class RotaryEmbedding(Value):
    """Rotary position embedding: rotate pairs of features of queries and keys by their positions.

    Pair i is rotated by the angle `position * base**(-2i / d)`, with d = fraction * head_dim, which
    must be even. The first d features are rotated, and the others are unchanged.

    Args:
        base: Number > 0. Default: 10000.
        fraction: Fraction of a head's features to rotate, in (0, 1]. Default: 1.
        interleaved: If False, pair i consists of features i and i + d / 2 (GPT-NeoX, LLaMA); if
            True, of 2i and 2i + 1 (RoFormer, GPT-J). Default: False.
        scaling: Rule for sequences longer than those of training: `LinearScaling`, `NTKScaling`,
            `DynamicNTKScaling`, `YaRNScaling`, `Llama3Scaling`, or `LongRoPEScaling`. Default:
            None.

    Raises:
        ValueError: If `base` or `fraction` is out of range, or if the number of rotated features is
            odd.

    Reference: Su et al., RoFormer: enhanced transformer with rotary position embedding, 2021.

    >>> RotaryEmbedding(base=500000.0, scaling=Llama3Scaling(factor=32.0))
    RotaryEmbedding(base=500000.0, scaling=Llama3Scaling(factor=32.0))
    """

    base: Annotated[float, above(0)] = 10000.0
    fraction: Annotated[float, _FRACTION] = 1.0
    interleaved: bool = False
    scaling: Annotated[Scaling | None, None | scaling_rule] = None

    def turned_features(self, features: int) -> int:
        """Return how many features of a head are rotated; raise ValueError if that is odd."""
        share = features * self.fraction
        nearest = round(share)  # 0.29 * 200 is just below 58
        turned = nearest if abs(share - nearest) < 1e-6 else int(share)
        if turned < 2 or turned % 2:
            raise ValueError(
                f"rotary embeddings rotate pairs of features, but {self!r} rotates {turned} of a "
                f"head's {features}; choose head_dim or fraction for an even number"
            )
        return turned

    def rotate(self, x: jax.Array, positions: jax.Array, length: int) -> jax.Array:
        """Rotate x (..., T, heads, d) at positions (..., T) of a sequence of `length`."""
        turned, scaling = self.turned_features(x.shape[-1]), self.scaling
        if scaling is None:
            frequencies, magnitude = rules.rotary_frequencies(turned, self.base), 1.0
        else:
            frequencies = scaling.frequencies(turned, self.base, length)
            magnitude = jnp.asarray(scaling.magnitude_of_turned())
        return rules.rotate(
            x, positions, frequencies, interleaved=self.interleaved, magnitude=magnitude
        )
