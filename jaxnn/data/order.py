"""The order in which an epoch visits the rows of the training data, and batches in that order.

Batch t of epoch e holds the rows `epoch_order(key, e, rows)[t * size : (t + 1) * size]`, for arrays
on the device, `batches`, and the sources that can read a row by its number. Rows that do not fill a
last batch are left out of that epoch, so that every batch has one shape.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np

from jaxnn.data.rows import check_rows
from jaxnn.data.source import Position, batches_before, share
from jaxnn.keys import key_words

Arrays = TypeVar("Arrays")


def epoch_order(key: Any, epoch: int, rows: int) -> np.ndarray[Any, Any]:
    """Return the order in which an epoch visits the rows, int32 (rows,): a permutation.

    It sorts the raw words of a Philox generator keyed by `key` and `epoch`, so it does not depend
    on the machine.

    Args:
        key: A JAX key, or its words as a NumPy array.
        epoch: The number of the epoch, from 0.
        rows: The number of rows.

    >>> sorted(epoch_order(jax.random.key(0), 3, 5).tolist())
    [0, 1, 2, 3, 4]
    """
    words = key_words(key).astype(np.uint64)
    seed = [int(words[::2].sum()) % 2**64, int(words[1::2].sum()) % 2**64]
    generator = np.random.Philox(key=np.array(seed, np.uint64), counter=[0, 0, 0, epoch])
    return np.argsort(generator.random_raw(rows), kind="stable").astype(np.int32)


def whole_batches(rows: int, batch_size: int) -> int:
    """Return rows // batch_size.

    Args:
        rows: The number of rows.
        batch_size: Rows of a batch.

    Raises:
        ValueError: A batch is larger than the data, or empty.
    """
    if not 1 <= batch_size <= rows:
        raise ValueError(
            f"batch_size is {batch_size}, but the training data have {rows} rows; write "
            f"batch_size={rows} or less"
        )
    return rows // batch_size


def batches(key: jax.Array, arrays: Arrays, size: int, epoch: int = 0) -> Iterator[Arrays]:
    """Return the batches of an epoch, in the order in which `train.fit` visits them.

    Args:
        key: A JAX key, the same in all epochs.
        arrays: A pytree of host arrays (rows, ...), such as `Examples` or (x, y).
        size: Rows of a batch.
        epoch: The number of the epoch. Default: 0.

    Returns:
        An iterator of rows // size pytrees like `arrays`. Other epochs leave out other rows.

    Raises:
        ValueError: Arrays differ in rows, or have fewer than `size`. Raised by the call.

    >>> x, y = np.arange(10.0), np.arange(10)
    >>> [len(labels) for _, labels in batches(jax.random.key(0), (x, y), 4)]
    [4, 4]
    """
    rows = check_rows(arrays, "arrays")
    steps = whole_batches(rows, size)
    chosen = epoch_order(key, epoch, rows)[: steps * size].reshape(steps, size)
    return (jax.tree.map(lambda leaf, rows=rows: leaf[rows], arrays) for rows in chosen)


class GatheredBatches:
    """The batches of a run over numbered rows, epoch after epoch, without end.

    Args:
        take: Returns the batch of some rows, from their numbers.
        rows: The number of rows.
        key: The root key of the run, or its words as a NumPy array.
        batch_size: Rows of a batch, of all processes together.
        position: Where to continue; None for the beginning.
        process: (index, count) of this process.
        close: Releases what reading holds.

    Raises:
        ValueError: A batch is larger than the data or not divided by the processes, or the position
            is that of a run with other data, another batch size, or another key.
    """

    def __init__(
        self,
        take: Callable[[np.ndarray], Any],
        rows: int,
        key: Any,
        batch_size: int,
        position: Position | None,
        process: tuple[int, int],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._take, self._size = take, batch_size
        self._steps = whole_batches(rows, batch_size)
        self._share = share(batch_size, process)
        self._key = key_words(key)
        self._kept = {"rows": rows, "batch_size": batch_size, "key": self._key.tolist()}
        self._done = batches_before(position, self._kept)
        self._epoch, self._order = -1, np.zeros(0, np.int32)
        self.close: Callable[[], None] = close
        """Release what reading holds."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the rows of the next batch that belong to this process."""
        epoch, step = divmod(self._done, self._steps)
        if epoch != self._epoch:
            order = epoch_order(self._key, epoch, self._kept["rows"])
            self._epoch, self._order = epoch, order[: self._steps * self._size]
        rows = self._order.reshape(self._steps, self._size)[step][self._share]
        batch = self._take(rows)
        self._done += 1
        return batch

    def position(self) -> Position:
        """Return how many batches were taken, and from which data in which order."""
        return {"batches": self._done, **self._kept}
