"""Sources of batches, for data that are not on the device, and the order of the rows of an epoch.

The batches of a source report their position, so that a run can resume after the last one:

    batches = prefetched(source.open(key, batch_size))
    x, y = next(batches)
    kept = batches.position()                  # plain JSON, of the batches taken so far
    batches.close()

    batches = prefetched(source.open(key, batch_size, kept))       # in another process, later

A source may have three more members:

- `fingerprint()` returns nested dicts of text that describe what determines its batches, as far as
  it is known. Checkpoints record it, and only a run with an equal fingerprint is resumed. Without
  this method, they record the source's class and attributes, so a source whose attributes change
  while it is read must define it.
- `resumable = False`: it cannot return to a position. `position()` of its batches is None, and
  `open` raises if a position is passed. A run can train on it, but not with checkpoints.
- `once(batch_size)` iterates over all rows once, in order, for evaluation; its last batch may be
  smaller.

`records` contains the sources of arrays in host memory or mapped from files, and of record files;
`grain_pipeline` that of a Grain pipeline; and `stream` that of batches that are made elsewhere. Any
object with these methods is a source. `prefetch` reads ahead of the training.

Batch t of epoch e holds the rows `epoch_order(key, e, rows)[t * size : (t + 1) * size]`, for arrays
on the device, `batches`, and the sources that can read a row by its number. Rows that do not fill a
last batch are left out of that epoch, so that every batch has one shape.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

from ..keys import key_words
from ..validation import integer, natural, require
from .rows import check_rows

Position = dict[str, Any]


@runtime_checkable
class Batches(Protocol):
    """Batches in a fixed order, each a pytree of arrays with the same number of rows.

    The number of rows is `batch_size` divided by the number of processes; only the last batch of an
    epoch may have fewer rows.
    """

    def __iter__(self) -> Iterator[Any]:
        """Return the batches themselves."""
        ...

    def __next__(self) -> Any:
        """Return the next batch."""
        ...

    def position(self) -> Position | None:
        """Return the position as data for JSON; `open` continues from it with the next batch.

        It is None if the source cannot return to a position.
        """
        ...

    def close(self) -> None:
        """Release threads, processes, and files."""
        ...


@runtime_checkable
class Source(Protocol):
    """Training data that are read batch by batch."""

    def steps_per_epoch(self, batch_size: int) -> int | None:
        """Return the number of batches of an epoch; None if it is known only at its end.

        Args:
            batch_size: Rows of a batch, of all processes together.

        Raises:
            ValueError: An epoch has no batches.
            NoEpochs: The data have no end.
        """
        ...

    def spec(self, batch_size: int) -> Any:
        """Return the shapes and types of a batch, of all processes together.

        Args:
            batch_size: Rows of a batch.
        """
        ...

    def open(
        self,
        key: Any,
        batch_size: int,
        position: Position | None = None,
        *,
        process: tuple[int, int] = (0, 1),
    ) -> Batches:
        """Return the batches of a run, epoch after epoch, without end.

        If `steps_per_epoch` is None, they end with the epoch, and the source is opened again for
        the next one.

        Args:
            key: The root key of the run, or its words as a NumPy array.
            batch_size: Rows of a batch, of all processes together; None for a source whose batches
                have a size already.
            position: Where to continue. Default: None, from the beginning.
            process: (index, count): each process reads its part of every batch; their parts, in the
                order of the processes, are the batch that one process would read.
        """
        ...


class NoEpochs(ValueError):
    """Raised by `steps_per_epoch` for data without an end; to train on them, pass `steps=`."""


def share(batch_size: int, process: tuple[int, int]) -> slice:
    """Return the rows of a batch that belong to a process.

    Args:
        batch_size: Rows of a batch, of all processes together.
        process: (index, count) of the process.

    Raises:
        ValueError: The number of processes does not divide the batch.

    >>> share(8, (1, 2))
    slice(4, 8, None)
    """
    index, count = process
    integer(0, count - 1)(index, "process[0]", f"there are {count} processes")
    size, left = divmod(batch_size, count)
    require(
        size and not left,
        "batch_size",
        f"divisible by the {count} processes",
        batch_size,
        f"write batch_size={max(size, 1) * count}",
    )
    return slice(index * size, (index + 1) * size)


def batches_before(position: Position | None, kept: Mapping[str, Any]) -> int:
    """Return the number of batches before a position, which must be that of the same run.

    Args:
        position: A position that batches returned; None for the beginning.
        kept: The content of the position of this run besides the number of batches.

    Raises:
        ValueError: The position has other values.
    """
    if position is None:
        return 0
    wrong = [name for name in kept if position.get(name) != kept[name]]
    if wrong:
        values = ", ".join(f"{name} {position.get(name)}, not {kept[name]}" for name in wrong)
        raise ValueError(
            f"the position in the data is that of a run with {values}, so its batches would "
            "differ; continue with the same data, batch_size, key, and workers, or begin a new run"
        )
    return natural(position.get("batches"), "the position's number of batches")


Arrays = TypeVar("Arrays")


def epoch_order(key: Any, epoch: int, rows: int) -> np.ndarray[Any, Any]:
    """Return the permutation in which an epoch visits the rows, int32 (rows,).

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
    hint = f"the training data have {rows} rows; write batch_size={rows} or less"
    integer(1, rows)(batch_size, "batch_size", hint)
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
        ValueError: Arrays differ in the number of rows, or have fewer than `size`. Raised by the
            call itself.

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
        ValueError: A batch is larger than the data or not divisible by the number of processes, or
            the position is that of a run with other data, another batch size, or another key.
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
