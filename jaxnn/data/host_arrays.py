"""A source of arrays in host memory, or mapped from files: for data larger than the device."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxnn.core.declarations import is_array
from jaxnn.data.check import check
from jaxnn.data.order import GatheredBatches, whole_batches
from jaxnn.data.rows import as_arrays, check_rows, leaves_by_path, row_count, row_spec, slices
from jaxnn.data.source import Position
from jaxnn.fingerprint import checksum


@dataclasses.dataclass(frozen=True, eq=False)
class HostArrays:
    """Arrays on the host, where each batch is gathered in the order of `epoch_order`.

    Batch t of epoch e holds the rows `epoch_order(key, e, rows)[t * size : (t + 1) * size]`, as for
    arrays on the device. Rows that do not fill a last batch are left out of the epoch.

    Args:
        x: Any pytree of arrays, (rows, ...) each: NumPy arrays, or arrays mapped from files.
            `HostArrays(tree)` has batches like `tree`.
        y: Targets, any pytree of arrays likewise; `HostArrays(x, y)` has batches (x, y).
            Default: None, batches without targets.

    Raises:
        ValueError, TypeError: The arrays cannot be trained on: leaves differ in rows, or have none.
            A pair of two arrays must also be finite, as `check` requires; other structures may
            contain NaN, which a mask may exclude.

    >>> source = HostArrays(np.arange(6.0), np.arange(6))
    >>> source.steps_per_epoch(2)
    3
    >>> batches = source.open(jax.random.key(0), 2)
    >>> sorted(row for _ in range(3) for row in next(batches)[1].tolist())
    [0, 1, 2, 3, 4, 5]
    >>> source = HostArrays({"tokens": np.ones((6, 4), int)})
    >>> next(source.open(jax.random.key(0), 2))["tokens"].shape
    (2, 4)

    Mapped from files, the arrays may be larger than the memory:

        data.HostArrays(np.load("x.npy", mmap_mode="r"), np.load("y.npy", mmap_mode="r"))
    """

    x: Any
    y: Any = None

    def __post_init__(self) -> None:
        """Convert the arrays, and raise if they cannot be trained on."""
        for name in ("x", "y")[: 1 + (self.y is not None)]:
            part = as_arrays(getattr(self, name), f"training data/{name}")
            part = jax.tree.map(lambda a: np.asarray(a) if isinstance(a, jax.Array) else a, part)
            object.__setattr__(self, name, part)
        self.check()

    @property
    def tree(self) -> Any:
        """All rows, in the structure of a batch."""
        return self.x if self.y is None else (self.x, self.y)

    def __repr__(self) -> str:
        """Return shapes and types, no numbers."""
        arrays = (f"{name} {a.shape} {a.dtype}".strip() for name, a in self._leaves().items())
        return f"HostArrays({', '.join(arrays)})"

    def check(
        self,
        classes: int | None = None,
        ignore: int | None = None,
        name: str = "training data",
        write: str = "classes={}",
    ) -> None:
        """Raise ValueError or TypeError as `data.check` does.

        Rows are read in pieces, so that mapped files do not need to fit in memory.

        Args:
            classes: Number of classes. Default: None if y does not hold class labels.
            ignore: A label that is accepted although it is not a class. Default: None.
            name: Name of the data in errors. Default: "training data".
            write: The code that sets the number of classes, shown in errors.
        """
        if self.y is None:
            check_rows(self.x, name)
        else:
            check(self.x, self.y, classes=classes, ignore=ignore, name=name, write=write)

    def fingerprint(self) -> dict[str, str]:
        """Return shape, type, and checksum of each array, which is read once."""
        return {path or "array": checksum(a) for path, a in self._leaves().items()}

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return rows // batch_size.

        Args:
            batch_size: Rows of a batch; ValueError if it is larger than the data.
        """
        return whole_batches(row_count(self.tree), batch_size)

    def spec(self, batch_size: int) -> Any:
        """Return the shapes and types of a batch, as they are on the device.

        Args:
            batch_size: Rows of a batch.
        """
        return row_spec(self.tree, batch_size)

    def open(
        self,
        key: Any,
        batch_size: int,
        position: Position | None = None,
        *,
        process: tuple[int, int] = (0, 1),
    ) -> GatheredBatches:
        """Return the batches of a run, epoch after epoch, without end.

        Args:
            key: The root key of the run, or its words as a NumPy array.
            batch_size: Rows of a batch, of all processes together.
            position: Where to continue. Default: None, from the beginning.
            process: (index, count) of this process.

        Raises:
            ValueError: A batch is larger than the data or not divided by the processes, or the
                position is that of a run with other data, another batch size, or another key.
        """

        def take(rows: np.ndarray) -> Any:
            return jax.tree.map(lambda leaf: np.asarray(leaf[rows]), self.tree)

        return GatheredBatches(take, row_count(self.tree), key, batch_size, position, process)

    def once(self, batch_size: int) -> Iterator[Any]:
        """Yield all rows once, in order; the last batch holds the remaining rows.

        Args:
            batch_size: Rows of a batch.
        """
        return slices(self.tree, batch_size)

    def _leaves(self) -> dict[str, Any]:
        if self.y is not None and is_array(self.x) and is_array(self.y):
            return {"x": self.x, "y": self.y}
        return leaves_by_path(self.tree)
