"""Records in ArrayRecord files, alone or in a Grain pipeline, and what a damaged one does."""

import bisect
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

from jaxnn.data.gathered import GatheredBatches, whole_batches
from jaxnn.data.rows import row_spec
from jaxnn.data.source import Position
from jaxnn.explain.text import describe
from jaxnn.fingerprint import fingerprint
from jaxnn.installation import missing

THREADS = 8  # that read and decode the records of a batch


class Records:
    """The records of many files as one sequence, and a source of batches of them.

        files = sorted(Path("train").glob("*.array_record"))
        records = data.Records(files, decode)      # data= of a run: batches in `epoch_order`
        pipeline = grain.MapDataset.source(records).seed(0).shuffle()      # or through Grain

    ArrayRecord holds a checksum of each group of records, so that damage is noticed where it is
    read; files written with "group_size:1" lose one record to it, and read fastest at random.

    Args:
        files: ArrayRecord files, in the order in which their records are counted.
        decode: makes an example of a record's bytes: any pytree of arrays and numbers, of the
            same structure and shapes for each record if batches are made of them here.
        skip: a record that cannot be read or decoded, and a file that cannot be opened, is warned
            of and left out: the next good record of the file stands in for it, the others are
            where they would be. Without it, that raises.

    Raises:
        ImportError: array_record, which comes with Grain, is not installed.
        FileNotFoundError: a file is not there.
        ValueError: no files, or a file that is damaged as a whole. Where a record is read: that
            the record is damaged, or cannot be decoded; file and record are named.

    Reference: https://github.com/google/array_record.
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike[str]],
        decode: Callable[[bytes], Any],
        *,
        skip: bool = False,
    ) -> None:
        if isinstance(files, str | os.PathLike) or not files:
            raise ValueError(
                f"Records wants several files, got {files!r}: write "
                'sorted(Path("train").glob("*.array_record"))'
            )
        self._decode, self._skip = decode, skip
        self._files: list[str] = []
        counts: list[int] = []
        for file in [os.fspath(one) for one in files]:
            if not Path(file).is_file():
                raise FileNotFoundError(f"there is no file {file} to read records from")
            reader = library().ArrayRecordReader(file)
            count = reader.num_records() if reader.ok() else 0
            if count:
                reader.close()  # which raises where nothing can be read
            if not count:
                what = f"{file} has no records that can be read: it is cut short, or damaged"
                if not skip:
                    raise ValueError(f"{what}. Write it again, or Records(..., skip=True)")
                warnings.warn(f"{what}; it is left out", stacklevel=2)
                continue
            self._files.append(file)
            counts.append(count)
        if not counts:
            raise ValueError(f"none of the {len(files)} files has records that can be read")
        self._counts = counts
        self._ends = list(itertools.accumulate(counts))
        self._open: Any = threading.local()

    def __len__(self) -> int:
        """How many records there are in all files."""
        return self._ends[-1]

    def __repr__(self) -> str:
        """How many records and files."""
        return f"Records({len(self):,} records in {len(self._files)} files)"

    def __getitem__(self, index: Any) -> Any:
        """The example of a record by its number, 0 .. len - 1."""
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        place = bisect.bisect_right(self._ends, index)
        first = self._ends[place] - self._counts[place]
        count, record = self._counts[place], index - first
        for other in range(count):
            try:
                return self._example(place, (record + other) % count)
            except Exception as error:
                file, at = self._files[place], (record + other) % count
                cause = f"{type(error).__name__}: {error}"
                what = f"record {at} of {file} cannot be read ({cause})"
                if not self._skip:
                    raise ValueError(
                        f"{what}. Write the file again, or Records(..., skip=True) to leave such "
                        "records out"
                    ) from error
                warnings.warn(f"{what}; the next one stands in for it", stacklevel=2)
        raise ValueError(f"no record of {self._files[place]} can be read")

    def steps_per_epoch(self, batch_size: int) -> int:
        """records // batch_size; ValueError for a batch larger than the data."""
        return whole_batches(len(self), batch_size)

    def spec(self, batch_size: int) -> Any:
        """The shapes and types of a batch, from the first record."""
        return row_spec(self._batch([0], map), batch_size)

    def open(
        self,
        key: Any,
        batch_size: int,
        position: Position | None = None,
        *,
        process: tuple[int, int] = (0, 1),
    ) -> GatheredBatches:
        """The batches of a run, epoch after epoch, without end, read and decoded in threads.

        Raises ValueError for a batch that is larger than the data or that the processes do not
        divide, for the position of a run with other data, and, when a batch is read, if its
        records differ in structure or shape.
        """
        pool = ThreadPoolExecutor(THREADS, "jaxnn-records")

        def take(rows: np.ndarray) -> Any:
            return self._batch(rows, pool.map)

        def close() -> None:
            pool.shutdown(wait=False, cancel_futures=True)

        return GatheredBatches(take, len(self), key, batch_size, position, process, close)

    def once(self, batch_size: int) -> Iterator[Any]:
        """All records in order, once; the last batch holds the records that are left."""
        with ThreadPoolExecutor(THREADS, "jaxnn-records") as pool:
            for begin in range(0, len(self), batch_size):
                rows = range(begin, min(begin + batch_size, len(self)))
                yield self._batch(rows, pool.map)

    def fingerprint(self) -> dict[str, Any]:
        """The files by name, size, and number of records; and what decodes them.

        The bytes are not read: files of records are usually larger than anyone would read at the
        beginning of a run, and ArrayRecord checks them where it reads them.
        """
        files = [
            f"{Path(file).name}: {Path(file).stat().st_size} bytes, {count} records"
            for file, count in zip(self._files, self._counts, strict=True)
        ]
        return {"files": str(files), "skip": str(self._skip), "decode": fingerprint(self._decode)}

    def __getstate__(self) -> dict[str, Any]:
        """What worker processes are given: no open files."""
        return {name: item for name, item in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = threading.local()

    def _batch(self, rows: Any, over: Callable[..., Any]) -> Any:
        """The examples of some records, stacked."""
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

    def _example(self, place: int, record: int) -> Any:
        readers = self._open.__dict__  # one of each file a thread: they are not shared
        if place not in readers:
            readers[place] = library().ArrayRecordReader(self._files[place])
        (raw,) = readers[place].read([record])
        return self._decode(raw)


def library() -> Any:
    """array_record's module; ImportError, with what to install, where it is not there."""
    try:
        from array_record.python import array_record_module  # type: ignore[attr-defined]
    except ImportError as error:
        raise missing("records are read by", "array-record", "grain") from error
    return array_record_module
