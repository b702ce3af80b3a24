"""Lookup of rows of a table by token, singly or combined over bags of tokens."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from .gradients import shared_rows
from .linear import wider_type
from .windows import folded, larger

MODES = ("sum", "mean", "max")


def embed(table: jax.Array, ids: jax.Array, padding: int | None = None) -> jax.Array:
    """Look up rows: `y = table[ids]`.

    Args:
        table: Floating array of shape (vocabulary, features).
        ids: Integers of any shape. A token outside [0, vocabulary) gives NaN.
        padding: Token whose row receives no gradient. Default: None.

    Returns:
        Array of shape (..., features).

    >>> import jax.numpy as jnp
    >>> embed(jnp.array([[1.0], [2.0]]), jnp.array([1, 0, 2]))[:, 0].tolist()
    [2.0, 1.0, nan]
    """
    rows = shared_rows(table, ids)
    if padding is None:
        return rows
    return jnp.where(_is(ids, padding)[..., None], lax.stop_gradient(rows), rows)


def embedding_bag(
    table: jax.Array,
    ids: jax.Array,
    weights: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    mode: str = "mean",
    padding: int | None = None,
    bags: int | None = None,
) -> jax.Array:
    """Combine the rows of the tokens in a bag by their sum, mean, or maximum.

    Args:
        table: Floating array of shape (vocabulary, features).
        ids: Integers of shape (..., n). A token outside [0, vocabulary) gives NaN.
        weights: Array of shape (..., n) by which rows are multiplied first. Default: None.
        segment_ids: Integers of shape (..., n). Segment 0 is in no bag. If `bags` is given, bag i
            consists of the tokens of segment i + 1; otherwise all others form one bag. Default:
            all tokens are in one bag.
        mode: "sum", "mean", or "max". Sums are computed in at least float32. Of several equal
            maxima, the first one receives the gradient. Default: "mean".
        padding: Token that is in no bag. Default: None.
        bags: Number of bags in a row. Default: one bag, and no axis for bags.

    Returns:
        Array of shape (..., features) or (..., bags, features), in the type of the weights if that
        is floating, otherwise of the table. An empty bag gives zeros.

    >>> import jax.numpy as jnp
    >>> table, ids = jnp.array([[1.0], [2.0], [6.0]]), jnp.array([0, 1, 2])
    >>> embedding_bag(table, ids)[0].item()
    3.0
    >>> embedding_bag(table, ids, segment_ids=jnp.array([1, 1, 2]), bags=2)[:, 0].tolist()
    [1.5, 6.0]
    """
    dtype = table.dtype
    if weights is not None and jnp.issubdtype(weights.dtype, jnp.floating):
        dtype = weights.dtype
    rows = embed(table, ids)
    wide = wider_type(rows.dtype, jnp.float32)
    bag = jnp.ones(ids.shape, jnp.int32) if segment_ids is None else segment_ids.astype(jnp.int32)
    bag = jnp.where(bag == 0, 0, 1) if bags is None else jnp.where(bag > bags, 0, bag)
    if padding is not None:
        bag = jnp.where(_is(ids, padding), 0, bag)
    rows = jnp.where((bag > 0)[..., None], rows.astype(wide), 0)
    if weights is not None:
        weights = jnp.where(bag > 0, weights.astype(wide), 0)[..., None]
        # 0 * NaN is NaN. The gradient of a weight of 0 is kept if the row is finite.
        rows = jnp.where((weights == 0) & ~jnp.isfinite(rows), 0, rows) * weights
    if bags is None:
        return _of_rows(rows, bag > 0, mode).astype(dtype)
    n = math.prod(ids.shape[:-1])
    flat = rows.reshape(n, *rows.shape[-2:]), bag.reshape(n, ids.shape[-1])
    y = jax.vmap(lambda rows, bag: _packed(rows, bag, mode, bags))(*flat)
    return y.reshape(*ids.shape[:-1], *y.shape[1:]).astype(dtype)


def _of_rows(rows: jax.Array, inside: jax.Array, mode: str) -> jax.Array:
    """One bag per row: rows (..., n, features) to (..., features)."""
    count = jnp.sum(inside, -1, dtype=jnp.int32)[..., None]
    if mode == "max" and rows.shape[-2]:
        y = folded(jnp.where(inside[..., None], rows, -jnp.inf), -2, larger)
        return jnp.where(count > 0, y, 0)
    y = jnp.sum(rows, -2)
    return y / jnp.maximum(count, 1).astype(y.dtype) if mode == "mean" else y


def _packed(rows: jax.Array, bag: jax.Array, mode: str, bags: int) -> jax.Array:
    """Several bags per row: rows (n, features) to (bags, features); bags (n,) count from 1."""
    n = bags + 1  # index 0 collects the tokens in no bag, and is dropped
    count = jax.ops.segment_sum(jnp.ones_like(bag), bag, n)[1:, None]
    if mode == "max" and len(rows):
        largest = jax.ops.segment_max(lax.stop_gradient(rows), bag, n)
        place = lax.broadcasted_iota(jnp.int32, rows.shape, 0)
        place = jnp.where((rows == largest[bag]) | jnp.isnan(rows), place, len(rows) - 1)
        first = jnp.minimum(jax.ops.segment_min(place, bag, n)[1:], len(rows) - 1)
        return jnp.where(count > 0, jnp.take_along_axis(rows, first, 0), 0)
    y = jax.ops.segment_sum(rows, bag, n)[1:]
    return y / jnp.maximum(count, 1).astype(y.dtype) if mode == "mean" else y


def _is(ids: jax.Array, padding: int) -> jax.Array:
    return ids.astype(jnp.int32) == padding  # `padding` may not fit a narrower type
