"""Batches that a thread reads and puts on the device, ahead of the training."""

import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.data.source import Batches, Position
from jaxnn.validation import positive


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
    for count in counts:
        pile: list[Any] = []
        position, read = None, 0
        for _, batch in zip(range(count), batches, strict=False):
            read += 1
            if pile and _shapes(batch) != _shapes(pile[0]):
                yield _pile(pile), position
                pile = []
            pile.append(batch)
            position = batches.position()
        if pile:
            yield _pile(pile), position
        if read < count:
            return


def _pile(batches: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def _shapes(batch: Any) -> list[Any]:
    return [np.shape(leaf) for leaf in jax.tree.leaves(batch)]


def _close(
    batches: Batches, thread: threading.Thread, room: threading.Semaphore, stop: threading.Event
) -> None:
    stop.set()
    room.release()
    if thread is not threading.current_thread():
        thread.join(timeout=10)
    batches.close()
