"""A source of arrays in host memory, or mapped from files: for data larger than the device."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxnn.core import paths
from jaxnn.core.fingerprint import checksum
from jaxnn.data.check import check
from jaxnn.data.order import epoch_order
from jaxnn.data.source import Position, share

LOOKED_AT = 2**26  # bytes checked at once, which a mapped file has in memory meanwhile


@dataclasses.dataclass(frozen=True, eq=False)
class HostArrays:
    """Arrays that stay on the host: each batch is gathered there, in the order of `epoch_order`.

    Batch t of epoch e holds the rows `epoch_order(key, e, rows)[t * size : (t + 1) * size]`, as it
    does for arrays on the device. Rows that do not fill a last batch wait for another epoch.

    Args:
        x: inputs, (rows, ...), a numpy array, or one mapped from a file.
        y: targets, (rows, ...), likewise.

    Raises:
        ValueError, TypeError: arrays that cannot be trained on, as `check` says: rows that differ,
            none, or numbers that are not finite.

    >>> source = HostArrays(np.arange(6.0), np.arange(6))
    >>> source.steps_per_epoch(2)
    3
    >>> batches = source.open(jax.random.key(0), 2)
    >>> sorted(row for _ in range(3) for row in next(batches)[1].tolist())
    [0, 1, 2, 3, 4, 5]

    Mapped from files, the arrays may be larger than the memory:

        data.HostArrays(np.load("x.npy", mmap_mode="r"), np.load("y.npy", mmap_mode="r"))
    """

    x: np.ndarray
    y: np.ndarray

    def __post_init__(self) -> None:
        """Refuse what cannot be trained on."""
        for name in ("x", "y"):
            if isinstance(getattr(self, name), jax.Array):  # gathered on the host, batch by batch
                object.__setattr__(self, name, np.asarray(getattr(self, name)))
        self.check()

    def __repr__(self) -> str:
        """Shapes and types, no numbers."""
        told = (f"{name} {a.shape} {a.dtype}" for name, a in (("x", self.x), ("y", self.y)))
        return f"HostArrays({', '.join(told)})"

    def check(
        self,
        classes: int | None = None,
        ignore: int | None = None,
        name: str = "training data",
    ) -> None:
        """Raise ValueError or TypeError as `data.check` does, whose arguments these are.

        Looks at a part of the rows at a time, so that mapped files need not fit in memory.
        """
        check(self.x[:1], self.y[:1], name=name)
        if len(self.x) != len(self.y):
            check(self.x, self.y, name=name)
        row = max(self.x[:1].nbytes + self.y[:1].nbytes, 1)
        rows = max(LOOKED_AT // row, 1)
        for begin in range(0, len(self.x), rows):
            part = slice(begin, begin + rows)
            where = name if rows >= len(self.x) else f"{name} from row {begin}"
            check(self.x[part], self.y[part], classes=classes, ignore=ignore, name=where)

    def fingerprint(self) -> dict[str, str]:
        """Shape, type, and checksum of both arrays, which are read once."""
        return {"x": checksum(self.x), "y": checksum(self.y)}

    def steps_per_epoch(self, batch_size: int) -> int:
        """rows // batch_size; ValueError for a batch larger than the data."""
        if not 1 <= batch_size <= len(self.x):
            raise ValueError(
                f"batch_size is {batch_size}, but the training data have {len(self.x)} rows; write "
                f"batch_size={len(self.x)} or less"
            )
        return len(self.x) // batch_size

    def spec(self, batch_size: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """The shapes and types of a batch, as they are on the device."""
        return _spec(self.x, batch_size), _spec(self.y, batch_size)

    def open(
        self,
        key: Any,
        batch_size: int,
        position: Position | None = None,
        *,
        process: tuple[int, int] = (0, 1),
    ) -> "HostBatches":
        """The batches of a run, epoch after epoch, without end.

        Raises ValueError for a batch that is larger than the data or that the processes do not
        divide, and for the position of a run with other data, another batch or another key.
        """
        steps = self.steps_per_epoch(batch_size)
        key = paths.key_words(key)
        kept = {"rows": len(self.x), "batch_size": batch_size, "key": key.tolist()}
        done = 0 if position is None else _done(position, kept)
        return HostBatches(self, key, steps, batch_size, share(batch_size, process), kept, done)


class HostBatches:
    """The batches of `HostArrays.open`."""

    def __init__(
        self,
        source: HostArrays,
        key: np.ndarray,
        steps: int,
        size: int,
        rows: slice,
        kept: Position,
        done: int,
    ) -> None:
        self._source, self._key, self._steps, self._size = source, key, steps, size
        self._rows, self._kept, self._done = rows, kept, done
        self._epoch, self._order = -1, np.zeros(0, np.int32)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the next batch that belong to this process, copied."""
        epoch, step = divmod(self._done, self._steps)
        if epoch != self._epoch:
            order = epoch_order(self._key, epoch, len(self._source.x))
            self._epoch, self._order = epoch, order[: self._steps * self._size]
        rows = self._order.reshape(self._steps, self._size)[step][self._rows]
        batch = np.asarray(self._source.x[rows]), np.asarray(self._source.y[rows])
        self._done += 1
        return batch

    def position(self) -> Position:
        """How many batches were given out, and of which data, in which order."""
        return {"batches": self._done, **self._kept}

    def close(self) -> None:
        """Nothing is held."""


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


def _spec(array: np.ndarray, rows: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
        (rows, *array.shape[1:]), jax.dtypes.canonicalize_dtype(array.dtype)
    )
