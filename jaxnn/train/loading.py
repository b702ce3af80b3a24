"""Loaders, which provide the batches of a run to the steps of its program.

Arrays of rows are on the device, where each step gathers its rows in the order of the epoch. A
source is read ahead in a thread, and gives one batch at a time. A program without data receives
None. The result of a step depends only on the state, the key, the number of the step, and the
batch.
"""

import contextlib
from typing import Any, NamedTuple

import jax
import numpy as np

from ..data.accept import as_source
from ..data.augmented import Augmented
from ..data.order import epoch_order
from ..data.prefetch import prefetched
from ..data.rows import row_count, row_spec
from ..data.source import NoEpochs, Position, Source
from ..data.stream import Stream
from ..validation import positive
from .program import Program

DEFAULT_SIZE = 128  # rows of a batch


class Batches(NamedTuple):
    """The input of one dispatch of compiled steps.

    Args:
        items: The rows of each step, int32 (steps, rows); or one batch; or None.
        steps: The number of steps.
        rows: The rows of a batch, by which plain metrics are weighted; 1 without data.
    """

    items: Any
    steps: int
    rows: int


class Loader:
    """The batches of a run; they are None for a program that generates its data.

    Attributes:
        steps_per_epoch: The number of batches of an epoch; None if it is unknown, or if there are
            no epochs.
        has_epochs: Whether there are epochs.
        at_once: The largest number of steps that one program takes.
        arrays: The arrays that all steps share, or None.
    """

    steps_per_epoch: int | None = None
    has_epochs: bool = False
    at_once: int = 1000
    arrays: Any = None

    def first(self) -> Any:
        """Return the batch of the first step, for `program.init`."""
        return None

    def spec(self) -> Any:
        """Return the shapes and types of a batch."""
        return None

    def begin(self, step: int, position: Position | None) -> None:
        """Get ready for the steps after `step`, at which the source was at `position`."""

    def take(self, step: int, count: int) -> Batches:
        """Return the batches of `count` steps after `step`, or of fewer."""
        return Batches(None, count, 1)

    def prepare(self, step: int) -> None:
        """Prepare the steps after `step` on the host while the device is busy."""

    def ends_epoch(self) -> bool:
        """Return whether an epoch of unknown length ended with the last batch."""
        return False

    def position(self) -> Position | None:
        """Return the position of the source; None if it follows from the step."""

    def close(self) -> None:
        """Release the resources of reading."""


class ArrayLoader(Loader):
    """Arrays on the device: each step gathers its rows there, in the order of `epoch_order`.

    Args:
        arrays: A pytree of arrays of rows.
        size: The rows of a batch.
        words: The words of the run's root key.
        placement: The placement of the arrays.
    """

    has_epochs = True

    arrays: Any
    at_once: int
    steps_per_epoch: int | None

    def __init__(self, arrays: Any, size: int, words: np.ndarray, placement: Any) -> None:
        self._total, self._size, self._words = row_count(arrays), size, words
        if size > self._total:
            raise ValueError(
                f"batch_size is {size}, but the training data have {self._total} rows; write "
                f"batch_size={self._total} or less"
            )
        self.arrays = placement.put(arrays)
        self._steps = self.at_once = self.steps_per_epoch = self._total // size
        self._drawn: tuple[int, Any] = (-1, None)

    def first(self) -> Any:
        """Return the batch of the first step."""
        chosen = self.take(0, 1).items[0]
        return jax.tree.map(lambda leaf: leaf[chosen], self.arrays)

    def spec(self) -> Any:
        """Return the shapes and types of a batch."""
        return row_spec(self.arrays, self._size)

    def prepare(self, step: int) -> None:
        """Draw the order of a new epoch."""
        epoch = step // self._steps
        if self._drawn[0] != epoch:
            order = epoch_order(self._words, epoch, self._total)
            self._drawn = epoch, order[: self._steps * self._size].reshape(-1, self._size)

    def take(self, step: int, count: int) -> Batches:
        """Return the rows of each step."""
        self.prepare(step)
        begin = step % self._steps
        return Batches(self._drawn[1][begin : begin + count], count, self._size)


class SourceLoader(Loader):
    """A source, whose batches a thread reads and puts on the device ahead of the training.

    Args:
        source: The source.
        size: The rows of a batch, of all processes together; None for those of a stream.
        words: The words of the run's root key.
        placement: The placement of the batches.
        program: The program, which checks each batch on the host.
    """

    at_once = 1

    steps_per_epoch: int | None
    has_epochs: bool

    def __init__(
        self, source: Any, size: int | None, words: Any, placement: Any, program: Program
    ) -> None:
        self._source, self._size, self._words = source, size, words
        self._placement, self._program = placement, program
        with contextlib.suppress(NoEpochs):
            self.steps_per_epoch, self.has_epochs = source.steps_per_epoch(size), True
        self._batches: Any = None

    def first(self) -> Any:
        """Return the batch of the first step, which stays the next one."""
        self.begin(0, None)
        return self._peek()

    def spec(self) -> Any:
        """Return the shapes and types of a batch."""
        return self._source.spec(self._size)

    def begin(self, step: int, position: Position | None) -> None:
        """Open the source there and read ahead."""
        if step or self._batches is None:
            self.close()
            self._batches = prefetched(self._open(position), self._placed, ahead=1)

    def take(self, step: int, count: int) -> Batches:
        """Return the next batch."""
        self.begin(0, None)  # if the epoch before has ended
        batch = self._peek()
        next(self._batches)
        return Batches(batch, 1, row_count(batch))

    def ends_epoch(self) -> bool:
        """Return whether no batch is left; the source is opened again for the next epoch."""
        if self.steps_per_epoch is None and self.has_epochs:
            try:
                self._batches.peek()
            except StopIteration:
                self.close()
                return True
        return False

    def position(self) -> Position | None:
        """Return the position of the training; batches that were read ahead do not count."""
        return None if self._batches is None else self._batches.position()

    def close(self) -> None:
        """End the thread and close the source."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def _open(self, position: Position | None) -> Any:
        process = jax.process_index(), jax.process_count()
        return self._source.open(self._words, self._size, position, process=process)

    def _peek(self) -> Any:
        try:
            return self._batches.peek()
        except StopIteration:
            raise ValueError(
                f"the batches of {self._source!r} ended before the run; repeat them, or write a "
                "smaller number of steps"
            ) from None

    def _placed(self, batch: Any) -> Any:
        self._program.check_data(batch, "a batch of the training data")
        return self._placement.put_batch(batch)


def loader_of(
    program: Program, data: Any, size: int | None, words: np.ndarray, placement: Any
) -> tuple[Loader, tuple[Any, ...]]:
    """Return the loader of a run's data, and the augmentations of its batches.

    Args:
        program: The program, which checks the data.
        data: As for `train.run`.
        size: The rows of a batch; None for 128, and for those of a stream.
        words: The words of the run's root key.
        placement: The placement of the arrays.
    """
    size = size if size is None else positive(size, "batch_size")
    source = as_source(data)
    functions = source.functions if isinstance(source, Augmented) else ()
    while isinstance(source, Augmented):
        source = source.source
    if source is None:
        return Loader(), functions
    if isinstance(source, Source):
        size = size if isinstance(source, Stream) else size or DEFAULT_SIZE
        return SourceLoader(source, size, words, placement, program), functions
    program.check_data(source, "training data")
    return ArrayLoader(source, size or DEFAULT_SIZE, words, placement), functions
