"""Accumulation: the gradient of a large batch from small ones, one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..explain.text import describe
from .metrics import Derived, Ratio, Sum, merged, terms_of

# (params, state, batch, key) -> gradients, metrics, state
Gradients = Callable[[Any, Any, Any, jax.Array], tuple[Any, Any, Any]]


def accumulated(
    gradients: Gradients, count: int, params: Any, state: Any, batch: Any, key: jax.Array
) -> tuple[Any, Any, Any]:
    """The means of gradients and metrics over `count` micro-batches, and the state after them.

    Only one micro-batch is in memory at a time. Micro-batch i has the rows i, i + count, ... and
    the key `fold_in(key, i)`; the state goes from each to the next. What is a mean over the rows,
    as a loss is, has the gradient of the whole batch; statistics of a batch norm are those of a
    micro-batch. Sums are taken in at least float32. Raises ValueError if `count` does not divide
    the rows.
    """
    batches = jax.tree.map(lambda rows: _cut(rows, count), batch)
    first = jax.tree.map(lambda rows: rows[0], batches)
    shapes, metrics, _ = jax.eval_shape(gradients, params, state, first, key)
    wide = jax.tree.map(_zeros, (shapes, metrics))

    def one(carry: Any, micro: Any) -> tuple[Any, None]:
        state, sums = carry
        batch, number = micro
        below = jax.random.fold_in(key, number)
        grads, metrics, state = gradients(params, state, batch, below)
        added = jax.tree.map(lambda total, new: total + new.astype(total.dtype), sums[0], grads)
        parts = {name: merged(total, metrics[name]) for name, total in sums[1].items()}
        return (state, (added, parts)), None

    (state, sums), _ = lax.scan(one, (state, wide), (batches, np.arange(count)))

    def mean(total: Any, like: Any) -> Any:
        if isinstance(like, Ratio | Derived):  # its sums are those of the whole batch
            return jax.tree.map(lambda total, like: total.astype(like.dtype), total, like)
        return (total / count).astype(like.dtype)

    grads, metrics = jax.tree.map(
        mean, sums, (shapes, metrics), is_leaf=lambda node: isinstance(node, Ratio | Derived)
    )
    return grads, metrics, state


def total_counts(
    loss_of: Callable[..., Any], count: int, params: Any, state: Any, batch: Any, key: jax.Array
) -> list[jax.Array] | None:
    """The counts of a loss's ratios, added over the micro-batches; None for a plain scalar.

    The loss of a whole batch divides by these. They rarely depend on the network, which XLA then
    removes from this pass. A ratio of several micro-batches is that of the whole batch only with
    the counts of all of them, so they come before the gradients.
    """
    batches = jax.tree.map(lambda rows: _cut(rows, count), batch)
    first = jax.tree.map(lambda rows: rows[0], batches)
    (loss, _), _ = jax.eval_shape(loss_of, params, state, first, key)
    if not isinstance(loss, Ratio | Sum):
        return None

    def counts(micro: Any) -> list[jax.Array]:
        batch, number = micro
        (loss, _), _ = loss_of(params, state, batch, jax.random.fold_in(key, number))
        return [jnp.asarray(term.count, jnp.float32) for term in terms_of(loss, 1)]

    several = lax.map(counts, (batches, np.arange(count)))
    return [lax.stop_gradient(jnp.sum(each)) for each in several]


def _cut(rows: Any, count: int) -> Any:
    """Rows (n, ...) as micro-batches (count, n / count, ...)."""
    rows = jnp.asarray(rows)
    if rows.ndim == 0 or rows.shape[0] % count:
        raise ValueError(
            f"accumulate={count} cuts a batch into micro-batches of equal size, which "
            f"{describe(rows)} cannot be; write accumulate=n for an n that divides the rows, or "
            "another batch_size"
        )
    # Every count-th row, not runs of them: rows that are shared among devices stay where they are.
    return jnp.moveaxis(rows.reshape(rows.shape[0] // count, count, *rows.shape[1:]), 1, 0)


def _zeros(like: Any) -> jax.Array:
    inexact = jnp.issubdtype(like.dtype, jnp.inexact)
    return jnp.zeros(
        like.shape, jnp.promote_types(like.dtype, jnp.float32 if inexact else like.dtype)
    )
