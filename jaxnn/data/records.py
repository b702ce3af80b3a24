"""Sources for data larger than the device: host or memory-mapped arrays, and record files."""

import bisect
import dataclasses
import itertools
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnn.data.check import check
from jaxnn.data.rows import as_arrays, check_rows, leaves_by_path, row_count, row_spec, slices
from jaxnn.data.source import GatheredBatches, Position, whole_batches
from jaxnn.explain.text import describe
from jaxnn.fields import is_array
from jaxnn.fingerprint import checksum, fingerprint
from jaxnn.installation import required
from jaxnn.validation import Accepts

THREADS = 8  # that read and decode the records of a batch
_several = Accepts(
    "a sequence of at least one file",
    lambda files: not isinstance(files, str | os.PathLike) and len(files) > 0,
    hint='write sorted(Path("train").glob("*.array_record"))',
)


class Records:
    """The records of many files as one sequence, and a source of batches of them.

        files = sorted(Path("train").glob("*.array_record"))
        records = data.Records(files, decode)      # data= of a run: batches in `epoch_order`
        pipeline = grain.MapDataset.source(records).seed(0).shuffle()      # or through Grain

    ArrayRecord stores a checksum of each group of records, so damage is detected during reading. In
    files that are written with "group_size:1", damage affects a single record, and random access is
    fastest.

    Args:
        files: ArrayRecord files, in the order in which their records are counted.
        decode: A function from the bytes of a record to an example, a pytree of arrays and numbers.
            For batches, all examples must have the same structure and shapes.
        skip: Whether a record that cannot be read or decoded, or a file that cannot be opened, is
            reported by a warning and skipped. The next valid record of the file replaces it; the
            positions of other records do not change. Default: False, an error is raised.

    Raises:
        ImportError: array_record, which Grain installs, is not installed.
        FileNotFoundError: A file does not exist.
        ValueError: There are no files, or a file is damaged as a whole. Also raised later, if a
            record is damaged or cannot be decoded; the message contains the file and the record.

    Reference: https://github.com/google/array_record.
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike[str]],
        decode: Callable[[bytes], Any],
        *,
        skip: bool = False,
    ) -> None:
        self._decode, self._skip = decode, skip
        self._files: list[str] = []
        self._counts: list[int] = []
        for file in map(os.fspath, _several(files, "Records.files")):
            os.stat(file)
            reader = import_array_record().ArrayRecordReader(file)
            count = reader.num_records() if reader.ok() else 0
            if count:
                reader.close()  # which raises if nothing can be read
                self._files.append(file)
                self._counts.append(count)
            else:
                self._report(f"{file} has no readable records: it is truncated or damaged")
        self._ends = list(itertools.accumulate(self._counts))
        self._open: Any = threading.local()

    def __len__(self) -> int:
        """Return the number of records in all files."""
        return sum(self._counts)

    def __repr__(self) -> str:
        """Return the number of records and files."""
        return f"Records({len(self):,} records in {len(self._files)} files)"

    def __getitem__(self, index: Any) -> Any:
        """Return the example of a record by its number, 0 .. len - 1."""
        index = range(len(self))[int(index)]
        number = bisect.bisect_right(self._ends, index)
        file, count = self._files[number], self._counts[number]
        first = index - (self._ends[number] - count)
        for record in (*range(first, count), *range(first)):
            try:
                return self._example(file, record)
            except Exception as error:
                cause = f"{type(error).__name__}: {error}"
                self._report(f"record {record} of {file} cannot be read ({cause})", error)
        raise ValueError(f"no record of {file} can be read")

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return records // batch_size.

        Args:
            batch_size: Rows of a batch; ValueError if it is larger than the data.
        """
        return whole_batches(len(self), batch_size)

    def spec(self, batch_size: int) -> Any:
        """Return the shapes and types of a batch, from the first record.

        Args:
            batch_size: Rows of a batch.
        """
        return row_spec(self._batch([0], map), batch_size)

    def open(
        self,
        key: Any,
        batch_size: int,
        position: Position | None = None,
        *,
        process: tuple[int, int] = (0, 1),
    ) -> GatheredBatches:
        """Return the endless batches of a run, epoch after epoch; threads read and decode records.

        Args:
            key: The root key of the run, or its words as a NumPy array.
            batch_size: Rows of a batch, of all processes together.
            position: Where to continue. Default: None, from the beginning.
            process: (index, count) of this process.

        Raises:
            ValueError: A batch is larger than the data or not divisible by the number of processes,
                or the position is that of a run with other data. Also raised later, if the records
                of a batch differ in structure or shape.
        """
        pool = ThreadPoolExecutor(THREADS, "jaxnn-records")

        def take(rows: np.ndarray) -> Any:
            return self._batch(rows, pool.map)

        def close() -> None:
            pool.shutdown(wait=False, cancel_futures=True)

        return GatheredBatches(take, len(self), key, batch_size, position, process, close)

    def once(self, batch_size: int) -> Iterator[Any]:
        """Yield all records in order, once; the last batch holds the remaining records.

        Args:
            batch_size: Rows of a batch.
        """
        with ThreadPoolExecutor(THREADS, "jaxnn-records") as pool:
            for begin in range(0, len(self), batch_size):
                rows = range(begin, min(begin + batch_size, len(self)))
                yield self._batch(rows, pool.map)

    def fingerprint(self) -> dict[str, Any]:
        """Return the files by name, size, and number of records; and the code that decodes them.

        The bytes are not read: files of records are usually too large for that at the start of a
        run, and ArrayRecord checks them when it reads them.
        """
        files = [
            f"{Path(file).name}: {Path(file).stat().st_size} bytes, {count} records"
            for file, count in zip(self._files, self._counts, strict=True)
        ]
        return {"files": str(files), "skip": str(self._skip), "decode": fingerprint(self._decode)}

    def __getstate__(self) -> dict[str, Any]:
        """Return what worker processes receive: no open files."""
        return {name: item for name, item in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = threading.local()

    def _report(self, problem: str, cause: Exception | None = None) -> None:
        """Warn of a problem if records are skipped, otherwise raise ValueError."""
        if not self._skip:
            raise ValueError(
                f"{problem}; write the file again, or Records(..., skip=True) to leave it out"
            ) from cause
        warnings.warn(f"{problem}; it is left out", stacklevel=3)

    def _batch(self, rows: Any, over: Callable[..., Any]) -> Any:
        """Return the examples of some records, stacked."""
        examples = [jax.tree.map(np.asarray, one) for one in over(self.__getitem__, rows)]
        kinds = [(jax.tree.structure(one), describe(one)) for one in examples]
        for row, kind in zip(rows, kinds, strict=True):
            if kind != kinds[0]:
                raise ValueError(
                    f"record {row} is decoded to {kind[1]}, and record {rows[0]} of the same batch "
                    f"to {kinds[0][1]}; expected equal structures, shapes, and types: pad or crop "
                    "in decode, or batch them with data.Grain"
                )
        return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)

    def _example(self, file: str, record: int) -> Any:
        readers = self._open.__dict__  # one of each file and thread: they are not shared
        if file not in readers:
            readers[file] = import_array_record().ArrayRecordReader(file)
        (raw,) = readers[file].read([record])
        return self._decode(raw)


def import_array_record() -> Any:
    """Import the module of array_record."""
    module = "array_record.python.array_record_module"
    return required(module, "records are read by", "array-record", "grain")


@dataclasses.dataclass(frozen=True, eq=False)
class HostArrays:
    """Arrays on the host, from which each batch is gathered in the order of `epoch_order`.

    Batch t of epoch e holds the rows `epoch_order(key, e, rows)[t * size : (t + 1) * size]`, as for
    arrays on the device. Rows that do not fill a last batch are left out of the epoch.

    Args:
        x: Any pytree of arrays, (rows, ...) each: NumPy arrays, or arrays mapped from files.
            `HostArrays(tree)` has batches like `tree`.
        y: Targets, any pytree of arrays likewise; `HostArrays(x, y)` has batches (x, y).
            Default: None, batches without targets.

    Raises:
        ValueError, TypeError: The arrays cannot be trained on: leaves differ in the number of rows,
            or there are no rows. A pair of two arrays must also be finite, as `check` requires;
            other structures may contain NaN, which a mask may exclude.

    >>> source = HostArrays(np.arange(6.0), np.arange(6))
    >>> source.steps_per_epoch(2)
    3
    >>> batches = source.open(jax.random.key(0), 2)
    >>> sorted(row for _ in range(3) for row in next(batches)[1].tolist())
    [0, 1, 2, 3, 4, 5]
    >>> source = HostArrays({"tokens": np.ones((6, 4), int)})
    >>> next(source.open(jax.random.key(0), 2))["tokens"].shape
    (2, 4)

    Arrays mapped from files may be larger than the memory:

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
            ValueError: A batch is larger than the data or not divisible by the number of processes,
                or the position is that of a run with other data, another batch size, or another
                key.
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
