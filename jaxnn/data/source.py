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
object with these methods is a source. `prefetched` reads ahead of the training.

Batch t of epoch e holds the rows `epoch_order(key, e, rows)[t * size : (t + 1) * size]`, for arrays
on the device, `batches`, and the sources that can read a row by its number. Rows that do not fill a
last batch are left out of that epoch, so that every batch has one shape.
"""

import itertools
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

from ..keys import key_words
from ..validation import check_none, integer, natural, positive, require
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
    what, write = f"divisible by the {count} processes", f"write batch_size={max(size, 1) * count}"
    require(size and not left, "batch_size", what, batch_size, write)
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
    check_none(
        [f"its {name} is {position.get(name)}, not {kept[name]}" for name in wrong],
        "the position in the data is that of another run, whose batches differ",
        "continue with the same data, batch_size, key, and workers, or begin a new run",
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


# ---- reading ahead ----


def prefetched(
    batches: Batches,
    place: Callable[[Any], Any] = jax.device_put,
    *,
    ahead: int = 2,
    counts: Iterable[int] | None = None,
) -> "Prefetched":
    """Read batches in a separate thread, and copy them to the device ahead of time.

    The order, values, and positions are those of `batches`. An error in the thread is raised in
    place of the batch, after all batches that were read before it.

    Args:
        batches: The batches of a source, any pytrees. Nothing else may read them.
        place: A function applied to each batch in the thread. By default, it copies the batch to
            the default device.
        ahead: Number of batches to read ahead of the last one taken, at least 1. They use memory on
            the device. Default: 2.
        counts: Iterable of the number of batches in each item, which are stacked along a new first
            axis, for several steps in one program. The iterator ends when the counts end. Batches
            of different shapes, such as a smaller last batch of an epoch, are not stacked, but
            returned as several items. Default: None, each item is one batch, not stacked.

    Returns:
        An iterator of batches with `position`, `peek`, and `close`; a `with` statement closes it.

    Raises:
        ValueError: `ahead` is less than 1.

    >>> from jaxnn.data import HostArrays
    >>> source = HostArrays(np.arange(6.0), np.arange(6))
    >>> with prefetched(source.open(jax.random.key(0), 2), counts=[2, 1]) as batches:
    ...     [x.shape for x, y in batches], batches.position()["batches"]
    ([(2, 2), (1, 2)], 3)
    """
    positive(ahead, "prefetched.ahead")
    return Prefetched(batches, place, ahead, counts)


class Prefetched:
    """The batches of `prefetched`; its arguments are those of that function."""

    def __init__(
        self,
        batches: Batches,
        place: Callable[[Any], Any],
        ahead: int,
        counts: Iterable[int] | None,
    ) -> None:
        self._position = batches.position()
        self._waiting: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._room = threading.Semaphore(ahead)
        self._ended: _Item | None = None
        self._peeked: _Item | None = None
        stop = threading.Event()
        # The thread holds nothing of `self`, which can be collected without being closed.
        thread = threading.Thread(
            target=_read,
            args=(batches, place, counts, self._waiting, self._room, stop),
            name="jaxnn-prefetch",
            daemon=True,
        )
        self.close: weakref.finalize[..., Prefetched] = weakref.finalize(
            self, _close, batches, thread, self._room, stop
        )
        """End the thread and close the batches. A second call does nothing."""
        thread.start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the next batch, once its transfer to the device has begun."""
        item = self._next()
        self._peeked, self._position = None, item.position
        self._room.release()
        return item.batch

    def peek(self) -> Any:
        """Return the next batch without taking it; StopIteration if none is left."""
        return self._next().batch

    def _next(self) -> "_Item":
        if self._ended is None and not self.close.alive:
            raise ValueError("these batches are closed; open the source again")
        item = self._ended or self._peeked or self._waiting.get()
        if item.error is not None:
            self._ended = item
            raise item.error
        self._peeked = item
        return item

    def position(self) -> Any:
        """Return the `Position` after the last batch taken, without those read ahead of it.

        None if the source cannot return to a position.
        """
        return self._position

    def __enter__(self) -> "Prefetched":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class _Item(NamedTuple):
    """A batch with the position after it, or the error that ended the reading."""

    batch: Any = None
    position: Any = None
    error: BaseException | None = None


def _read(
    batches: Batches,
    place: Callable[[Any], Any],
    counts: Iterable[int] | None,
    waiting: "queue.SimpleQueue[_Item]",
    room: threading.Semaphore,
    stop: threading.Event,
) -> None:
    # `map`, unlike a loop, holds no batch while the thread waits.
    singly = map(lambda batch: (batch, batches.position()), batches)
    several = singly if counts is None else _stacked(batches, counts)
    error = None
    while error is None:
        room.acquire()
        if stop.is_set():
            return
        try:
            waiting.put(_placed(place, *next(several)))  # no local variable holds a batch
        except BaseException as raised:  # it is raised again in the thread that waits
            error = raised
    waiting.put(_Item(error=error))


def _placed(place: Callable[[Any], Any], batch: Any, position: Position | None) -> _Item:
    return _Item(place(batch), position)


def _stacked(batches: Batches, counts: Iterable[int]) -> Iterator[tuple[Any, Position | None]]:
    """Yield several batches as one, with the position after them; only equal shapes are stacked."""

    def shapes(one: tuple[Any, Any]) -> list[Any]:
        return [np.shape(leaf) for leaf in jax.tree.leaves(one[0])]

    for count in counts:
        read = [(batch, batches.position()) for batch in itertools.islice(batches, count)]
        for _, alike in itertools.groupby(read, shapes):
            several, positions = zip(*alike, strict=True)
            yield jax.tree.map(lambda *leaves: np.stack(leaves), *several), positions[-1]
        if len(read) < count:
            return


def _close(
    batches: Batches, thread: threading.Thread, room: threading.Semaphore, stop: threading.Event
) -> None:
    stop.set()
    room.release()
    if thread is not threading.current_thread():
        thread.join(timeout=10)
    batches.close()
