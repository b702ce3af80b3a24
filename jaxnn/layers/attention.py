"""Multi-head attention, with multi-query and grouped-query variants and a cache for decoding."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..arrays import without_padding
from ..core.calls import State
from ..core.declarations import Param, Variable
from ..core.layer import Primitive
from ..explain.text import describe
from ..fields import is_traced
from ..functional.attention import attend, attention, check_types, implementations, over_heads
from ..functional.checking import check_range
from ..functional.gradients import broken_rows, by_row, finite_rows, shared_product
from ..functional.linear import floating_type, linear
from ..functional.normalization import rms_norm
from ..functional.positions import alibi
from ..functional.segments import (
    Count,
    PackedPositions,
    check_segments,
    continued_segments,
    packed_mask,
    packed_positions,
    segments_mask,
    write_chunk,
    write_ring,
)
from ..initializers import InitFn, glorot_uniform, ones, zeros
from ..validation import above, flag, instance
from .checks import (
    cache_length,
    check_divides,
    check_multiples,
    check_not_training,
    check_sequence,
    dropout_rate,
    positive_size,
)
from .rotary import RotaryEmbedding

_ROTARY = None | instance(RotaryEmbedding, "nn.RotaryEmbedding(...)")


class MultiHeadAttention(Primitive):
    """Multi-head attention: `y = concat_h(softmax(q_h k_h^T / sqrt(d)) v_h) @ w_out + b_out`.

    The queries q_h are the heads of x @ w_query + b_query. Keys and values are computed in the same
    way from x, or from a second input `memory` (cross attention). x has shape (..., T, n), memory
    (..., S, m) with the same leading axes, and y (..., T, features), in the type of x. Parameters
    are `query`, `key`, `value`, and `out`, each with a weight w of two axes and a bias b, and, with
    `query_key_norm`, `query_norm` and `key_norm`, each with a scale. The softmax is computed in at
    least float32.

    Named inputs:

    - `mask`: booleans, True if a position is visible; (T, S), or broadcasting to
      (..., heads, T, S).
    - `bias`: numbers to add to the scores, with a shape as `mask`; -inf hides a position.
    - `segment_ids`: integers (..., T), 0 for padding and otherwise the number of the packed
      sequence. Only positions of the same sequence are visible, and positions count within it.
    - `memory_segment_ids`: integers (..., S). With `segment_ids`, only equal numbers are visible;
      otherwise only 0 is hidden.

    Hidden positions have no effect on outputs, even if they are NaN or inf; with a mask, a bias, or
    segment_ids they have no effect on gradients either. A position to which NaN or inf is visible
    gives NaN. If nothing is visible to a position, its heads are 0; at padding, y is b_out.

    Args:
        num_heads: Number of query heads.
        head_dim: Features of each head. Default: n / num_heads.
        num_kv_heads: Number of key and value heads, a divisor of `num_heads`: 1 for multi-query
            attention, more for grouped-query attention. Default: `num_heads`.
        features: Number of output features. Default: n.
        causal: Whether to hide later positions. Default: False.
        window: Hide positions that are `window` or more away. Default: None.
        rotary: Rotary embedding of queries and keys. Default: None.
        alibi: Whether to add ALiBi's -slope * distance to the scores. Default: False.
        query_key_norm: Whether to apply RMSNorm to queries and keys over the features of a head,
            before the rotary embedding. Default: False.
        soft_cap: If given, scaled scores s become soft_cap * tanh(s / soft_cap). Default: None.
        scale: Factor of the scores. Default: 1 / sqrt(d), with d the features of a head.
        dropout: Dropout rate of the attention weights in training, in [0, 1). Default: 0.
        bias: Whether query, key, and value have biases. Default: True.
        out_bias: Whether out has a bias. Default: `bias`.
        implementation: "own", or "xla" or "cudnn" of `jax.nn.dot_product_attention`; see
            `jaxnn.functional.attention`. On an NVIDIA GPU, "cudnn" within
            `nn.Precision(net, "bfloat16")` is several times faster than the default. Default: None.
        cache: If positive, keys and values of up to `cache` positions are state, so that a sequence
            can be passed in chunks; set by `nn.with_cache`. With a shorter `window` the cache is a
            ring buffer, without a maximal length. Memory is not cached. Default: 0.
        w_init: Initializer of the weights. Default: `glorot_uniform()`.
        b_init: Initializer of the biases. Default: `zeros()`.
        out_init: Initializer of out/w. Default: `w_init`.

    Raises:
        ValueError: If numbers of heads do not divide, if shapes do not match, if `causal`,
            `window`, `rotary`, or `alibi` are used with a memory, if a cache is used without
            `causal`, or if a concrete position is past the cache. A traced one gives NaN.

    References: Vaswani et al., Attention is all you need, 2017; Ainslie et al., GQA, 2023; Beltagy
    et al., Longformer, 2020 (windows); Henry et al., Query-key normalization for transformers,
    2020; Press et al., Train short, test long, 2021 (ALiBi).

    >>> import jax, jax.numpy as jnp
    >>> net = MultiHeadAttention(num_heads=4, num_kv_heads=2, causal=True)
    >>> params = net.init(jax.random.key(0), jnp.zeros((2, 5, 16)))
    >>> shapes = jax.tree.map(jnp.shape, params)
    >>> shapes["query"], shapes["key"]
    ({'b': (16,), 'w': (16, 16)}, {'b': (8,), 'w': (16, 8)})
    >>> jax.jit(net.apply)(params, jnp.zeros((2, 5, 16))).shape
    (2, 5, 16)
    """

    num_heads: Annotated[int, positive_size]
    head_dim: Annotated[int | None, None | positive_size] = None
    num_kv_heads: Annotated[int | None, None | positive_size] = None
    features: Annotated[int | None, None | positive_size] = None
    _: dataclasses.KW_ONLY
    causal: bool = False
    window: Annotated[int | None, None | positive_size] = None
    rotary: Annotated[RotaryEmbedding | None, _ROTARY] = None
    alibi: bool = False
    query_key_norm: bool = False
    soft_cap: Annotated[float | None, None | above(0)] = None
    scale: Annotated[float | None, None | above(0)] = None
    dropout: Annotated[float, dropout_rate] = 0.0
    bias: bool = True
    out_bias: Annotated[bool | None, None | flag] = None
    implementation: Annotated[str | None, implementations] = None
    cache: Annotated[int, cache_length] = 0
    w_init: InitFn = glorot_uniform()
    b_init: InitFn = zeros()
    out_init: InitFn | None = None

    def __post_init__(self) -> None:
        """Check the number of heads, and that cached keys can be used."""
        if self.num_kv_heads is not None:
            check_divides(self, "num_kv_heads", "num_heads")
        if self.cache:
            self._check_scaling("which cached keys cannot follow")

    def parameters(self, x: Any, memory: Any = None) -> dict[str, Any]:
        """Declare weights and biases of query, key, value, and out, and scales of the norms."""
        self._check_inputs(x, memory)
        n, m = x.shape[-1], (x if memory is None else memory).shape[-1]
        d, bias = self._head_dim(n), self.bias
        out_bias = bias if self.out_bias is None else self.out_bias
        out = n if self.features is None else self.features
        declared = {
            "query": self._projection(n, self.num_heads * d, bias, self.w_init),
            "key": self._projection(m, self._num_kv_heads * d, bias, self.w_init),
            "value": self._projection(m, self._num_kv_heads * d, bias, self.w_init),
            "out": self._projection(
                self.num_heads * d, out, out_bias, self.out_init or self.w_init
            ),
        }
        if self.query_key_norm:
            declared |= {
                name: {"scale": Param((d,), ones())} for name in ("query_norm", "key_norm")
            }
        return declared

    def variables(self, x: Any, memory: Any = None) -> dict[str, Any]:
        """Declare keys, values, and their positions, if a cache is kept."""
        if not self.cache or memory is not None:
            return {}
        batch, dtype = x.shape[:-2], floating_type(x)
        slots = (*batch, min(self.cache, self.window or self.cache))
        heads = (*slots, self._num_kv_heads, self._head_dim(x.shape[-1]))
        return {
            "keys": Variable(heads, zeros(), dtype),
            "values": Variable(heads, zeros(), dtype),
            "position": Variable(slots, zeros(), "int32"),
            "sequence": Variable(slots, zeros(), "int32"),
            "count": {name: Variable(batch, zeros(), "int32") for name in Count._fields},
            "written": Variable(batch if self._is_ring else (), zeros(), "int32"),
        }

    def forward(
        self,
        params: Any,
        x: jax.Array,
        memory: jax.Array | None = None,
        *,
        mask: jax.Array | None = None,
        bias: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        memory_segment_ids: jax.Array | None = None,
        key: Any,
        state: State | None,
        train: bool,
    ) -> tuple[jax.Array, State]:
        """Return the weighted values of all heads, projected."""
        if segment_ids is not None:
            check_segments(segment_ids, x.shape[:-1])
            x = without_padding(x, segment_ids)
        if memory is not None and memory_segment_ids is not None:
            check_segments(memory_segment_ids, memory.shape[:-1], "memory_segment_ids")
            memory = without_padding(memory, memory_segment_ids)
        check_types(mask, bias)
        across = None if memory is None else memory_segment_ids
        hides = any(a is not None for a in (mask, bias, segment_ids, across))
        checks = hides or (self.cache > 0 and memory is None)

        def projected(name: str, x: jax.Array, heads: int) -> jax.Array:
            def f(x: jax.Array) -> jax.Array:
                a = self._split(linear(x, **params[name]), heads)
                norm = params.get(f"{name}_norm")
                return a if norm is None else _normalized(a, norm["scale"])

            return by_row(f, x, checks)

        source = x if memory is None else memory
        q = projected("query", x, self.num_heads)
        k = projected("key", source, self._num_kv_heads)
        v = projected("value", source, self._num_kv_heads)
        options = {
            "scale": self.scale,
            "soft_cap": self.soft_cap,
            "implementation": self.implementation,
        }
        if train and self._draws():
            options |= {"dropout": self.dropout, "key": key}
        new: State = {}
        if memory is not None:
            across = _mask_across(segment_ids, memory_segment_ids)
            y = attention(q, k, v, mask=_both(mask, across, q.ndim), bias=bias, **options)
        elif self.cache:
            check_not_training(self, train)
            if mask is not None or bias is not None:
                raise ValueError(
                    "a mask or a bias does not cover the cached keys: pass segment_ids=..., or run "
                    "the network without its cache"
                )
            y, new = self._with_cache(q, k, v, segment_ids, state or {}, options)
        else:
            if segment_ids is not None:
                self._check_scaling("but a row with segment_ids has sequences of several lengths")
            found = None if segment_ids is None else packed_positions(segment_ids)[0]
            position = _one_sequence(x) if found is None else found.position
            q, k = (self._turned(a, position, x.shape[-2]) for a in (q, k))
            options |= {"causal": self.causal, "window": self.window}
            bias = self._with_alibi(bias, position, position, q.ndim)
            if hides or self.causal or self.window is not None:
                y = attention(q, k, v, mask=mask, bias=bias, segment_ids=segment_ids, **options)
            else:
                y = attend(q, k, v, bias=bias, **options)
        y = y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1])
        return by_row(lambda y: linear(y, **params["out"]), y, checks), new

    def _with_cache(
        self, q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: Any, state: State, options: Any
    ) -> tuple[jax.Array, State]:
        """Attend to the cached keys and those of this chunk; return the output and the cache."""
        *batch, length = q.shape[:-2]
        # The mask excludes NaN in keys from the scores, but not NaN in values from the sums.
        v, broken = finite_rows(v)
        k = broken_rows(k, jnp.any(broken, -2, keepdims=True))
        count, written = Count(**state["count"]), state["written"]
        segment_ids = continued_segments(count, length) if segment_ids is None else segment_ids
        found, count = packed_positions(segment_ids, count)
        q, k = (self._turned(a, found.position, length) for a in (q, k))
        chunk = {"keys": k, "values": v, **found._asdict()}
        cache = {name: state[name] for name in chunk}
        if self._is_ring:
            joined = {
                name: jnp.concatenate([slots, chunk[name].astype(slots.dtype)], len(batch))
                for name, slots in cache.items()
            }
            cache, written = write_ring(cache, chunk, segment_ids != 0, written)
        else:
            self._check_room(written, length)
            last, room = written + length - 1, self.cache
            check_range(last, room, f"position {{value}} is past a cache of {room}")
            joined = cache = write_chunk(cache, chunk, written, len(batch))
            written = written + length
        keys = PackedPositions(joined["sequence"], joined["position"])
        y = attend(
            q,
            joined["keys"],
            joined["values"],
            packed_mask(found, keys, causal=True, window=self.window)[..., None, :, :],
            self._with_alibi(None, found.position, keys.position, q.ndim),
            **options,
        )
        if not self._is_ring:
            y = jnp.where(written > self.cache, jnp.asarray(jnp.nan, y.dtype), y)
        return y, cache | {"count": count._asdict(), "written": written}

    @property
    def _is_ring(self) -> bool:
        return self.window is not None and self.window < self.cache

    @property
    def _num_kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    def _draws(self) -> bool:
        return is_traced(self.dropout) or self.dropout > 0

    def _head_dim(self, n: int) -> int:
        return n // self.num_heads if self.head_dim is None else self.head_dim

    def _projection(self, n: int, m: int, bias: bool, w_init: InitFn) -> dict[str, Param]:
        w = {"w": Param((n, m), w_init)}
        return w | {"b": Param((m,), self.b_init)} if bias else w

    def _split(self, a: jax.Array, heads: int) -> jax.Array:
        """Reshape (..., T, heads * d) to (..., T, heads, d)."""
        return a.reshape(*a.shape[:-1], heads, a.shape[-1] // heads)

    def _turned(self, a: jax.Array, position: jax.Array, length: int) -> jax.Array:
        if self.rotary is None:
            return a
        return self.rotary.rotate(a, position, length)

    def _with_alibi(
        self, bias: jax.Array | None, query: jax.Array, key: jax.Array, ndim: int
    ) -> jax.Array | None:
        """Return the sum of the bias and ALiBi's bias, (..., heads, T, S)."""
        if not self.alibi:
            return bias
        slopes = alibi(query, key, self.num_heads)
        return slopes if bias is None else over_heads(bias, ndim).astype(slopes.dtype) + slopes

    def _check_inputs(self, x: Any, memory: Any) -> None:
        check_sequence(x)
        if memory is not None:
            check_sequence(memory, wanted="(..., S, features)")
        if self.head_dim is None:
            hint = "change num_heads, or set head_dim"
            check_multiples(x, "features", x.shape[-1:], (self.num_heads,), hint)
        d = self._head_dim(x.shape[-1])
        if self.rotary is not None:
            self.rotary.turned_features(d)
        wrong = []
        if memory is None and self.cache and not self.causal:
            wrong.append(
                "attends to later positions, so it needs the whole sequence and cannot keep a "
                "cache: write causal=True, or run it without nn.with_cache"
            )
        if memory is not None and memory.shape[:-2] != x.shape[:-2]:
            wrong.append(
                "x and memory must have equal axes before (T, features) and (S, features); got "
                f"{describe(x)} and {describe(memory)}"
            )
        by_position = [n for n in ("causal", "window", "rotary", "alibi") if getattr(self, n)]
        if memory is not None and by_position:
            wrong.append(
                f"{' and '.join(by_position)} cannot be used with a memory, which has other "
                "positions: use another MultiHeadAttention for the memory"
            )
        if wrong:
            raise ValueError("; ".join(wrong))

    def _check_scaling(self, why: str) -> None:
        scaling = None if self.rotary is None else self.rotary.scaling
        if scaling is not None and scaling.by_length:
            raise ValueError(
                f"{scaling!r} changes the angles of all positions with the length of the sequence, "
                f"{why}: use nn.NTKScaling or nn.YaRNScaling"
            )

    def _check_room(self, written: Any, length: int) -> None:
        known = 0 if is_traced(written) else int(written)
        if known + length > self.cache:
            raise ValueError(
                f"the cache of {self.cache} positions holds {known}, so {length} more do not fit; "
                "write for example "
                f"nn.with_cache(net, length={max(2 * self.cache, known + length)}), "
                "or start with a new state"
            )


def _normalized(a: jax.Array, scale: jax.Array) -> jax.Array:
    return shared_product(rms_norm(a), scale)


def _one_sequence(x: jax.Array) -> jax.Array:
    """Return positions (1, ..., T) of a sequence without padding."""
    return jnp.arange(x.shape[-2]).reshape((1,) * (x.ndim - 2) + (-1,))


def _mask_across(segment_ids: Any, memory_segment_ids: Any) -> jax.Array | None:
    """Return which positions of the memory are visible to each query, (..., 1, T or 1, S)."""
    if memory_segment_ids is None:
        return None
    if segment_ids is None:
        return (memory_segment_ids != 0)[..., None, None, :]
    return segments_mask(segment_ids, memory_segment_ids)[..., None, :, :]


def _both(mask: jax.Array | None, other: jax.Array | None, ndim: int) -> jax.Array | None:
    if mask is None or other is None:
        return other if mask is None else mask
    return over_heads(mask, ndim) & other
