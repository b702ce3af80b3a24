"""Where training gets its batches from when the data do not lie on the device.

A *source* opens into batches; batches say where they are, so that a run goes on where it stopped:

    batches = prefetched(source.open(key, batch_size))
    x, y = next(batches)
    kept = batches.position()                  # plain JSON, of the batches given out so far
    batches.close()

    batches = prefetched(source.open(key, batch_size, kept))       # in another process, later

A source may have a method `fingerprint()`, which returns nested dicts of text: what determines its
batches, as far as it is known. Checkpoints record it, and only a run with an equal one is resumed.
Without this method they record the source's class and attributes, so one whose attributes change
while it is read needs it.

`host_arrays` is the source of arrays in host memory or mapped from files, `grain_pipeline` that of
a Grain pipeline; anything with these methods is one. `prefetch` reads ahead of the training.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

Position = dict[str, Any]


@runtime_checkable
class Batches(Protocol):
    """Batches in a fixed order, each a pair (x, y) of arrays with `batch_size` rows."""

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """The batches themselves."""
        ...

    def __next__(self) -> tuple[Any, Any]:
        """The next batch."""
        ...

    def position(self) -> Position:
        """Where they are, as JSON: what `open` takes to go on with the batch that comes next."""
        ...

    def close(self) -> None:
        """Give back what reading took: threads, processes, files."""
        ...


@runtime_checkable
class Source(Protocol):
    """Data to train on that are read batch by batch."""

    def steps_per_epoch(self, batch_size: int) -> int:
        """How many batches an epoch has; ValueError where it has none, or cannot be known."""
        ...

    def spec(self, batch_size: int) -> tuple[Any, Any]:
        """The shapes and types of a batch (x, y), of all processes together."""
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

        Args:
            key: the root of the run's random numbers, or its words as a numpy array.
            batch_size: rows of a batch, of all processes together.
            position: where to go on; None for the beginning.
            process: (index, count): each process reads its own share of every batch, and their
                shares, in the order of the processes, are the batch that one process would read.
        """
        ...


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
            f"batch_size={max(size, 1) * count}, say"
        )
    return slice(index * size, (index + 1) * size)
