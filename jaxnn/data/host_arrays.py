"""A source of arrays in host memory, or mapped from files: for data larger than the device."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxnn.core.declarations import is_array
from jaxnn.data.arrays import as_arrays
from jaxnn.data.check import check
from jaxnn.data.gathered import GatheredBatches, whole_batches
from jaxnn.data.rows import check_rows, leaves_by_path, row_count, row_spec, slices
from jaxnn.data.source import Position
from jaxnn.fingerprint import checksum

LOOKED_AT = 2**26  # bytes checked at once, which a mapped file has in memory meanwhile


@dataclasses.dataclass(frozen=True, eq=False)
class HostArrays:
    """Arrays that stay on the host: each batch is gathered there, in the order of `epoch_order`.

    Batch t of epoch e holds the rows `epoch_order(key, e, rows)[t * size : (t + 1) * size]`, as it
    does for arrays on the device. Rows that do not fill a last batch wait for another epoch.

    Args:
        x: any pytree of arrays, (rows, ...) each: NumPy arrays, or arrays mapped from files.
            `HostArrays(tree)` has batches like `tree`.
        y: targets, any pytree of arrays likewise; `HostArrays(x, y)` has batches (x, y).
            Default: None, batches without targets.

    Raises:
        ValueError, TypeError: arrays that cannot be trained on: leaves differ in rows, or have
            none. A pair of two arrays also has to be finite, as `check` requires; other structures
            may hold NaN behind a mask.

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
        """Reject what cannot be trained on."""
        for name in ("x", "y"):  # gathered on the host, batch by batch
            part = getattr(self, name)
            if name == "x" or part is not None:
                part = as_arrays(part, f"training data: {name}")
            part = jax.tree.map(lambda a: np.asarray(a) if isinstance(a, jax.Array) else a, part)
            object.__setattr__(self, name, part)
        self.check()

    @property
    def tree(self) -> Any:
        """All rows, as batches are structured."""
        return self.x if self.y is None else (self.x, self.y)

    def __repr__(self) -> str:
        """Shapes and types, no numbers."""
        leaves = {"x": self.x, "y": self.y} if self._is_pair() else leaves_by_path(self.tree)
        told = (f"{name} {a.shape} {a.dtype}".strip() for name, a in leaves.items())
        return f"HostArrays({', '.join(told)})"

    def check(
        self,
        classes: int | None = None,
        ignore: int | None = None,
        name: str = "training data",
        write: str = "classes={}",
    ) -> None:
        """Raise ValueError or TypeError as `data.check` does, whose arguments these are.

        Looks at a part of the rows at a time, so that mapped files need not fit in memory. Data
        other than a pair of arrays are checked by `check_rows`.
        """
        if not self._is_pair():
            check_rows(self.tree, name)
            return
        x, y = self.tree
        check(x[:1], y[:1], name=name)
        if len(x) != len(y):
            check(x, y, name=name)
        row = max(x[:1].nbytes + y[:1].nbytes, 1)
        rows = max(LOOKED_AT // row, 1)
        for begin in range(0, len(x), rows):
            part = slice(begin, begin + rows)
            where = name if rows >= len(x) else f"{name} from row {begin}"
            check(x[part], y[part], classes=classes, ignore=ignore, name=where, write=write)

    def fingerprint(self) -> dict[str, str]:
        """Shape, type, and checksum of each array, which is read once."""
        if self._is_pair():
            return {"x": checksum(self.x), "y": checksum(self.y)}
        return {path or "array": checksum(a) for path, a in leaves_by_path(self.tree).items()}

    def steps_per_epoch(self, batch_size: int) -> int:
        """rows // batch_size; ValueError for a batch larger than the data."""
        return whole_batches(row_count(self.tree), batch_size)

    def spec(self, batch_size: int) -> Any:
        """The shapes and types of a batch, as they are on the device."""
        return row_spec(self.tree, batch_size)

    def open(
        self,
        key: Any,
        batch_size: int,
        position: Position | None = None,
        *,
        process: tuple[int, int] = (0, 1),
    ) -> GatheredBatches:
        """The batches of a run, epoch after epoch, without end.

        Raises ValueError for a batch that is larger than the data or that the processes do not
        divide, and for the position of a run with other data, another batch or another key.
        """

        def take(rows: np.ndarray) -> Any:
            return jax.tree.map(lambda leaf: np.asarray(leaf[rows]), self.tree)

        return GatheredBatches(take, row_count(self.tree), key, batch_size, position, process)

    def once(self, batch_size: int) -> Iterator[Any]:
        """All rows in order, once; the last batch holds the rows that are left."""
        return slices(self.tree, batch_size)

    def _is_pair(self) -> bool:
        return self.y is not None and is_array(self.x) and is_array(self.y)
