"""Where training gets its batches from when the data do not lie on the device.

A *source* opens into batches; batches say where they are, so that a run goes on where it stopped:

    batches = prefetched(source.open(key, batch_size))
    x, y = next(batches)
    kept = batches.position()                  # plain JSON, of the batches given out so far
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
elsewhere; anything with these methods is one. `prefetch` reads ahead of the training.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

Position = dict[str, Any]


@runtime_checkable
class Batches(Protocol):
    """Batches in a fixed order, each a pytree of arrays with the same number of rows.

    The number is `batch_size`, of which several processes have their shares; only the last batch of
    an epoch may have fewer rows.
    """

    def __iter__(self) -> Iterator[Any]:
        """The batches themselves."""
        ...

    def __next__(self) -> Any:
        """The next batch."""
        ...

    def position(self) -> Position | None:
        """Where they are, as JSON: what `open` takes to continue with the batch that comes next.

        None if the source cannot return to a position.
        """
        ...

    def close(self) -> None:
        """Give back what reading took: threads, processes, files."""
        ...


@runtime_checkable
class Source(Protocol):
    """Data to train on that are read batch by batch."""

    def steps_per_epoch(self, batch_size: int) -> int | None:
        """How many batches an epoch has; None if that is known only when it ends.

        Raises ValueError if an epoch has none, and `NoEpochs` if the data have no end.
        """
        ...

    def spec(self, batch_size: int) -> Any:
        """The shapes and types of a batch, of all processes together."""
        ...

    def open(
        self,
        key: Any,
        batch_size: int,
        position: Position | None = None,
        *,
        process: tuple[int, int] = (0, 1),
    ) -> Batches:
        """The batches of a run, epoch after epoch, without end.

        If `steps_per_epoch` is None, they end with the epoch, and the next one is opened again.

        Args:
            key: the root of the run's random numbers, or its words as a numpy array.
            batch_size: rows of a batch, of all processes together; None for a source whose batches
                have a size already.
            position: where to continue; None for the beginning.
            process: (index, count): each process reads its own share of every batch, and their
                shares, in the order of the processes, are the batch that one process would read.
        """
        ...


class NoEpochs(ValueError):
    """Raised by `steps_per_epoch` for data without an end, which `steps=` can train on."""


def share(batch_size: int, process: tuple[int, int]) -> slice:
    """The rows of a batch that belong to a process (index, count).

    Raises ValueError where the processes do not divide the batch.

    >>> share(8, (1, 2))
    slice(4, 8, None)
    """
    index, count = process
    if not 0 <= index < count:
        raise ValueError(f"process is {process}, wanted (index, count) with 0 <= index < count")
    size, left = divmod(batch_size, count)
    if left or not size:
        raise ValueError(
            f"batch_size is {batch_size}, which {count} processes do not divide: write "
            f"batch_size={max(size, 1) * count}"
        )
    return slice(index * size, (index + 1) * size)
