"""Layers that add position encodings to a sequence, and embeddings of times and coordinates."""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..arrays import check_range, without_padding
from ..core.calls import State
from ..core.declarations import Param, Variable
from ..core.layer import Primitive
from ..fields import is_traced
from ..functional.gradients import shared_rows, shared_sum
from ..functional.linear import floating_type, linear, wider_type
from ..functional.positions import rotary_frequencies, sinusoidal
from ..functional.segments import Count, check_segments, continued_segments, packed_positions
from ..initializers import InitFn, normal, zeros
from ..validation import above, is_int, positive
from . import cache_length, check_not_training, check_rank, positive_size

_EVEN = positive.such(
    what="an even int >= 2",
    test=lambda v: is_int(v) and v > 0 and v % 2 == 0,
    hint="write for example {owner}(128)",
)


class LearnedPositions(Primitive):
    """Learned position encoding: `y = x + w[positions]`.

    x and y have shape (..., T, n). The parameter is w (length, n). Positions count from 0. If
    `segment_ids`, integers (..., T), are given, they restart at 0 in each packed sequence, and x is
    replaced by zeros at padding (0).

    Args:
        length: Number of positions in the table.
        w_init: Initializer of w. Default: `normal(0.02)`.
        cache: If positive, positions continue from call to call; set by `nn.with_cache`. Default:
            0.

    Raises:
        ValueError: If a concrete position is past the table. A traced position past it gives NaN.

    Reference: Gehring et al., Convolutional sequence to sequence learning, 2017.

    >>> import jax, jax.numpy as jnp
    >>> params = LearnedPositions(512).init(jax.random.key(0), jnp.zeros((2, 5, 8)))
    >>> jax.tree.map(jnp.shape, params)
    {'w': (512, 8)}
    """

    length: Annotated[int, positive_size]
    w_init: InitFn = normal(0.02)
    cache: Annotated[int, cache_length] = 0

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare the table."""
        check_rank(x, 2, "(..., T, features)")
        return {"w": Param((self.length, x.shape[-1]), self.w_init)}

    def variables(self, x: Any) -> dict[str, Variable]:
        """Declare the number of positions seen in each row, if a cache is kept."""
        return _count_slots(self, x)

    def forward(
        self,
        params: Any,
        x: jax.Array,
        *,
        segment_ids: jax.Array | None = None,
        state: State | None,
        train: bool,
    ) -> tuple[jax.Array, State]:
        """Return x plus the rows of the table at its positions."""
        length = x.shape[-2]
        if not self.cache and segment_ids is None:
            self._check_last(length - 1)
            # A slice, because its gradient is not a scatter.
            rows = jnp.expand_dims(params["w"][:length], tuple(range(x.ndim - 2)))
            return shared_sum(x.astype(floating_type(x)), rows), {}
        positions, new = _positions(self, x, segment_ids, state, train)
        x = x if segment_ids is None else without_padding(x, segment_ids)
        if not is_traced(positions) and positions.size:
            self._check_last(int(positions.max()))
        check_range(positions, self.length, f"position {{value}} is past a table of {self.length}")
        return _add(x, shared_rows(params["w"], positions)), new

    def _check_last(self, last: int) -> None:
        if last >= self.length:
            raise ValueError(
                f"has {self.length} positions, but the sequence reaches position {last}, counted "
                f"from 0; write LearnedPositions({max(last + 1, 2 * self.length)})"
            )


class SinusoidalPositions(Primitive):
    """Sinusoidal position encoding, added to x.

    `y[2i] = x[2i] + sin(p / base**(2i / n))`, and `y[2i + 1]` adds the cosine of the same angle,
    computed in float32. x and y have shape (..., T, n). Positions p count from 0. If `segment_ids`,
    integers (..., T), are given, they restart at 0 in each packed sequence, and x is replaced by
    zeros at padding (0). There are no parameters.

    Args:
        base: Ratio of the longest to the shortest wavelength, a number > 0. Default: 10000.
        cache: If positive, positions continue from call to call; set by `nn.with_cache`. Default:
            0.

    Raises:
        ValueError: If `base` is not positive.

    Reference: Vaswani et al., Attention is all you need, 2017.

    >>> import jax.numpy as jnp
    >>> SinusoidalPositions().apply({}, jnp.zeros((1, 2))).tolist()
    [[0.0, 1.0]]
    """

    base: Annotated[float, above(0)] = 10000.0
    cache: Annotated[int, cache_length] = 0

    def parameters(self, x: Any) -> dict[str, Param]:
        """Check the shape of x; there are no parameters."""
        check_rank(x, 2, "(..., T, features)")
        return {}

    def variables(self, x: Any) -> dict[str, Variable]:
        """Declare the number of positions seen in each row, if a cache is kept."""
        return _count_slots(self, x)

    def forward(
        self,
        params: Any,
        x: jax.Array,
        *,
        segment_ids: jax.Array | None = None,
        state: State | None,
        train: bool,
    ) -> tuple[jax.Array, State]:
        """Return x plus the encoding of its positions."""
        positions, new = _positions(self, x, segment_ids, state, train)
        x = x if segment_ids is None else without_padding(x, segment_ids)
        return _add(x, sinusoidal(positions, x.shape[-1], self.base)), new


class TimeEmbedding(Primitive):
    """Sinusoidal embedding of a number, such as the time step of a diffusion model.

    `y = concat(cos(x * w), sin(x * w))` with frequencies `w[i] = base**(-2i / features)`, computed
    in float32. x has any shape (...), and y has shape (..., features), in the floating type of x.
    There are no parameters.

    Args:
        features: Number of features, even.
        base: Ratio of the longest to the shortest wavelength, a number > 0. Default: 10000.

    Raises:
        ValueError: If `features` is odd.

    Reference: Ho et al., Denoising diffusion probabilistic models, 2020.

    >>> import jax.numpy as jnp
    >>> TimeEmbedding(4).apply({}, jnp.array([0.0, 1.0])).round(2).tolist()[0]
    [1.0, 1.0, 0.0, 0.0]
    """

    features: Annotated[int, _EVEN]
    base: Annotated[float, above(0)] = 10000.0

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the embedding of each number."""
        frequencies = rotary_frequencies(self.features, self.base)
        return waves(x, frequencies)


class FourierFeatures(Primitive):
    """Random Fourier features: `y = concat(cos(2 pi x @ w), sin(2 pi x @ w))`.

    x has shape (..., n), and y has shape (..., features), in the floating type of x; it is computed
    in at least float32. The parameter is w (n, features / 2). It is usually not trained: write
    `nn.Inference(nn.FourierFeatures(...))`.

    Args:
        features: Number of features, even.
        w_init: Initializer of w; its standard deviation is that of the frequencies. Default:
            `normal(1.0)`.

    Raises:
        ValueError: If `features` is odd.

    Reference: Tancik et al., Fourier features let networks learn high frequency functions in low
    dimensional domains, 2020.

    >>> import jax, jax.numpy as jnp
    >>> net, x = FourierFeatures(64), jnp.zeros((5, 2))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params), net.apply(params, x).shape
    ({'w': (2, 32)}, (5, 64))
    """

    features: Annotated[int, _EVEN]
    w_init: InitFn = normal(1.0)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare the frequencies."""
        check_rank(x, 1, "(..., n)")
        return {"w": Param((x.shape[-1], self.features // 2), self.w_init)}

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return cosines and sines of the products."""
        dtype = floating_type(x)
        wide = wider_type(dtype, jnp.float32)
        turns = linear(x.astype(wide), params["w"].astype(wide))
        angles = turns * jnp.asarray(2 * math.pi, wide)
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1).astype(dtype)


def waves(x: jax.Array, frequencies: jax.Array) -> jax.Array:
    """Return cosines, then sines, of numbers (...) times frequencies (n,): (..., 2 n)."""
    wide = wider_type(floating_type(x), jnp.float32)
    frequencies = frequencies.astype(wide).reshape((1,) * x.ndim + (-1,))
    angles = x.astype(wide)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1).astype(floating_type(x))


def _count_slots(layer: Any, x: Any) -> dict[str, Variable]:
    if not layer.cache:
        return {}
    return {name: Variable(x.shape[:-2], zeros(), "int32") for name in Count._fields}


def _positions(
    layer: Any, x: jax.Array, segment_ids: jax.Array | None, state: State | None, train: bool
) -> tuple[jax.Array, State]:
    """Return the positions of x, (..., T) or (1, ..., T), and the count after it."""
    if segment_ids is not None:
        check_segments(segment_ids, x.shape[:-1])
    if layer.cache:
        check_not_training(layer, train)
        count = Count(**(state or {}))
        segment_ids = continued_segments(count, x.shape[-2]) if segment_ids is None else segment_ids
        found, count = packed_positions(segment_ids, count)
        return found.position, count._asdict()
    if segment_ids is None:
        return jnp.arange(x.shape[-2]).reshape((1,) * (x.ndim - 2) + (-1,)), {}
    return packed_positions(segment_ids)[0].position, {}


def _add(x: jax.Array, y: jax.Array) -> jax.Array:
    dtype = floating_type(x)
    return x.astype(dtype) + y.astype(dtype)
