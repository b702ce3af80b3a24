"""Minibatches for a training loop written by hand."""

from collections.abc import Iterator
from typing import TypeVar

import jax

from jaxnn.data.order import epoch_order

Arrays = TypeVar("Arrays")


def batches(key: jax.Array, arrays: Arrays, size: int, epoch: int = 0) -> Iterator[Arrays]:
    """The batches of an epoch, in the order in which `train.fit` with the same key visits them.

    Rows that do not fill a last batch are left out, so that every batch has one shape and a
    jitted step compiles once; another epoch leaves out others.

    Args:
        key: a JAX key, the same in all epochs.
        arrays: a pytree of host arrays with one number of rows, such as `Examples` or (x, y).
        size: the rows of a batch.
        epoch: the number of the epoch, from 0 (the default).

    Returns:
        An iterator of floor(rows / size) pytrees like `arrays`.

    Raises:
        ValueError: arrays differ in rows, or have fewer than `size`. Raised at the call.

    >>> import numpy as np
    >>> x, y = np.arange(10.0), np.arange(10)
    >>> [len(labels) for _, labels in batches(jax.random.key(0), (x, y), 4)]
    [4, 4]
    """
    rows = {len(leaf) for leaf in jax.tree.leaves(arrays)}
    if len(rows) != 1:
        raise ValueError(
            f"batches: arrays of {sorted(rows)} rows, wanted one number of rows: "
            "write batches(key, (x, y), size) with len(x) == len(y)"
        )
    (total,) = rows
    if not 1 <= size <= total:
        raise ValueError(
            f"batches: size is {size}, wanted 1 .. {total} for {total} rows: "
            f"write batches(key, arrays, {min(max(size, 1), max(total, 1))})"
        )
    order = epoch_order(key, epoch, total)
    chosen = order[: total // size * size].reshape(-1, size)
    return (jax.tree.map(lambda leaf, rows=rows: leaf[rows], arrays) for rows in chosen)
