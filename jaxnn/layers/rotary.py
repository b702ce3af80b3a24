"""RotaryEmbedding: queries and keys turned by their positions; rules for longer sequences.

A value, and a field of `MultiHeadAttention`. The rules are values too, and a field of
`RotaryEmbedding`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ..core.values import Value, fields
from ..fields import is_traced
from ..functional import positions as rules


class Scaling(Value):
    """Base of the rules for sequences longer than those trained on.

    Where a rule is `by_length`, all angles depend on the length of the sequence, so it goes neither
    with a cache nor with segment_ids.
    """

    by_length = False

    def __post_init__(self) -> None:
        """Check that every number is positive."""
        for field in fields(self):
            number = getattr(self, field.name)
            if number is not None:
                _check_positive_number(self, field.name, number)

    def frequencies(self, features: int, base: Any, length: int) -> jax.Array:
        """The frequencies of the pairs of `features`, in a sequence of `length`."""
        raise NotImplementedError

    def magnitude_of_turned(self) -> Any:
        """What queries and keys are multiplied by."""
        return 1.0


class LinearScaling(Scaling):
    """Position interpolation: all positions divided by `factor`.

    Reference: Chen et al., Extending context window of large language models via positional
    interpolation, 2023.

    >>> LinearScaling(4.0).frequencies(4, base=10000.0, length=1).tolist()
    [0.25, 0.0024999999441206455]
    """

    factor: float

    def frequencies(self, features: int, base: Any, length: int) -> jax.Array:
        """All divided by `factor`."""
        return rules.linear_frequencies(rules.rotary_frequencies(features, base), self.factor)


class NTKScaling(Scaling):
    """NTK-aware: the base becomes base * factor**(d / (d - 2)).

    Reference: bloc97, NTK-aware scaled RoPE, 2023.

    >>> NTKScaling(4.0).frequencies(4, base=10000.0, length=1).tolist()
    [1.0, 0.0024999999441206455]
    """

    factor: float

    def frequencies(self, features: int, base: Any, length: int) -> jax.Array:
        """Those of a larger base."""
        return rules.rotary_frequencies(features, rules.ntk_base(base, self.factor, features))


class DynamicNTKScaling(Scaling):
    """NTK-aware with the factor that the length T of the sequence asks for.

    Up to `original_length` nothing changes; beyond it the base is the NTK-aware one for the factor
    * T / original_length - (factor - 1). As all angles depend on T, it does not go with a cache.

    Reference: emozilla, Dynamically scaled RoPE, 2023.
    """

    factor: float
    original_length: int

    by_length = True

    def frequencies(self, features: int, base: Any, length: int) -> jax.Array:
        """Those of the base for `length`."""
        base = rules.dynamic_ntk_base(base, self.factor, features, length, self.original_length)
        return rules.rotary_frequencies(features, base)


class YaRNScaling(Scaling):
    """YaRN: slow pairs are interpolated, fast ones are not, and queries and keys grow.

    Pairs that turn more than `fast` times in `original_length` stay, those that turn less than
    `slow` times are divided by `factor`. Queries and keys are multiplied by `magnitude`,
    0.1 ln(factor) + 1 by default.

    Reference: Peng et al., YaRN: efficient context window extension of large language models, 2023.
    """

    factor: float
    original_length: int
    fast: float = 32.0
    slow: float = 1.0
    magnitude: float | None = None

    def frequencies(self, features: int, base: Any, length: int) -> jax.Array:
        """Those of the ramp."""
        plain = rules.rotary_frequencies(features, base)
        return rules.yarn_frequencies(
            plain, self.factor, self.original_length, base, self.fast, self.slow
        )

    def magnitude_of_turned(self) -> Any:
        """The field, or what follows from the factor."""
        return rules.yarn_magnitude(self.factor) if self.magnitude is None else self.magnitude


class Llama3Scaling(Scaling):
    """LLaMA 3.1: pairs that turn more than `high` times in `original_length` stay, those that turn
    less than `low` times are divided by `factor`, the others are in between.

    Reference: Llama team, The Llama 3 herd of models, 2024 (the code published with it).
    """

    factor: float = 8.0
    original_length: int = 8192
    low: float = 1.0
    high: float = 4.0

    def frequencies(self, features: int, base: Any, length: int) -> jax.Array:
        """Those of the ramp."""
        plain = rules.rotary_frequencies(features, base)
        return rules.llama3_frequencies(
            plain, self.factor, self.original_length, self.low, self.high
        )


class LongRoPEScaling(Scaling):
    """LongRoPE: each pair's frequency is divided by a factor of its own, found by a search.

    `short` are the factors up to `original_length`, `long` those beyond, one for each pair of the
    features that turn. Queries and keys are multiplied by `magnitude`, by default
    sqrt(1 + ln(factor) / ln(original_length)) with `factor` the new length over the original one.

    Reference: Ding et al., LongRoPE: extending LLM context window beyond 2 million tokens, 2024;
    the magnitude as in Phi-3.

    >>> rule = LongRoPEScaling((1.0, 1.0), (1.0, 4.0), 4096, 32.0)
    >>> rule.frequencies(4, base=10000.0, length=8192).tolist()
    [1.0, 0.0024999999441206455]
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_length: int
    factor: float
    magnitude: float | None = None

    by_length = True

    def __post_init__(self) -> None:
        """Check that every number is positive, and that there are as many factors."""
        for name in ("original_length", "factor", "magnitude"):
            if getattr(self, name) is not None:
                _check_positive_number(self, name, getattr(self, name))
        for name in ("short", "long"):
            for number in getattr(self, name):
                _check_positive_number(self, name, number)
        if len(self.short) != len(self.long):
            raise ValueError(
                "LongRoPEScaling has a factor for each pair, as many short as long ones; got "
                f"{len(self.short)} and {len(self.long)}"
            )

    def frequencies(self, features: int, base: Any, length: int) -> jax.Array:
        """Each divided by its factor."""
        factors = self.long if length > self.original_length else self.short
        if 2 * len(factors) != features:
            raise ValueError(
                f"LongRoPEScaling has {len(factors)} factors, but {features} features turn, which "
                f"are {features // 2} pairs"
            )
        return rules.rotary_frequencies(features, base) / jnp.asarray(factors, jnp.float32)

    def magnitude_of_turned(self) -> Any:
        """The field, or what follows from the factor."""
        if self.magnitude is not None:
            return self.magnitude
        return rules.longrope_magnitude(self.factor, self.original_length)


class RotaryEmbedding(Value):
    """Queries and keys are turned, pair by pair of features, by angles that grow with position.

    Pair i turns by position * base**(-2i / d), where d = fraction * head_dim is even: the
    first d features turn, the others stay. The pairs are features i and i + d / 2 (the two halves:
    GPT-NeoX, LLaMA), or with `interleaved` 2i and 2i + 1 (RoFormer, GPT-J). `scaling` is a rule for
    sequences longer than those trained on: `LinearScaling`, `NTKScaling`, `DynamicNTKScaling`,
    `YaRNScaling` or `Llama3Scaling`.

    Raises ValueError for a base or a fraction that is none, and for an odd number of features.

    Reference: Su et al., RoFormer: enhanced transformer with rotary position embedding, 2021.

    >>> RotaryEmbedding(base=500000.0, scaling=Llama3Scaling(factor=32.0))
    RotaryEmbedding(base=500000.0, scaling=Llama3Scaling(factor=32.0))
    """

    base: float = 10000.0
    fraction: float = 1.0
    interleaved: bool = False
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_positive_number(self, "base", self.base)
        _check_positive_number(self, "fraction", self.fraction)
        if is_traced(self.fraction) or self.fraction > 1:
            raise ValueError(
                f"RotaryEmbedding.fraction is the share of the features that turn, in (0, 1]; got "
                f"{self.fraction!r}"
            )
        if not isinstance(self.interleaved, bool):
            raise TypeError(
                f"RotaryEmbedding.interleaved is True or False, got {self.interleaved!r}"
            )
        if self.scaling is not None and not isinstance(self.scaling, Scaling):
            raise TypeError(
                f"RotaryEmbedding.scaling is a rule, LinearScaling(2.0); got {self.scaling!r}"
            )

    def turned_features(self, features: int) -> int:
        """How many of a head's features turn; ValueError where they make no pairs."""
        share = features * self.fraction
        nearest = round(share)  # 0.29 * 200 is just below 58
        turned = nearest if abs(share - nearest) < 1e-6 else int(share)
        if turned < 2 or turned % 2:
            raise ValueError(
                f"rotary positions turn pairs of features, but {self!r} turns {turned} of a head's "
                f"{features}: choose head_dim or fraction for an even number"
            )
        return turned

    def rotate(self, x: jax.Array, positions: jax.Array, length: int) -> jax.Array:
        """x (..., T, heads, d) at integer positions (..., T) of a sequence of `length`, turned."""
        turned, scaling = self.turned_features(x.shape[-1]), self.scaling
        if scaling is None:
            frequencies, magnitude = rules.rotary_frequencies(turned, self.base), 1.0
        else:
            frequencies = scaling.frequencies(turned, self.base, length)
            magnitude = jnp.asarray(scaling.magnitude_of_turned())
        return rules.rotate(
            x, positions, frequencies, interleaved=self.interleaved, magnitude=magnitude
        )


def _check_positive_number(value: Value, name: str, number: Any) -> None:
    real = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_traced(number) and not (real and number > 0):
        raise ValueError(f"{type(value).__name__}.{name} is a number > 0, got {number!r}")
