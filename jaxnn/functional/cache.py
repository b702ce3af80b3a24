"""Caches of keys and values for decoding.

A cache is a dict of arrays of shape (batch..., slots, ...). A chunk is a dict with the same names
and arrays of shape (batch..., T, ...). A cache also stores the position of each slot (see
`functional.segments`), from which the attention mask follows. Sequence 0 marks an empty slot.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def write(
    cache: dict[str, jax.Array], chunk: dict[str, jax.Array], start: Any, axis: int
) -> dict[str, jax.Array]:
    """Write a chunk into consecutive slots of a cache.

    Args:
        cache: Arrays of shape (batch..., slots, ...).
        chunk: Arrays of shape (batch..., T, ...).
        start: First slot to write; may be traced.
        axis: Axis of the slots, the number of batch axes.

    >>> import jax.numpy as jnp
    >>> write({"key": jnp.zeros(4)}, {"key": jnp.ones(2)}, 1, axis=0)["key"].tolist()
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
