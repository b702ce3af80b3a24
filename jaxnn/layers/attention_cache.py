"""The cache of multi-head attention: keys, values, and their positions, for decoding in chunks.

Keys and values have the shape (..., kv_heads, slots, features), so that a product for each head
reads them in order; with another order, XLA would copy the whole cache at each token.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ..arrays import check_range
from ..core.calls import State
from ..core.declarations import Variable
from ..fields import is_traced
from ..functional.attention import attend
from ..functional.gradients import broken_rows, finite_rows
from ..functional.linear import floating_type, wider_type
from ..functional.segments import (
    Count,
    PackedPositions,
    continued_segments,
    packed_mask,
    packed_positions,
    write_chunk,
    write_ring,
)
from ..initializers import zeros
from .attention_inputs import AttentionInputs


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
