"""Sources of batches for training on data that are not on the device.

A source opens into batches, which know their position, so that a run resumes where it stopped:

    batches = prefetched(source.open(key, batch_size))
    x, y = next(batches)
    kept = batches.position()                  # plain JSON, of the batches taken so far
    batches.close()

    batches = prefetched(source.open(key, batch_size, kept))       # in another process, later

A source may have three more members:

- `fingerprint()` returns nested dicts of text: what determines its batches, as far as it is known.
  Checkpoints record it, and only a run with an equal one is resumed. Without this method they
  record the source's class and attributes, so a source whose attributes change while it is read
  needs it.
- `resumable = False`: it cannot return to a position. `position()` of its batches is None, and
  `open` raises for one. Its runs train, and are rejected with checkpoints.
- `once(batch_size)` iterates over all rows once, in order, to evaluate on them; its last batch may
  be smaller.

`host_arrays` is the source of arrays in host memory or mapped from files, `records` that of record
files, `grain_pipeline` that of a Grain pipeline, and `stream` that of batches which are made
elsewhere; any object with these methods is one. `prefetch` reads ahead of the training.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxnn.validation import integer, natural

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
    if left or not size:
        raise ValueError(
            f"batch_size must be divisible by the {count} processes, got {batch_size}; write "
            f"batch_size={max(size, 1) * count}"
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
