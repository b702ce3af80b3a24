"""Positions in packed and padded sequences, masks of attention, and caches for decoding.

`segment_ids` are integers (..., T): 0 marks padding, and other values mark the packed sequence of a
position. Padding is skipped wherever it occurs, so that left padding, right padding, and padding
within a sequence need no special treatment. A new sequence begins at a value that differs from the
last one that was not 0.

A cache is a dict of arrays of shape (batch..., slots, ...). A chunk is a dict with the same names
and arrays of shape (batch..., T, ...). A cache also stores the position of each slot, from which
the attention mask follows. Sequence 0 marks an empty slot.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..fields import is_array
from ..validation import Accepts
from .convolution import convolution
from .gradients import select_number


class Count(NamedTuple):
    """Progress of each row, integers (...): its last segment that was not 0, the number of
    sequences it has begun, and the next position in the last of them."""

    segment: jax.Array
    sequence: jax.Array
    position: jax.Array


class PackedPositions(NamedTuple):
    """Position of each element, integers (..., T): the number of its sequence, from 1 (0 for
    padding), and its position there, from 0 (for padding, that of the last real element)."""

    sequence: jax.Array
    position: jax.Array


def no_count(batch: tuple[int, ...] = ()) -> Count:
    """Return the count of rows that have not begun."""
    return Count(*(jnp.zeros(batch, jnp.int32) for _ in Count._fields))


def continued_segments(count: Count, length: int) -> jax.Array:
    """Return segment_ids (..., length) that continue each row's last segment; 1 if none has begun.

    >>> continued_segments(Count(*jnp.array([[2, 0], [1, 0], [3, 0]])), 2).tolist()
    [[2, 2], [1, 1]]
    """
    segment = jnp.where(count.segment == 0, 1, count.segment)[..., None]
    return jnp.broadcast_to(segment, (*count.segment.shape, length))


def packed_positions(
    segment_ids: jax.Array, count: Count | None = None
) -> tuple[PackedPositions, Count]:
    """Return the position of each element, and the progress of each row after them.

    Args:
        segment_ids: Integers of shape (..., T).
        count: Progress of each row before them. Default: `no_count()`, for rows that begin.

    >>> import jax.numpy as jnp
    >>> found, count = packed_positions(jnp.array([0, 0, 1, 1, 2, 2, 0, 2]))
    >>> found.sequence.tolist(), found.position.tolist()
    ([0, 0, 1, 1, 2, 2, 0, 2], [0, 0, 0, 1, 0, 1, 1, 2])
    >>> packed_positions(jnp.array([2, 7]), count)[0].position.tolist()
    [3, 0]
    """
    segment_ids = segment_ids.astype(jnp.int32)
    count = no_count(segment_ids.shape[:-1]) if count is None else count
    before = jnp.concatenate([count.segment[..., None], segment_ids], -1)
    # Index of the last segment that is not 0; if all are 0, index 0, that of the count.
    seen = jnp.where(before != 0, lax.broadcasted_iota(jnp.int32, before.shape, before.ndim - 1), 0)
    last = jnp.take_along_axis(before, lax.cummax(seen, seen.ndim - 1), -1)
    real = segment_ids != 0
    begins = real & (segment_ids != last[..., :-1])
    axis = segment_ids.ndim - 1
    sequence = count.sequence[..., None] + lax.cumsum(begins.astype(jnp.int32), axis)
    number = lax.cumsum(real.astype(jnp.int32), axis) - 1
    first = lax.cummax(jnp.where(begins, number, -count.position[..., None]), axis)
    position = number - first
    after = Count(last[..., -1], sequence[..., -1], position[..., -1] + 1)
    found = PackedPositions(jnp.where(real, sequence, 0), jnp.maximum(position, 0))
    return found, after


def packed_mask(
    query: PackedPositions, key: PackedPositions, *, causal: bool = False, window: int | None = None
) -> jax.Array:
    """Return which of S keys each of T queries may attend to: booleans (..., T, S).

    A query attends to keys of the same sequence; padding attends to none.

    Args:
        query: Positions of the queries.
        key: Positions of the keys.
        causal: Whether to exclude keys at later positions. Default: False.
        window: Exclude keys that are `window` or more positions away. Default: None.

    >>> import jax.numpy as jnp
    >>> found, _ = packed_positions(jnp.array([0, 1, 1, 2]))
    >>> packed_mask(found, found, causal=True).astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    """
    mask = segments_mask(query.sequence, key.sequence)
    if causal or window is not None:
        mask &= distance_mask(query.position, key.position, causal=causal, window=window)
    return mask


def segments_mask(query: jax.Array, key: jax.Array) -> jax.Array:
    """True if segment_ids (..., T) and (..., S) are equal and not 0: booleans (..., T, S)."""
    return (query[..., :, None] == key[..., None, :]) & (query != 0)[..., :, None]


def distance_mask(
    query: jax.Array, key: jax.Array, *, causal: bool = False, window: int | None = None
) -> jax.Array:
    """Return which pairs of positions satisfy `causal` and `window`: booleans (..., T, S).

    Args:
        query: Integers of shape (..., T).
        key: Integers of shape (..., S).
        causal: Whether to exclude keys at later positions. Default: False.
        window: Exclude keys that are `window` or more positions away. Default: None.

    >>> import jax.numpy as jnp
    >>> distance_mask(jnp.arange(3), jnp.arange(3), causal=True, window=2).astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    return _near(query[..., :, None], key[..., None, :], causal, window)


def length_mask(queries: int, keys: int, causal: bool, window: int | None) -> jax.Array | None:
    """Return `distance_mask` of positions from 0, booleans (T, S); None if it hides nothing.

    >>> length_mask(2, 3, True, None).tolist()
    [[True, False, False], [True, True, False]]
    """
    if not causal and window is None:
        return None
    query, key = (lax.broadcasted_iota(jnp.int32, (queries, keys), axis) for axis in (0, 1))
    return _near(query, key, causal, window)


def _near(query: jax.Array, key: jax.Array, causal: bool, window: int | None) -> jax.Array:
    if causal and window is None:
        return query >= key
    away = query - key
    mask = away >= 0 if causal else jnp.ones(away.shape, bool)
    return mask if window is None else mask & (jnp.abs(away) < window)


def sees_marked(marked: jax.Array, queries: int, causal: bool, window: int | None) -> jax.Array:
    """Return which queries see a marked key, as `length_mask` hides them: booleans (..., T).

    The keys visible to a query are consecutive, so counts replace a (T, S) mask.

    Args:
        marked: Booleans (..., S).
        queries: Number T of queries.
        causal: Whether to exclude keys at later positions.
        window: Exclude keys that are `window` or more positions away. None only if causal.

    >>> import jax.numpy as jnp
    >>> sees_marked(jnp.array([False, True, False, False]), 4, True, 2).tolist()
    [False, True, True, False]
    """
    if window is None:  # from the first marked key on
        shapes = marked.shape, (*marked.shape[:-1], queries)
        key, query = (lax.broadcasted_iota(jnp.int32, s, marked.ndim - 1) for s in shapes)
        first = lax.reduce_min(select_number(marked, key, queries), (marked.ndim - 1,))
        return query >= first[..., None]
    query = jnp.arange(queries)
    last = query if causal else query + window - 1
    first = jnp.maximum(query - window + 1, 0)
    counts = jnp.cumsum(marked, -1, dtype=jnp.int32)
    counts = jnp.concatenate([jnp.zeros_like(counts[..., :1]), counts], -1)
    until, before = (jnp.take(counts, i, -1, mode="clip") for i in (last + 1, first))
    return until > before


def check_segments(segment_ids: Any, shape: tuple[int, ...], name: str = "segment_ids") -> None:
    """Raise TypeError or ValueError unless `segment_ids` are integers of `shape`."""
    _integers(segment_ids, name)
    what = f"of the shape (..., T) of the sequence, {tuple(shape)}"
    fits = Accepts(what, lambda ids: tuple(ids.shape) == tuple(shape), abstract=True)
    fits(segment_ids, name)


_integers = Accepts(
    "integers: 0 for padding, otherwise the number of the packed sequence",
    lambda ids: is_array(ids) and jnp.issubdtype(ids.dtype, jnp.integer),
    TypeError,
    abstract=True,
)


def write_chunk(
    cache: dict[str, jax.Array], chunk: dict[str, jax.Array], start: Any, axis: int
) -> dict[str, jax.Array]:
    """Write a chunk into consecutive slots of a cache.

    Args:
        cache: Arrays of shape (batch..., slots, ...).
        chunk: Arrays of shape (batch..., T, ...).
        start: First slot to write; may be traced.
        axis: Axis of the slots, the number of batch axes.

    >>> import jax.numpy as jnp
    >>> write_chunk({"key": jnp.zeros(4)}, {"key": jnp.ones(2)}, 1, axis=0)["key"].tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    return {
        name: lax.dynamic_update_slice_in_dim(slots, chunk[name].astype(slots.dtype), start, axis)
        for name, slots in cache.items()
    }


def write_ring(
    cache: dict[str, jax.Array], chunk: dict[str, jax.Array], real: jax.Array, written: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Write a chunk into a ring buffer; return the cache and the number of positions written.

    Each row's real positions are written after its previous ones, and from the first slot again
    when the end is reached. If a chunk is longer than the ring, its last positions remain.

    Args:
        cache: Arrays of shape (batch..., slots, ...).
        chunk: Arrays of shape (batch..., T, ...).
        real: Booleans (batch..., T); positions marked False are not written.
        written: Integers (batch...), the number of positions written to each row so far.

    >>> import jax.numpy as jnp
    >>> real = jnp.array([True, False, True, True])
    >>> cache, written = write_ring({"key": jnp.zeros(3)}, {"key": jnp.arange(1, 5)}, real, 2)
    >>> cache["key"].tolist(), int(written)
    ([3.0, 4.0, 1.0], 5)
    """
    batch, length = real.shape[:-1], real.shape[-1]
    rows = math.prod(batch)
    written = jnp.asarray(written, jnp.int32)
    number = written[..., None] + lax.cumsum(real.astype(jnp.int32), real.ndim - 1) - 1
    after = number[..., -1] + 1

    def with_chunk(slots: jax.Array, new: jax.Array) -> jax.Array:
        n = slots.shape[len(batch)]
        stays = real & (number >= (after - n)[..., None])
        slot = jnp.where(stays, number % n, n)  # writes to the index n are dropped
        flat = jax.vmap(lambda a, b, i: a.at[i].set(b.astype(a.dtype), mode="drop"))(
            slots.reshape(rows, n, *slots.shape[len(batch) + 1 :]),
            new.reshape(rows, length, *new.shape[len(batch) + 1 :]),
            slot.reshape(rows, length),
        )
        return flat.reshape(slots.shape)

    return {name: with_chunk(slots, chunk[name]) for name, slots in cache.items()}, after


def packed_convolution(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    segment_ids: jax.Array,
    dilation: int = 1,
    groups: int = 1,
    before: int = 0,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Convolve each sequence of a packed and padded row separately.

    Each output sees zeros outside its sequence. Padding is skipped, so its contents have no effect;
    the output is 0 there.

    Args:
        x: Array of shape (..., L, n).
        w: Kernel of shape (window, n / groups, m).
        b: Bias of shape (m,), or None.
        segment_ids: Integers of shape (..., L), 0 for padding.
        dilation: Step between the elements of a window. Default: 1.
        groups: Number of groups of channels. Default: 1.
        before: Number of positions at the start of x that precede the T = L - before outputs: the
            end of the previous chunk, or padding. The window of an output starts `before`
            positions before it. Default: 0.

    Returns:
        The output (..., T, m), and a pair of the last `before` inputs and segment_ids, which must
        precede the next chunk. Both are zero outside the last sequence.

    >>> import jax.numpy as jnp
    >>> x, segment_ids = jnp.array([[0.0], [1], [2], [3], [4]]), jnp.array([0, 1, 1, 2, 2])
    >>> y, _ = packed_convolution(x, jnp.ones((2, 1, 1)), segment_ids=segment_ids, before=1)
    >>> y[:, 0].tolist()
    [1.0, 3.0, 3.0, 7.0]
    """
    axis, window, length = segment_ids.ndim - 1, w.shape[0], segment_ids.shape[-1] - before
    real = segment_ids != 0
    x = jnp.where(real[..., None], x, jnp.zeros_like(x))
    if window == 1:
        y = convolution(x, w, b, groups=groups)
        return jnp.where(real[..., None], y, jnp.zeros_like(y)), (
            x[..., :0, :],
            segment_ids[..., :0],
        )
    # Move padding to the front and keep the order of the rest, so that sequences have no gaps.
    order = jnp.argsort(real, axis, stable=True)
    x = jnp.take_along_axis(x, order[..., None], axis)
    sequence = jnp.take_along_axis(packed_positions(segment_ids)[0].sequence, order, axis)
    stays = (sequence == sequence[..., -1:])[..., length:]
    kept = jnp.take_along_axis(segment_ids, order, axis)[..., length:]
    ahead = x[..., length:, :]
    kept = (
        jnp.where(stays[..., None], ahead, jnp.zeros_like(ahead)),
        jnp.where(stays, kept, jnp.zeros_like(kept)),
    )
    # Gather the window of each output, masked to its sequence; windows are concatenated.
    behind = [(0, 0)] * axis + [(0, (window - 1) * dilation - before)]
    at = np.arange(length)[:, None] + dilation * np.arange(window)
    seen = jnp.pad(sequence, behind)[..., at] == sequence[..., before:, None]
    taps = jnp.pad(x, [*behind, (0, 0)])[..., at, :]
    taps = jnp.where(seen[..., None], taps, jnp.zeros_like(taps))
    taps = taps.reshape(*x.shape[:-2], length * window, x.shape[-1])
    y = convolution(taps, w, b, stride=window, groups=groups, padding="valid")
    back = jnp.maximum(jnp.argsort(order, axis)[..., before:] - before, 0)
    y = jnp.take_along_axis(y, back[..., None], axis)
    return jnp.where(real[..., before:, None], y, jnp.zeros_like(y)), kept
