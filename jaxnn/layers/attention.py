"""Multi-head attention, with multi-query and grouped-query variants and a cache for decoding."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import lax

from ..core.calls import State
from ..core.declarations import Param
from ..core.layer import Primitive
from ..fields import is_traced
from ..functional.attention import (
    attend,
    attention,
    implementations,
    over_heads,
    soft_cap,
)
from ..functional.dropout import dropout as drop
from ..functional.gradients import by_row, shared_product
from ..functional.linear import linear, merge_batch
from ..functional.normalization import rms_norm
from ..functional.positions import alibi
from ..functional.segments import packed_positions
from ..initializers import InitFn, glorot_uniform, ones, zeros
from ..validation import above, flag, instance, number, require
from . import (
    axis_or_axes,
    cache_length,
    check_divides,
    check_not_training,
    dropout_rate,
    plain_function,
    positive_size,
)
from .attention_inputs import (
    AttentionInputs,
    attend_cached,
    both_masks,
    cache_variables,
    check_attention,
    mask_across,
    restore_axes,
)
from .attention_scores import PrefixMask
from .rotary import RotaryEmbedding

_ROTARY = None | instance(RotaryEmbedding, "nn.RotaryEmbedding(...)")


class MultiHeadAttention(Primitive):
    """Multi-head attention: `y = concat_h(softmax(q_h k_h^T / sqrt(d)) v_h) @ w_out + b_out`.

    The queries q_h are the heads of x @ w_query + b_query. Keys and values are computed in the same
    way from x, or from a second input `memory` (cross attention); values are computed from a third
    input `values`, if given. x has shape (..., T, n), memory (..., S, m), and values (..., S, k),
    with equal leading axes, and y (..., T, features), in the type of x. Parameters are `query`,
    `key`, `value`, and `out`, each with a weight w of two axes and a bias b, and, with
    `query_key_norm`, `query_norm` and `key_norm`, each with a scale. The softmax is computed in at
    least float32.

    Named inputs:

    - `mask`: booleans, True if a position is visible; (T, S), or broadcasting to
      (..., heads, T, S).
    - `bias`: numbers to add to the scores, in the shape of a `mask`; -inf hides a position. Or a
      function bias(query, key) of positions, as for `score_mod`, that returns them, such as the
      result of the method `by_position` of `nn.RelativePositionBias`.
    - `segment_ids`: integers (..., T), 0 for padding and otherwise the number of the packed
      sequence. Only positions of the same sequence are visible, and positions count within it.
    - `memory_segment_ids`: integers (..., S). With `segment_ids`, only equal numbers are visible;
      otherwise only 0 is hidden.

    Hidden positions have no effect on outputs, even if they are NaN or inf; with a mask, a bias, or
    segment_ids they have no effect on gradients either. A position to which NaN or inf is visible
    gives NaN. If nothing is visible to a position, its heads are 0; at padding, y is b_out.

    The method `weights` returns the weights of all heads, (..., heads, T, S), before dropout, and
    `with_weights` returns y and these weights; `nn.capture(net, "**/*.weights")` returns those of
    all layers of a network.

    Args:
        num_heads: Number of query heads.
        head_dim: Features of each head. Default: n / num_heads.
        num_kv_heads: Number of key and value heads, a divisor of `num_heads`: 1 for multi-query
            attention, more for grouped-query attention. Default: `num_heads`.
        features: Number of output features. Default: n.
        value_dim: Features of the values of each head. Default: `head_dim`.
        axis: Axis of the sequence, or several axes, whose positions form one sequence in the order
            of the given axes. All other axes but the last are batch axes. Masks and segment_ids
            refer to shapes (..., T, n) of this sequence. Default: -2.
        causal: Whether to hide later positions. Default: False.
        window: Hide positions that are `window` or more away. Default: None.
        rotary: Rotary embedding of queries and keys. Default: None.
        alibi: Whether to add ALiBi's -slope * distance to the scores. Default: False.
        query_key_norm: Whether to apply RMSNorm to queries and keys over the features of a head,
            before the rotary embedding. Default: False.
        norm_eps: Added to the mean square in these norms, a number >= 0. Default: 1e-6.
        soft_cap: If given, scaled scores s become soft_cap * tanh(s / soft_cap). Default: None.
        score_mod: Function score_mod(scores, query, key) that returns modified scores. It receives
            scaled scores (..., heads, T, S), after the soft cap, positions of the queries, integers
            (..., 1, T, 1), and positions of the keys, (..., 1, 1, S). Positions count within each
            sequence of `segment_ids`. Default: None.
        mask_mod: Function mask_mod(query, key) of positions, as for `score_mod`, that returns
            booleans, False to hide a key, such as `nn.PrefixMask(8)`. It is combined with all other
            masks. With a cache, positions that see each other, such as a prefix, must be passed in
            one call. Default: None.
        scale: Factor of the scores. Default: 1 / sqrt(d), with d the features of a head.
        dropout: Dropout rate of the attention weights in training, in [0, 1). Default: 0.
        bias: Whether query, key, and value have biases. Default: True.
        out_bias: Whether out has a bias. Default: `bias`.
        implementation: "own", or "xla" or "cudnn" of `jax.nn.dot_product_attention`; see
            `jaxnn.functional.attention`. On an NVIDIA GPU, "cudnn" within
            `nn.Precision(net, "bfloat16")` is several times faster than the default. Default: None,
            chosen by the device and the other arguments.
        cache: If positive, keys and values of up to `cache` positions are state, so that a sequence
            can be passed in chunks; set by `nn.with_cache`. With a shorter `window`, the cache is a
            ring buffer without a maximum length. Memory is not cached. Default: 0.
        w_init: Initializer of the weights. Default: `glorot_uniform()`.
        b_init: Initializer of the biases. Default: `zeros()`.
        out_init: Initializer of out/w. Default: `w_init`.

    Raises:
        ValueError: If `num_kv_heads` does not divide `num_heads`, if shapes do not match, if
            `causal`, `window`, `rotary`, or `alibi` are used with a memory, if `causal` is combined
            with a prefix, or if a cache is used without `causal` and `mask_mod`. With a cache, a
            concrete position that is past it, or that sees a position of a later call, raises; a
            traced one gives NaN.

    References: Vaswani et al., Attention is all you need, 2017; Ainslie et al., GQA, 2023; Beltagy
    et al., Longformer, 2020 (windows); Henry et al., Query-key normalization for transformers,
    2020; Press et al., Train short, test long, 2021 (ALiBi); Dong et al., Flex attention, 2024
    (score_mod and mask_mod).

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
    value_dim: Annotated[int | None, None | positive_size] = None
    axis: Annotated[int | tuple[int, ...], axis_or_axes] = -2
    causal: bool = False
    window: Annotated[int | None, None | positive_size] = None
    rotary: Annotated[RotaryEmbedding | None, _ROTARY] = None
    alibi: bool = False
    query_key_norm: bool = False
    norm_eps: Annotated[float, number(0)] = 1e-6
    soft_cap: Annotated[float | None, None | above(0)] = None
    score_mod: Annotated[Callable[..., Any] | None, None | plain_function] = None
    mask_mod: Annotated[Callable[..., Any] | None, None | plain_function] = None
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
        hides = self.causal and isinstance(self.mask_mod, PrefixMask)
        what = "False with PrefixMask, whose positions see later ones"
        require(not hides, "MultiHeadAttention.causal", what, True, "omit causal")
        if self.cache:
            self._check_scaling("which cached keys cannot follow")

    def parameters(self, x: Any, memory: Any = None, values: Any = None) -> dict[str, Any]:
        """Declare weights and biases of query, key, value, and out, and scales of the norms."""
        check_attention(self, x, memory, values)
        n, m = x.shape[-1], (x if memory is None else memory).shape[-1]
        d, bias = self._head_dim(n), self.bias
        e, k = self._value_dim(n), m if values is None else values.shape[-1]
        out_bias = bias if self.out_bias is None else self.out_bias
        out = n if self.features is None else self.features
        declared = {
            "query": self._projection(n, self.num_heads * d, bias, self.w_init),
            "key": self._projection(m, self._num_kv_heads * d, bias, self.w_init),
            "value": self._projection(k, self._num_kv_heads * e, bias, self.w_init),
            "out": self._projection(
                self.num_heads * e, out, out_bias, self.out_init or self.w_init
            ),
        }
        if self.query_key_norm:
            declared |= {
                name: {"scale": Param((d,), ones())} for name in ("query_norm", "key_norm")
            }
        return declared

    def variables(self, x: Any, memory: Any = None, values: Any = None) -> dict[str, Any]:
        """Declare keys, values, and their positions, if a cache is kept."""
        if not self.cache or memory is not None:
            return {}
        return cache_variables(self, x)

    def forward(
        self,
        params: Any,
        x: jax.Array,
        memory: jax.Array | None = None,
        values: jax.Array | None = None,
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
        dropout = partial(drop, key, rate=self.dropout) if train and self._draws() else None
        given = AttentionInputs(
            self, x, memory, values, mask, bias, segment_ids, memory_segment_ids
        )
        if self.cache and memory is None:
            check_not_training(self, train)
        y, new = self._heads(params, given, dropout, state or {})
        return self._out(params, y, given), new

    def with_weights(
        self,
        params: Any,
        x: jax.Array,
        memory: jax.Array | None = None,
        values: jax.Array | None = None,
        *,
        mask: jax.Array | None = None,
        bias: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        memory_segment_ids: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Return y in inference, and the weights (..., heads, T, S)."""
        if self.cache:
            raise ValueError(
                "the weights of a chunk would leave out cached keys; run the network that was "
                "passed to nn.with_cache, whose parameters are the same"
            )
        given = AttentionInputs(
            self, x, memory, values, mask, bias, segment_ids, memory_segment_ids
        )
        y, _ = self._heads(params, given, None, {}, weights=True)
        e = self._value_dim(x.shape[-1])
        return self._out(params, y[..., :e], given), jnp.swapaxes(y[..., e:], -2, -3)

    def weights(
        self,
        params: Any,
        x: jax.Array,
        memory: jax.Array | None = None,
        values: jax.Array | None = None,
        *,
        mask: jax.Array | None = None,
        bias: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        memory_segment_ids: jax.Array | None = None,
    ) -> jax.Array:
        """Return the weights (..., heads, T, S) in inference."""
        named = {"mask": mask, "bias": bias, "segment_ids": segment_ids}
        named["memory_segment_ids"] = memory_segment_ids
        return self.with_weights(params, x, memory, values, **named)[1]

    def _heads(
        self, params: Any, given: AttentionInputs, dropout: Any, state: State, weights: bool = False
    ) -> tuple[jax.Array, State]:
        """Return the weighted values of each head, (..., T, heads, e), and the new cache.

        With `weights`, unit vectors follow the values, whose weighted sums are the weights.
        """
        x, memory = given.x, given.memory
        checks = given.hides or (self.cache > 0 and memory is None)

        def projected(name: str, x: jax.Array, rows: jax.Array, heads: int) -> jax.Array:
            d, norm = params[name]["w"].shape[-1] // heads, params.get(f"{name}_norm")

            def f(rows: jax.Array) -> jax.Array:
                a = linear(rows, **params[name])
                if norm is None:
                    return a
                split = rms_norm(a.reshape(*a.shape[:-1], heads, d), eps=self.norm_eps)
                return shared_product(split, norm["scale"])

            return by_row(f, rows, checks).reshape(*x.shape[:-1], heads, d)

        rows = merge_batch(x)
        source, others = (x, rows) if memory is None else (memory, merge_batch(memory))
        q = projected("query", x, rows, self.num_heads)
        k = projected("key", source, others, self._num_kv_heads)
        others = others if given.values is None else merge_batch(given.values)
        v = projected("value", source, others, self._num_kv_heads)
        options: dict[str, Any] = {
            "scale": self.scale,
            "dropout": dropout,
            "implementation": self.implementation,
        }
        if weights:
            options["implementation"] = "own"
            unit = jnp.eye(k.shape[-3], dtype=v.dtype)[:, None]
            unit = unit.reshape((1,) * (v.ndim - 3) + unit.shape)
            v = jnp.concatenate([v, jnp.broadcast_to(unit, (*v.shape[:-1], k.shape[-3]))], -1)
        if memory is not None:
            mask, options["score_mod"] = self._mods(
                _one_sequence(x), _one_sequence(memory), given.bias_mod
            )
            across = mask_across(given.segment_ids, given.memory_segment_ids)
            mask = both_masks(both_masks(given.mask, across, q.ndim), mask, q.ndim)
            return attention(q, k, v, mask=mask, bias=given.bias, **options), {}
        if self.cache:
            if given.mask is not None or given.bias is not None:
                raise ValueError(
                    "a mask or a bias does not cover the cached keys: pass segment_ids=..., or run "
                    "the network without its cache"
                )
            return attend_cached(self, q, k, v, given, state, options)
        segment_ids = given.segment_ids
        if segment_ids is not None:
            self._check_scaling("but a row with segment_ids has sequences of several lengths")
        found = None if segment_ids is None else packed_positions(segment_ids)[0]
        position = _one_sequence(x) if found is None else found.position
        q, k = (self._turned(a, position, x.shape[-2]) for a in (q, k))
        mask, options["score_mod"] = self._mods(position, position, given.bias_mod)
        mask = both_masks(given.mask, mask, q.ndim)
        options |= {"causal": self.causal, "window": self.window}
        bias = self._with_alibi(given.bias, position, position, q.ndim)
        if given.hides or self.causal or self.window is not None:
            y = attention(q, k, v, mask=mask, bias=bias, segment_ids=segment_ids, **options)
        else:
            y = attend(q, k, v, bias=bias, **options)
        return y, {}

    def _out(self, params: Any, y: jax.Array, given: AttentionInputs) -> jax.Array:
        """Project the heads, and restore the axes of x."""
        y = y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1])
        checks = given.hides or (self.cache > 0 and given.memory is None)
        y = by_row(lambda y: linear(y, **params["out"]), y, checks)
        return restore_axes(y, given.given, self.axis)

    def _mods(self, query: jax.Array, key: jax.Array, bias: Any = None) -> tuple[Any, Any]:
        """Return the mask of `mask_mod`, and all changes of scores, for given positions.

        Args:
            query: Positions of the queries (..., T).
            key: Positions of the keys (..., S).
            bias: Function bias(query, key) to add to the scores, or None.
        """
        cap = None if self.soft_cap is None else soft_cap(self.soft_cap)
        added = None if bias is None else partial(_added, bias)
        changes = [f for f in (cap, self.score_mod, added) if f is not None]
        if not changes and self.mask_mod is None:
            return None, None
        query, key = query[..., None, :, None], key[..., None, None, :]
        mask = None if self.mask_mod is None else self.mask_mod(query, key)
        if not changes:
            return mask, None

        def changed(scores: jax.Array, *_: Any) -> jax.Array:
            for f in changes:
                scores = f(scores, query, key)
            return scores

        return mask, changed

    @property
    def _num_kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    def _draws(self) -> bool:
        return is_traced(self.dropout) or self.dropout > 0

    def _head_dim(self, n: int) -> int:
        return n // self.num_heads if self.head_dim is None else self.head_dim

    def _value_dim(self, n: int) -> int:
        return self._head_dim(n) if self.value_dim is None else self.value_dim

    def _projection(self, n: int, m: int, bias: bool, w_init: InitFn) -> dict[str, Param]:
        w = {"w": Param((n, m), w_init)}
        return w | {"b": Param((m,), self.b_init)} if bias else w

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

    def _check_scaling(self, why: str) -> None:
        scaling = None if self.rotary is None else self.rotary.scaling
        if scaling is not None and scaling.by_length:
            raise ValueError(
                f"{scaling!r} changes the angles of all positions with the length of the sequence, "
                f"{why}: use nn.NTKScaling or nn.YaRNScaling"
            )


def _added(bias: Any, scores: jax.Array, query: jax.Array, key: jax.Array) -> jax.Array:
    """Return the scores plus a bias that is a function of positions."""
    return scores + bias(query, key).astype(scores.dtype)


def _one_sequence(x: jax.Array) -> jax.Array:
    """Return positions (1, ..., T) of a sequence without padding."""
    shape = (1,) * (x.ndim - 2) + (x.shape[-2],)
    return lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
