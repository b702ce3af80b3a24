"""Caches of keys and values for decoding, as plain functions.

A cache is a dict of arrays, each (batch..., slots, ...). A chunk is a dict of the same names, each
(batch..., T, ...). Beside keys and values it holds the place of each slot (`functional.segments`),
so that the mask follows from places alone; sequence 0 marks an empty slot.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def write(
    cache: dict[str, jax.Array], chunk: dict[str, jax.Array], start: Any, axis: int
) -> dict[str, jax.Array]:
    """The cache with a chunk at the slots from `start` on, along `axis`.

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
    """The cache with the chunk's positions that are real, each row's in the slots that follow its
    last, from the beginning again after the end; and the number written in each row so far.

    `real` are booleans (batch..., T), `written` integers (batch...). A chunk may be longer than the
    ring, in which the last ones stay.

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
        slot = jnp.where(stays, number % n, n)  # n is no slot: what goes there is dropped
        flat = jax.vmap(lambda a, b, i: a.at[i].set(b.astype(a.dtype), mode="drop"))(
            slots.reshape(rows, n, *slots.shape[len(batch) + 1 :]),
            new.reshape(rows, length, *new.shape[len(batch) + 1 :]),
            slot.reshape(rows, length),
        )
        return flat.reshape(slots.shape)

    return {name: with_chunk(slots, chunk[name]) for name, slots in cache.items()}, after
