"""The inputs of multi-head attention: their checks, axes, padding, and masks; and its cache.

The cache holds keys, values, and their positions, for decoding in chunks. Keys and values have the
shape (..., kv_heads, slots, features), so that a product for each head reads them in order; with
another order, XLA would copy the whole cache at each token.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ..arrays import check_range, without_padding
from ..core.calls import State
from ..core.declarations import Variable
from ..explain.text import describe
from ..fields import is_traced
from ..functional.attention import attend, check_types, over_heads
from ..functional.gradients import broken_rows, finite_rows
from ..functional.linear import floating_type, wider_type
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
from ..initializers import zeros
from . import check_multiples, check_sequence, distinct_axes


class AttentionInputs:
    """The inputs of attention as sequences (..., T, n), zeros at padding, and what hides keys."""

    def __init__(
        self,
        layer: Any,
        x: jax.Array,
        memory: jax.Array | None,
        values: jax.Array | None,
        mask: jax.Array | None,
        bias: Any,
        segment_ids: jax.Array | None,
        memory_segment_ids: jax.Array | None,
    ) -> None:
        # A bias that is a function of positions changes scores, and hides nothing.
        self.bias_mod: Any = bias if callable(bias) else None
        bias = None if callable(bias) else bias
        check_types(mask, bias)
        self.given: jax.Array = x
        self.mask: jax.Array | None = mask
        self.bias: jax.Array | None = bias
        self.segment_ids: jax.Array | None = segment_ids
        self.memory_segment_ids: jax.Array | None = memory_segment_ids
        self.x: jax.Array = sequence(x, layer.axis)
        self.memory: jax.Array | None = None if memory is None else sequence(memory, layer.axis)
        self.values: jax.Array | None = None if values is None else sequence(values, layer.axis)
        if segment_ids is not None:
            check_segments(segment_ids, self.x.shape[:-1])
            self.x = without_padding(self.x, segment_ids)
        across = None if memory is None else memory_segment_ids
        if across is not None and self.memory is not None:
            check_segments(across, self.memory.shape[:-1], "memory_segment_ids")
            self.memory = without_padding(self.memory, across)
            self.values = None if self.values is None else without_padding(self.values, across)
        hiding = (mask, bias, segment_ids, across, layer.mask_mod)
        self.hides: bool = any(a is not None for a in hiding)


def sequence(a: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Return an array with the given axes as one, (..., T, n)."""
    if axis == -2:
        return a
    axes = distinct_axes(a, axis)
    a = jnp.moveaxis(a, axes, range(-1 - len(axes), -1))
    length = math.prod(a.shape[-1 - len(axes) : -1])
    return a.reshape(*a.shape[: -1 - len(axes)], length, a.shape[-1])


def restore_axes(y: jax.Array, x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Return y (..., T, m) with the axes of x that `sequence` made one."""
    if axis == -2:
        return y
    axes = distinct_axes(x, axis)
    y = y.reshape(*y.shape[:-2], *(x.shape[i] for i in axes), y.shape[-1])
    return jnp.moveaxis(y, range(-1 - len(axes), -1), axes)


def mask_across(segment_ids: Any, memory_segment_ids: Any) -> jax.Array | None:
    """Return whether each position of the memory is visible to each query, (..., 1, T or 1, S)."""
    if memory_segment_ids is None:
        return None
    if segment_ids is None:
        return (memory_segment_ids != 0)[..., None, None, :]
    return segments_mask(segment_ids, memory_segment_ids)[..., None, :, :]


def both_masks(mask: jax.Array | None, other: jax.Array | None, ndim: int) -> jax.Array | None:
    """Return what both masks allow, with `ndim` axes; a mask may be None."""
    if mask is None or other is None:
        return other if mask is None else mask
    return over_heads(mask, ndim) & over_heads(other, ndim)


def check_attention(layer: Any, x: Any, memory: Any, values: Any) -> None:
    """Raise ValueError for inputs that `MultiHeadAttention` does not take.

    Args:
        layer: The layer.
        x: First input.
        memory: Second input, or None.
        values: Third input, or None.
    """
    check_sequence(x)
    for other in (memory, values):
        if other is not None:
            check_sequence(other, wanted="(..., S, features)")
    if layer.head_dim is None:
        hint = "change num_heads, or set head_dim"
        check_multiples(x, "features", x.shape[-1:], (layer.num_heads,), hint)
    d = layer._head_dim(x.shape[-1])
    if layer.rotary is not None:
        layer.rotary.turned_features(d)
    wrong = []
    if memory is None and layer.cache and not layer.causal and layer.mask_mod is None:
        wrong.append(
            "attends to later positions, so it needs the whole sequence and cannot keep a "
            "cache: write causal=True, or run it without nn.with_cache"
        )
    if layer.cache and layer.axis != -2:
        wrong.append(f"keeps a cache of the axis -2 only, not of axis={layer.axis!r}")
    if memory is not None and _batch(layer, memory) != _batch(layer, x):
        wrong.append(
            "x and memory must have equal axes before (T, features) and (S, features); got "
            f"{describe(x)} and {describe(memory)}"
        )
    keys = x if memory is None else memory
    if values is not None and (memory is None or values.shape[:-1] != keys.shape[:-1]):
        wrong.append(
            "values need a memory of the same shape except for the features, whose keys they "
            f"belong to; got values {describe(values)} for "
            f"{'no memory' if memory is None else describe(memory)}"
        )
    by_position = [n for n in ("causal", "window", "rotary", "alibi") if getattr(layer, n)]
    if memory is not None and by_position:
        wrong.append(
            f"{' and '.join(by_position)} cannot be used with a memory, which has other "
            "positions: use another MultiHeadAttention for the memory"
        )
    if wrong:
        raise ValueError("; ".join(wrong))


def _batch(layer: Any, a: Any) -> tuple[int, ...]:
    axes = (*distinct_axes(a, layer.axis), len(a.shape) - 1)
    return tuple(n for i, n in enumerate(a.shape) if i not in axes)


def cache_variables(layer: Any, x: Any) -> dict[str, Any]:
    """Declare keys, values, and their positions.

    Args:
        layer: `MultiHeadAttention` with a cache.
        x: Input (..., T, n).
    """
    batch, dtype, n = x.shape[:-2], floating_type(x), x.shape[-1]
    slots = (*batch, length := min(layer.cache, layer.window or layer.cache))
    heads = (*batch, layer._num_kv_heads, length)
    return {
        "keys": Variable((*heads, layer._head_dim(n)), zeros(), dtype),
        "values": Variable((*heads, layer._value_dim(n)), zeros(), dtype),
        "position": Variable(slots, zeros(), "int32"),
        "sequence": Variable(slots, zeros(), "int32"),
        "count": {name: Variable(batch, zeros(), "int32") for name in Count._fields},
        "written": Variable(batch if _is_ring(layer) else (), zeros(), "int32"),
    }


def attend_cached(
    layer: Any,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    given: AttentionInputs,
    state: State,
    options: dict[str, Any],
) -> tuple[jax.Array, State]:
    """Attend to the cached keys and those of this chunk; return the output and the cache.

    Args:
        layer: `MultiHeadAttention` with a cache.
        q: Queries (..., T, heads, d) of the chunk, before the rotary embedding.
        k: Keys (..., T, kv_heads, d) of the chunk, before the rotary embedding.
        v: Values (..., T, kv_heads, e) of the chunk.
        given: The inputs; without segment_ids, they continue the last sequences.
        state: The cache.
        options: Further arguments of `functional.attention.attend`.
    """
    length = q.shape[-3]
    # The mask excludes NaN in keys from the scores, but not NaN in values from the sums.
    v, broken = finite_rows(v, 2)
    k = broken_rows(k, broken)
    count, written = Count(**state["count"]), state["written"]
    segment_ids = given.segment_ids
    segment_ids = continued_segments(count, length) if segment_ids is None else segment_ids
    found, count = packed_positions(segment_ids, count)
    q, k = (layer._turned(a, found.position, length) for a in (q, k))
    old, ring = PackedPositions(state["sequence"], state["position"]), _is_ring(layer)
    rule: dict[str, Any] = {"causal": layer.causal, "window": layer.window}
    visible = packed_mask(found, old, **rule)
    if not ring:
        _check_room(layer, written, length)
        last, room = written + length - 1, layer.cache
        check_range(last, room, f"position {{value}} is past a cache of {room}")
        visible &= jnp.arange(room) < written  # later slots may hold rejected tokens
    mask = jnp.concatenate([visible, packed_mask(found, found, **rule)], -1)[..., None, :, :]
    places = jnp.concatenate([old.position, found.position], -1)
    allowed, options["score_mod"] = layer._mods(found.position, places, given.bias_mod)
    early = None if layer.causal else _sees_later(layer, found, count)
    # The cache may have a wider type; converting it would take longer than the products.
    wide = wider_type(q.dtype, state["keys"].dtype)
    y = attend(
        q.astype(wide),
        (_by_head(state["keys"]), k),
        (_by_head(state["values"]), v),
        mask if allowed is None else mask & allowed,
        layer._with_alibi(None, found.position, places, q.ndim),
        **options,
    ).astype(q.dtype)
    cache, written = _written(ring, state, k, v, found, segment_ids, _after(written, y))
    if early is not None:
        y = broken_rows(y, early)
    if not ring:
        y = jnp.where(written > layer.cache, jnp.asarray(jnp.nan, y.dtype), y)
    return y, cache | {"count": count._asdict(), "written": written}


def _written(
    ring: bool,
    state: State,
    k: jax.Array,
    v: jax.Array,
    found: PackedPositions,
    segment_ids: jax.Array,
    written: jax.Array,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Return the cache with a chunk, and the number of positions written."""
    batch, length = segment_ids.shape[:-1], segment_ids.shape[-1]
    heads, places = {"keys": _by_head(k), "values": _by_head(v)}, found._asdict()
    old_heads, old_places = ({name: state[name] for name in new} for new in (heads, places))
    if not ring:
        cache = write_chunk(old_heads, heads, written, len(batch) + 1)
        return cache | write_chunk(old_places, places, written, len(batch)), written + length
    real, several = segment_ids != 0, (*batch, k.shape[-2])
    in_heads = jnp.broadcast_to(real[..., None, :], (*several, length))
    cache, _ = write_ring(old_heads, heads, in_heads, jnp.broadcast_to(written[..., None], several))
    positions, written = write_ring(old_places, places, real, written)
    return cache | positions, written


def _after(number: jax.Array, y: jax.Array) -> jax.Array:
    """Return a number >= 0, which is known only when y is.

    The old cache is read to compute y. If XLA knows that it is written afterwards, it does not copy
    it first.
    """
    done = jnp.argmax(jnp.ravel(y)[:2]) >= 0  # always true, which XLA does not find out
    return jnp.where(done, number, 0)


def _by_head(a: jax.Array) -> jax.Array:
    """Exchange the axes of (..., T, heads, d) and (..., heads, T, d)."""
    return jnp.swapaxes(a, -2, -3)


def _sees_later(layer: Any, found: PackedPositions, count: Count) -> jax.Array:
    """Return which positions and heads of a chunk, (..., T, heads or 1, 1), see a later position.

    Raises ValueError if this is known while tracing.
    """
    later = PackedPositions(
        jnp.broadcast_to(count.sequence[..., None], (*count.sequence.shape, layer.cache)),
        count.position[..., None] + jnp.arange(layer.cache),
    )
    seen = packed_mask(found, later, window=layer.window)
    query, key = found.position[..., None, :, None], later.position[..., None, None, :]
    early = jnp.any(seen[..., None, :, :] & layer.mask_mod(query, key), -1, keepdims=True)
    if not is_traced(early) and early.any():
        raise ValueError(
            f"{layer.mask_mod!r} lets positions of this chunk see later ones, which are not "
            "known yet: pass all positions that see each other, such as a prefix, in one call"
        )
    check_range(early.astype(jnp.int32), 1, "a position sees later ones, which are not known yet")
    return jnp.swapaxes(early, -2, -3)


def _is_ring(layer: Any) -> bool:
    return layer.window is not None and layer.window < layer.cache


def _check_room(layer: Any, written: Any, length: int) -> None:
    known = 0 if is_traced(written) else int(written)
    if known + length > layer.cache:
        raise ValueError(
            f"the cache of {layer.cache} positions holds {known}, so {length} more do not fit; "
            "write for example "
            f"nn.with_cache(net, length={max(2 * layer.cache, known + length)}), "
            "or start with a new state"
        )
