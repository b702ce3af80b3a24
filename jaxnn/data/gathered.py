"""Batches gathered by row number, in the order of `epoch_order`: for sources that can seek a row.

Batch t of epoch e holds the rows `epoch_order(key, e, rows)[t * size : (t + 1) * size]`, as it does
for arrays on the device. Rows that do not fill a last batch wait for another epoch.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxnn.data.order import epoch_order
from jaxnn.data.source import Position, share
from jaxnn.keys import key_words


def whole_batches(rows: int, batch_size: int) -> int:
    """rows // batch_size; ValueError for a batch larger than the data."""
    if not 1 <= batch_size <= rows:
        raise ValueError(
            f"batch_size is {batch_size}, but the training data have {rows} rows; write "
            f"batch_size={rows} or less"
        )
    return rows // batch_size


class GatheredBatches:
    """The batches of a run over numbered rows, epoch after epoch, without end.

    Args:
        take: the batch of some rows, from their numbers.
        rows: the number of rows.
        key: the root of the run's random numbers, or its words as a numpy array.
        batch_size: rows of a batch, of all processes together.
        position: where to continue; None for the beginning.
        process: (index, count) of this process.
        close: what releases what reading holds.

    Raises:
        ValueError: a batch that is larger than the data or that the processes do not divide, or
            the position of a run with other data, another batch size, or another key.
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
        self._done = 0 if position is None else _done(position, self._kept)
        self._epoch, self._order = -1, np.zeros(0, np.int32)
        self.close = close
        """Release what reading holds."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The rows of the next batch that belong to this process."""
        epoch, step = divmod(self._done, self._steps)
        if epoch != self._epoch:
            order = epoch_order(self._key, epoch, self._kept["rows"])
            self._epoch, self._order = epoch, order[: self._steps * self._size]
        rows = self._order.reshape(self._steps, self._size)[step][self._share]
        batch = self._take(rows)
        self._done += 1
        return batch

    def position(self) -> Position:
        """How many batches were given out, and of which data, in which order."""
        return {"batches": self._done, **self._kept}


def _done(position: Position, kept: Position) -> int:
    for name, now in kept.items():
        then = position.get(name)
        if then != now:
            raise ValueError(
                f"the position in the data is of a run with {name} {then}, and this one has "
                f"{name} {now}: its batches would be others. Go on with the data, batch_size and "
                "key that it was begun with, or begin a new run"
            )
    done = position.get("batches")
    if not isinstance(done, int) or isinstance(done, bool) or done < 0:
        raise ValueError(f"the position in the data has batches {done!r}, wanted an int >= 0")
    return done
