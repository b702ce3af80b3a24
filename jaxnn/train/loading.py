"""Loaders: they bring the batches of a run to the steps of its program.

Arrays of rows lie on the device, where each step gathers its rows in the order of the epoch. A
source is read ahead in a thread, and gives one batch at a time. A program without data gets None.
What a step computes depends on the key, the number of the step, and the batch alone.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..data.accept import as_source, is_resumable
from ..data.augmented import Augmented, augmented
from ..data.order import epoch_order
from ..data.prefetch import prefetched
from ..data.rows import row_count, row_spec
from ..data.source import NoEpochs, Position, Source
from ..data.stream import Stream
from ..keys import kept_key
from .dispatch import steps_at_once
from .evaluation import check_count
from .placed_step import placed_step
from .program import Program, code_of
from .step import remembered

DEFAULT_SIZE = 128  # rows of a batch


class Batches(NamedTuple):
    """What one dispatch of compiled steps runs on.

    Args:
        items: the rows of each step, int32 (steps, rows); or one batch; or None.
        steps: the number of steps.
        rows: the rows of a batch, by which plain metrics are weighted; 1 without data.
    """

    items: Any
    steps: int
    rows: int


class Loader(Protocol):
    """The batches of a run.

    Attributes:
        steps_per_epoch: the number of batches of an epoch; None if it is unknown, or if there are
            no epochs.
        has_epochs: whether there are epochs.
        at_once: the largest number of steps that one program takes.
        arrays: what all steps have in common, None if nothing.
    """

    steps_per_epoch: int | None
    has_epochs: bool
    at_once: int
    arrays: Any

    def first(self) -> Any:
        """The batch of the first step, for `program.init`."""
        ...

    def spec(self) -> Any:
        """The shapes and types of a batch."""
        ...

    def begin(self, step: int, position: Position | None) -> None:
        """Get ready for the steps after `step`.

        Args:
            step: the number of steps that are done.
            position: the position of the source there, as `position` returned it.
        """
        ...

    def take(self, step: int, count: int) -> Batches:
        """The batches of `count` steps after `step`, or of fewer."""
        ...

    def prepare(self, step: int) -> None:
        """Do what the steps after `step` need on the host, while the device is busy."""
        ...

    def ends_epoch(self) -> bool:
        """Whether an epoch of unknown length ended with the last batch."""
        ...

    def again(self, step: int, count: int, position: Position | None) -> Iterator[Batches] | None:
        """The batches of each of `count` steps after `step` again; None if that is impossible.

        Args:
            step: the number of steps that are done there.
            count: the number of steps.
            position: the position of the source there, None if it is not known.
        """
        ...

    def position(self) -> Position | None:
        """The position of the source; None if it follows from the step."""
        ...

    def close(self) -> None:
        """Release what reading needs."""
        ...


class NoLoader:
    """The loader of a program that makes its own data."""

    def __init__(self) -> None:
        self.steps_per_epoch: int | None = None
        self.has_epochs, self.at_once = False, 1000
        self.arrays: Any = None

    def first(self) -> None:
        """None."""

    def spec(self) -> None:
        """None."""

    def begin(self, step: int, position: Position | None) -> None:
        """Nothing is read."""

    def take(self, step: int, count: int) -> Batches:
        """No items."""
        return Batches(None, count, 1)

    def prepare(self, step: int) -> None:
        """Nothing is needed."""

    def ends_epoch(self) -> bool:
        """There are no epochs."""
        return False

    def again(self, step: int, count: int, position: Position | None) -> Iterator[Batches]:
        """No items for each step."""
        return itertools.repeat(Batches(None, 1, 1), count)

    def position(self) -> None:
        """It follows from the step."""

    def close(self) -> None:
        """Nothing is held."""


class ArrayLoader:
    """Arrays on the device: each step gathers its rows there, in the order of `epoch_order`.

    Args:
        arrays: a pytree of arrays of rows.
        size: the rows of a batch.
        words: of the run's root key.
        placement: where the arrays lie.
    """

    def __init__(self, arrays: Any, size: int, words: np.ndarray, placement: Any) -> None:
        self._total, self._size, self._words = row_count(arrays), size, words
        if size > self._total:
            raise ValueError(
                f"batch_size is {size}, but the training data have {self._total} rows; write "
                f"batch_size={self._total} or less"
            )
        self.arrays: Any = placement.put(arrays)
        self._steps = self.at_once = self._total // size
        self.steps_per_epoch: int | None = self._steps
        self.has_epochs = True
        self._drawn: tuple[int, Any] = (-1, None)

    def first(self) -> Any:
        """The batch of the first step."""
        chosen = self._rows(0, 1)[0]
        return jax.tree.map(lambda leaf: leaf[chosen], self.arrays)

    def spec(self) -> Any:
        """The shapes and types of a batch."""
        return row_spec(self.arrays, self._size)

    def begin(self, step: int, position: Position | None) -> None:
        """The step says everything."""

    def prepare(self, step: int) -> None:
        """Draw the order of a new epoch."""
        self._order(step // self._steps)

    def take(self, step: int, count: int) -> Batches:
        """The rows of each step."""
        return Batches(self._rows(step, count), count, self._size)

    def ends_epoch(self) -> bool:
        """The step says it."""
        return False

    def again(self, step: int, count: int, position: Position | None) -> Iterator[Batches]:
        """The rows of each step."""
        return (self.take(step + i, 1) for i in range(count))

    def position(self) -> None:
        """It follows from the step."""

    def close(self) -> None:
        """Nothing is held."""

    def _rows(self, step: int, count: int) -> np.ndarray:
        epoch, begin = divmod(step, self._steps)
        table = self._order(epoch)[: self._steps * self._size].reshape(-1, self._size)
        return table[begin : begin + count]

    def _order(self, epoch: int) -> np.ndarray:
        if self._drawn[0] != epoch:
            self._drawn = epoch, epoch_order(self._words, epoch, self._total)
        return self._drawn[1]


class SourceLoader:
    """A source, whose batches a thread reads and puts on the device ahead of the training.

    Args:
        source: the source.
        size: the rows of a batch, of all processes together; None for those of a stream.
        words: of the run's root key.
        placement: where the batches lie.
        check: called with each batch on the host.
    """

    def __init__(
        self,
        source: Any,
        size: int | None,
        words: np.ndarray,
        placement: Any,
        check: Callable[[Any], None],
    ) -> None:
        self._source, self._size, self._words = source, size, words
        self._placement, self._check = placement, check
        self.at_once, self.arrays, self.has_epochs = 1, None, True
        try:
            self.steps_per_epoch: int | None = source.steps_per_epoch(size)
        except NoEpochs:
            self.steps_per_epoch, self.has_epochs = None, False
        self._batches: Any = None

    def first(self) -> Any:
        """The batch of the first step, which stays the next one."""
        self.begin(0, None)
        return self._peek()

    def spec(self) -> Any:
        """The shapes and types of a batch."""
        return self._source.spec(self._size)

    def begin(self, step: int, position: Position | None) -> None:
        """Open the source there and read ahead."""
        if step or self._batches is None:
            self.close()
            self._batches = prefetched(self._open(position), self._placed, ahead=1)

    def take(self, step: int, count: int) -> Batches:
        """The next batch."""
        if self._batches is None:  # the epoch before has ended
            self.begin(0, None)
        batch = self._peek()
        next(self._batches)  # pyright: ignore[reportArgumentType]
        return Batches(batch, 1, row_count(batch))

    def ends_epoch(self) -> bool:
        """Whether no batch is left; the source is then opened again for the next epoch."""
        if self.steps_per_epoch is not None or not self.has_epochs:
            return False
        try:
            self._batches.peek()
            return False
        except StopIteration:
            self.close()
            return True

    def prepare(self, step: int) -> None:
        """A thread reads ahead."""

    def again(self, step: int, count: int, position: Position | None) -> Iterator[Batches] | None:
        """The batches of each step, read again; None if the position there is not known."""
        if not is_resumable(self._source) or (step > 0 and position is None):
            return None

        def read() -> Iterator[Batches]:
            batches = self._open(position)
            try:
                for batch in itertools.islice(batches, count):
                    yield Batches(self._placed(batch), 1, row_count(batch))
            finally:
                batches.close()

        return read()

    def position(self) -> Position | None:
        """The position of the training: batches that were read ahead count as not read."""
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
        self._check(batch)
        return self._placement.put_batch(batch)


def loader_of(
    program: Program, data: Any, size: int | None, words: np.ndarray, placement: Any
) -> tuple[Loader, tuple[Any, ...]]:
    """The loader of a run's data, and the augmentations of its batches.

    Args:
        program: the program, which checks the data.
        data: as for `train.run`.
        size: the rows of a batch; None for 128, and for those of a stream.
        words: of the run's root key.
        placement: where the arrays lie.
    """
    if size is not None:
        check_count(size, "batch_size")
    source, functions = as_source(data), ()
    if isinstance(source, Augmented):
        functions = source.functions
    while isinstance(source, Augmented):
        source = source.source
    if source is None:
        return NoLoader(), functions
    if isinstance(source, Source):
        size = size if size is not None or isinstance(source, Stream) else DEFAULT_SIZE
        check = lambda batch: program.check_data(batch, "a batch of the training data")  # noqa: E731
        return SourceLoader(source, size, words, placement, check), functions
    program.check_data(source, "training data")
    return ArrayLoader(source, size or DEFAULT_SIZE, words, placement), functions


class Steps:
    """The compiled steps of a program on the batches of a loader.

    Args:
        program: the program.
        loader: its batches.
        functions: the augmentations of its batches.
        words: of the run's root key.
        placement: where the state and the batches lie.
    """

    def __init__(
        self, program: Program, loader: Loader, functions: Any, words: Any, placement: Any
    ) -> None:
        structure = jax.tree.structure(program)
        self._numbers = placement.put_numbers(program)
        self._loader, self._words, self._placement = loader, words, placement
        self._gathers = isinstance(loader, ArrayLoader)
        self._static = structure, code_of(program), self._gathers, functions, placement
        self._compiled: Any = None

    def check(self, state: Any, count: int) -> Any:
        """The metrics of `count` steps as shapes; an error for steps that do not fit together.

        It traces the compiled steps, which is not repeated when they run.
        """
        items = self._loader.spec()
        if self._gathers:
            items = jax.ShapeDtypeStruct((count, row_count(items)), jnp.int32)
        else:
            items = self._placement.batch_like(items)
        numbers = jax.ShapeDtypeStruct((count,), jnp.int32)
        arguments = self._numbers, state, self._words, numbers, items, self._loader.arrays
        traced = self._steps_for(state).trace(*arguments)
        _, metrics = traced.out_info
        for name in {"step", "epoch"} & metrics.keys():
            raise ValueError(
                f"the program reports a metric {name!r}, but that is the name of another number in "
                "the records of a run; return it under another name"
            )
        loader = self._loader
        loader.at_once = steps_at_once(
            traced.jaxpr.jaxpr, count, loader.at_once, loader.steps_per_epoch
        )
        return metrics

    def __call__(self, state: Any, step: int, batches: Batches) -> tuple[Any, dict[str, Any]]:
        """The state after the steps, and the metrics of each, stacked."""
        numbers = np.arange(step, step + batches.steps, dtype=np.int32)
        items, arrays = batches.items, self._loader.arrays
        return self._steps_for(state)(self._numbers, state, self._words, numbers, items, arrays)

    def batch(self, batches: Batches) -> Any:
        """The batch of one step."""
        if not self._gathers:
            return batches.items
        return jax.tree.map(lambda leaf: leaf[batches.items[0]], self._loader.arrays)

    def _steps_for(self, state: Any) -> Any:
        """The compiled steps, which keep states where the first one lies."""
        if self._compiled is None:
            self._compiled = _compiled_steps(*self._static, self._placement.layout(state))
        return self._compiled


@remembered
def _compiled_steps(
    structure: Any, code: Any, gathers: bool, functions: Any, placement: Any, layout: Any
) -> Callable[..., Any]:
    """The jitted function (numbers, state, words, steps, items, arrays) of several steps."""

    def run(
        numbers: Any, state: Any, words: Any, steps: Any, items: Any, arrays: Any
    ) -> tuple[Any, Any]:
        program = jax.tree.unflatten(structure, numbers)

        def step(state: Any, given: Any) -> tuple[Any, Any]:
            number, chosen = given
            batch = items
            if gathers:
                batch = jax.tree.map(lambda leaf: leaf[chosen], arrays)
            if functions:
                key = jax.random.fold_in(jax.random.fold_in(kept_key(words), number), 1)
                batch = augmented(functions, key, placement.pinned_batch(batch))
            return placed_step(program, state, batch, placement, layout)

        given = steps, items if gathers else None
        if steps.shape[0] == 1:  # without a loop
            state, metrics = step(state, jax.tree.map(lambda leaf: leaf[0], given))
            return state, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], metrics)
        state, metrics = lax.scan(step, state, given)
        # Again, since XLA may place the results of a loop in another way than its steps.
        return placement.pinned(state, layout), placement.pinned_whole(metrics)

    return jax.jit(run, donate_argnums=1)
