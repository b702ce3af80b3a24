"""Layers that add positions to a sequence: learned and sinusoidal."""

from typing import Any

import jax
import jax.numpy as jnp

from ..core.calls import State
from ..core.declarations import Param, Variable
from ..core.layer import Primitive
from ..fields import is_traced
from ..functional.checking import check_range
from ..functional.gradients import shared_rows, shared_sum
from ..functional.linear import floating_type
from ..functional.positions import sinusoidal
from ..functional.segments import Count, check_segments, going_on, places
from ..initializers import InitFn, normal, zeros
from ..masking import without_padding
from .checks import check_cache, check_not_training, check_positive, check_rank


class LearnedPositions(Primitive):
    """y = x + w[positions], with a learned vector for each of `length` positions.

    x and y are (..., T, n), w is (length, n) with standard deviation 0.02. Positions count from 0,
    and again from 0 in each packed sequence if `segment_ids`, integers (..., T), are given. At
    padding, 0, x counts as zeros. With `cache`, which `nn.with_cache` sets, they keep counting from
    call to call. A position past the table raises ValueError where it is known while tracing, and
    gives NaN where it is not.

    Reference: Gehring et al., Convolutional sequence to sequence learning, 2017.

    >>> import jax, jax.numpy as jnp
    >>> params = LearnedPositions(512).init(jax.random.key(0), jnp.zeros((2, 5, 8)))
    >>> jax.tree.map(jnp.shape, params)
    {'w': (512, 8)}
    """

    length: int
    w_init: InitFn = normal(0.02)
    cache: int = 0

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_positive(self, "length")
        check_cache(self)

    def parameters(self, x: Any) -> dict[str, Param]:
        """The table."""
        check_rank(self, x, 2, "(..., T, features)")
        return {"w": Param((self.length, x.shape[-1]), self.w_init)}

    def variables(self, x: Any) -> dict[str, Variable]:
        """How far each row has come, where there is a cache."""
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
        """x plus the rows of the table at its positions."""
        length = x.shape[-2]
        if not self.cache and segment_ids is None:
            self._check_last(length - 1)
            # A slice, whose gradient is no scatter.
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
                f"has {self.length} positions, and the sequence comes to position {last}, counted "
                f"from 0: write LearnedPositions({max(last + 1, 2 * self.length)}), say"
            )


class SinusoidalPositions(Primitive):
    """y = x + sin(p / base**(2i / n)) in feature 2i, and + cos of the same in feature 2i + 1.

    x and y are (..., T, n). Positions p count from 0, and again from 0 in each packed sequence if
    `segment_ids`, integers (..., T), are given. At padding, 0, x counts as zeros. With `cache`,
    which `nn.with_cache` sets, they keep counting from call to call. Computed in float32. Raises
    ValueError for a base <= 0.

    Reference: Vaswani et al., Attention is all you need, 2017.

    >>> import jax.numpy as jnp
    >>> SinusoidalPositions().apply({}, jnp.zeros((1, 2))).tolist()
    [[0.0, 1.0]]
    """

    base: float = 10000.0
    cache: int = 0

    def __post_init__(self) -> None:
        """Check the base."""
        check_cache(self)
        number = isinstance(self.base, int | float) and not isinstance(self.base, bool)
        if not is_traced(self.base) and not (number and self.base > 0):
            raise ValueError(f"SinusoidalPositions.base is a number > 0, got {self.base!r}")

    def parameters(self, x: Any) -> dict[str, Param]:
        """None: only the shape is checked."""
        check_rank(self, x, 2, "(..., T, features)")
        return {}

    def variables(self, x: Any) -> dict[str, Variable]:
        """How far each row has come, where there is a cache."""
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
        """x plus the waves at its positions."""
        positions, new = _positions(self, x, segment_ids, state, train)
        x = x if segment_ids is None else without_padding(x, segment_ids)
        return _add(x, sinusoidal(positions, x.shape[-1], self.base)), new


def _count_slots(layer: Any, x: Any) -> dict[str, Variable]:
    if not layer.cache:
        return {}
    return {name: Variable(x.shape[:-2], zeros(), "int32") for name in Count._fields}


def _positions(
    layer: Any, x: jax.Array, segment_ids: jax.Array | None, state: State | None, train: bool
) -> tuple[jax.Array, State]:
    """The positions of x, (..., T) or (1, ..., T), and the count after it."""
    if segment_ids is not None:
        check_segments(segment_ids, x.shape[:-1])
    if layer.cache:
        check_not_training(layer, train)
        count = Count(**(state or {}))
        segment_ids = going_on(count, x.shape[-2]) if segment_ids is None else segment_ids
        found, count = places(segment_ids, count)
        return found.position, count._asdict()
    if segment_ids is None:
        return jnp.arange(x.shape[-2]).reshape((1,) * (x.ndim - 2) + (-1,)), {}
    return places(segment_ids)[0].position, {}


def _add(x: jax.Array, y: jax.Array) -> jax.Array:
    dtype = floating_type(x)
    return x.astype(dtype) + y.astype(dtype)
