"""Other scores and masks of attention: additive scores, T5's relative biases, prefixes, blocks."""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..arrays import without_padding
from ..core.declarations import Param
from ..core.layer import Primitive
from ..core.values import Value
from ..functional.gradients import by_row, shared_rows
from ..functional.linear import floating_type, linear, wider_type
from ..functional.segments import check_segments
from ..initializers import InitFn, glorot_uniform, normal, zeros
from ..validation import check_below, integer
from . import check_sequence, positive_size


class RelativePositionBias(Primitive):
    """T5's relative position bias: `bias[h, t, s] = w[bucket(s - t), h]`, for the scores of heads.

    Inputs are the sequence x (..., T, n), and a memory (..., S, m) if keys are computed from it;
    only their shapes are used. The output is the bias, (1, ..., heads, T, S) with one more axis
    than x, for the named input `bias` of `nn.MultiHeadAttention`. The parameter is
    w (num_buckets, num_heads). The method `by_position` returns a function of positions for the
    same input; use it if sequences are packed, or if keys are cached.

    Half of the buckets are for keys at later positions, unless `causal` is True. On each side, the
    first half of the buckets hold one distance each (0, 1, 2, ...), and the others grow
    logarithmically up to `max_distance`; the last one holds all greater distances.

    Args:
        num_heads: Number of heads.
        num_buckets: Number of buckets. Default: 32.
        max_distance: Distance at and beyond which all positions on a side share one bucket.
            Default: 128.
        causal: Whether all keys at later positions share the bucket of distance 0. Default: False.
        w_init: Initializer of w. Default: `normal(0.02)`.

    Raises:
        ValueError: If `max_distance` is not greater than `num_buckets`.

    Reference: Raffel et al., Exploring the limits of transfer learning with a unified text-to-text
    transformer, 2020.

    >>> import jax, jax.numpy as jnp
    >>> net, x = RelativePositionBias(4), jnp.zeros((2, 5, 8))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params), net.apply(params, x).shape
    ({'w': (32, 4)}, (1, 4, 5, 5))
    """

    num_heads: Annotated[int, positive_size]
    num_buckets: Annotated[int, integer(4).such(hint="write num_buckets=32")] = 32
    max_distance: Annotated[int, positive_size] = 128
    causal: bool = False
    w_init: InitFn = normal(0.02)

    def __post_init__(self) -> None:
        """Check that distances are left for the buckets that grow."""
        check_below(self, "num_buckets", "max_distance")

    def parameters(self, x: Any, memory: Any = None) -> dict[str, Param]:
        """Declare the table."""
        check_sequence(x)
        return {"w": Param((self.num_buckets, self.num_heads), self.w_init)}

    def forward(self, params: Any, x: jax.Array, memory: jax.Array | None = None) -> jax.Array:
        """Return the bias of each head, query, and key."""
        keys = x if memory is None else memory
        steps = [jnp.arange(a.shape[-2], dtype=jnp.int32) for a in (keys, x)]
        front = (1,) * (x.ndim - 1)
        query, key = steps[1].reshape(*front, -1, 1), steps[0].reshape(*front, 1, -1)
        return self._at(params["w"], query, key).astype(floating_type(x))

    def by_position(self, params: Any, x: jax.Array) -> jax.tree_util.Partial:
        """Return a function bias(query, key) of positions, for `nn.MultiHeadAttention`.

        Args:
            x: The sequence (..., T, n); the function does not depend on it.
        """
        return jax.tree_util.Partial(self._at, params["w"])

    def _at(self, w: jax.Array, query: jax.Array, key: jax.Array) -> jax.Array:
        """Return the bias (..., heads, T, S) of positions (..., 1, T, 1) and (..., 1, 1, S)."""
        rows = shared_rows(w, self._bucket(key - query)[..., 0, :, :])
        return jnp.moveaxis(rows, -1, -3)

    def _bucket(self, away: jax.Array) -> jax.Array:
        """Return the bucket of each difference of positions, key minus query."""
        n, first = self.num_buckets, jnp.zeros_like(away)
        if self.causal:
            away = jnp.maximum(-away, 0)
        else:
            n //= 2
            first, away = jnp.where(away > 0, n, 0), jnp.abs(away)
        exact = n // 2
        logs = jnp.log(jnp.maximum(away, 1).astype(jnp.float32) / exact)
        grown = exact + (logs / math.log(self.max_distance / exact) * (n - exact)).astype(jnp.int32)
        return first + jnp.where(away < exact, away, jnp.minimum(grown, n - 1))


class AdditiveAttention(Primitive):
    """Additive attention: `y = softmax(tanh(x @ w_query + memory @ w_key + b) @ w_score) @ memory`.

    x has shape (..., T, n), memory (..., S, m), and y (..., T, m), in the type of x. Without a
    memory, x attends to itself. Parameters are `query` and `score`, each with a weight w, and
    `key`, with w and b. The named input `memory_segment_ids`, integers (..., S), is 0 for hidden
    positions of the memory, which have no effect. If nothing is visible, y is 0.

    Args:
        features: Number of features of the hidden layer, whose tanh is scored.
        w_init: Initializer of the weights. Default: `glorot_uniform()`.

    Reference: Bahdanau et al., Neural machine translation by jointly learning to align and
    translate, 2015.

    >>> import jax, jax.numpy as jnp
    >>> net, x, memory = AdditiveAttention(8), jnp.zeros((2, 5, 4)), jnp.ones((2, 3, 6))
    >>> net.apply(net.init(jax.random.key(0), x, memory), x, memory).shape
    (2, 5, 6)
    """

    features: Annotated[int, positive_size]
    w_init: InitFn = glorot_uniform()

    def parameters(self, x: Any, memory: Any = None) -> dict[str, Any]:
        """Declare the weights of the query, the key, and the score."""
        check_sequence(x)
        keys, f = x if memory is None else memory, self.features
        check_sequence(keys, wanted="(..., S, features)")
        return {
            "query": {"w": Param((x.shape[-1], f), self.w_init)},
            "key": {
                "w": Param((keys.shape[-1], f), self.w_init),
                "b": Param((f,), zeros()),
            },
            "score": {"w": Param((f, 1), self.w_init)},
        }

    def forward(
        self,
        params: Any,
        x: jax.Array,
        memory: jax.Array | None = None,
        *,
        memory_segment_ids: jax.Array | None = None,
    ) -> jax.Array:
        """Return the weighted memory."""
        dtype = floating_type(x)
        source: Any = (x if memory is None else memory).astype(dtype)
        x = x.astype(dtype)
        seen = None
        if memory_segment_ids is not None:
            check_segments(memory_segment_ids, source.shape[:-1], "memory_segment_ids")
            source = without_padding(source, memory_segment_ids)
            seen = (memory_segment_ids != 0)[..., None, :]
        q = by_row(lambda x: linear(x, **params["query"]), x, seen is not None)
        k = by_row(lambda m: linear(m, **params["key"]), source, seen is not None)
        hidden = jnp.tanh(q[..., :, None, :] + k[..., None, :, :])
        scores = linear(hidden, **params["score"])[..., 0].astype(wider_type(dtype, jnp.float32))
        if seen is None:
            weights = jax.nn.softmax(scores, -1)
        else:
            least = jnp.asarray(-0.7 * float(jnp.finfo(scores.dtype).max), scores.dtype)
            weights = jax.nn.softmax(jnp.where(seen, scores, least), -1)
            weights = jnp.where(seen, weights, 0)
        wide = weights.dtype
        y = jnp.einsum("...ts,...sm->...tm", weights, source, preferred_element_type=wide)
        return y.astype(dtype)


class PrefixMask(Value):
    """A mask_mod of prefix language models: positions see the prefix and all earlier positions.

    It needs `causal=False`, since a causal attention would hide later positions of the prefix, too.
    Under `nn.with_cache`, pass the whole prefix in the first call.

    Args:
        length: Number of positions of the prefix.

    Reference: Raffel et al., 2020, as for `RelativePositionBias`.

    >>> import jax.numpy as jnp
    >>> PrefixMask(2)(jnp.arange(3)[:, None], jnp.arange(3)).astype(int).tolist()
    [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    """

    length: Annotated[int, positive_size]

    def __call__(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """Return which keys are visible, from positions that broadcast."""
        return (key < self.length) | (key <= query)


class BlockMask(Value):
    """A mask_mod of block attention: positions see those in the same block of `size` positions.

    Args:
        size: Number of positions of a block.
        before: Number of preceding blocks that a position also sees. Default: 0.
        after: Number of following blocks that a position also sees. Default: 0.

    Reference: Zaheer et al., Big Bird, 2020 (blocks of neighbors).

    >>> import jax.numpy as jnp
    >>> BlockMask(2)(jnp.arange(4)[:, None], jnp.arange(4)).astype(int).tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    """

    size: Annotated[int, positive_size]
    before: Annotated[int, integer(0)] = 0
    after: Annotated[int, integer(0)] = 0

    def __call__(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """Return which keys are visible, from positions that broadcast."""
        away = key // self.size - query // self.size
        return (away >= -self.before) & (away <= self.after)
