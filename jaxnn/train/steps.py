"""Loaders pass the batches of a run to the compiled steps of its program, in dispatches.

Arrays of rows are on the device, where each step gathers its rows in the order of the epoch. A
source is read ahead in a thread, and gives one batch at a time. A program without data receives
None. The result of a step depends only on the state, the key, the number of the step, and the
batch.

A signal, a display, and hooks that depend on time wait for the end of a dispatch. Its number of
steps is computed from the jaxpr of the steps and not from a clock, so that a resumed run has the
same dispatches as an uninterrupted one.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..data.accept import Augmented, as_source, augmented, unaugmented
from ..data.rows import row_count, row_spec
from ..data.source import NoEpochs, Position, Source, epoch_order, prefetched, whole_batches
from ..data.stream import Stream
from ..inspect.summary import costs
from ..keys import kept_key
from ..validation import positive
from .metrics import check_metric_names
from .program import Program, code_of
from .step import placed_step, remembered

LONGEST = 2.0  # seconds of a dispatch, by an estimate that is too high rather than too low
OPERATIONS = {"cpu": 5e9, "gpu": 1e13, "tpu": 1e13}  # a second
EQUATION = 1e-6  # seconds to begin one
UNKNOWN = 100  # times that a loop of unknown length runs


def steps_at_once(jaxpr: Any, count: int, most: int, steps_per_epoch: int | None) -> int:
    """Return the largest number of steps in one dispatch.

    Args:
        jaxpr: The jaxpr of `count` steps.
        count: Their number.
        most: The largest number that is allowed.
        steps_per_epoch: The steps of an epoch, which dispatches divide evenly if they can, so that
            there is one program; None without epochs.
    """
    platform = jax.default_backend()
    if platform == "cpu" and has_convolution(jaxpr):
        return 1  # XLA computes their gradients ten times slower in a loop on a CPU
    operations = sum(cost for _, cost in costs(jaxpr)) / OPERATIONS.get(platform, 5e9)
    seconds = (operations + EQUATION * sum(times for _, times in _equations(jaxpr))) / count
    most = min(most, max(1, math.floor(LONGEST / seconds)) if seconds else most)
    if steps_per_epoch is None:
        return most
    even = (n for n in range(most, most // 4, -1) if steps_per_epoch % n == 0)
    return next(even, most)


def has_convolution(jaxpr: Any) -> bool:
    """Return whether a jaxpr or one inside it has XLA's convolutions and their gradients."""
    return any(e.primitive.name == "conv_general_dilated" for e, _ in _equations(jaxpr))


def _equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Yield the equations of a jaxpr and of those inside it, with how often each runs."""
    from jax.extend.core import jaxprs_in_params  # here: its import is slow

    for equation in jaxpr.eqns:
        yield equation, times
        loops = {"scan": equation.params.get("length", 1), "while": UNKNOWN}
        inside = times * loops.get(equation.primitive.name, 1)
        for inner in jaxprs_in_params(equation.params):
            yield from _equations(inner, inside)


DEFAULT_SIZE = 128  # rows of a batch


class DispatchInput(NamedTuple):
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
        """Prepare for the steps after `step`, at which the source was at `position`."""

    def take(self, step: int, count: int) -> DispatchInput:
        """Return the batches of `count` steps after `step`, or of fewer."""
        return DispatchInput(None, count, 1)

    def prepare(self, step: int) -> None:
        """Prepare the steps after `step` on the host while the device is busy."""

    def ends_epoch(self) -> bool:
        """Return whether an epoch of unknown length ended with the last batch."""
        return False

    def position(self) -> Position | None:
        """Return the position of the source; None if it follows from the step."""

    def close(self) -> None:
        """Release the resources of reading."""


@jax.jit
def _rows(arrays: Any, chosen: Any) -> Any:
    """Return the chosen rows of each array."""
    return jax.tree.map(lambda leaf: leaf[chosen], arrays)


class ArrayLoader(Loader):
    """Arrays on the device: each step gathers its rows there, in the order of `epoch_order`.

    Args:
        arrays: A pytree of arrays of rows.
        size: The rows of a batch.
        words: The words of the run's root key.
        placement: Where the arrays are.
    """

    has_epochs = True

    def __init__(self, arrays: Any, size: int, words: np.ndarray, placement: Any) -> None:
        self._total, self._size, self._words = row_count(arrays), size, words
        whole_batches(self._total, size)  # raises
        self.arrays: Any = placement.put(arrays)
        self._steps = self._total // size
        self.at_once: int = self._steps
        self.steps_per_epoch: int | None = self._steps
        self._drawn: tuple[int, Any] = (-1, None)

    def first(self) -> Any:
        """Return the batch of the first step."""
        return _rows(self.arrays, self.take(0, 1).items[0])

    def spec(self) -> Any:
        """Return the shapes and types of a batch."""
        return row_spec(self.arrays, self._size)

    def prepare(self, step: int) -> None:
        """Draw the order of a new epoch."""
        epoch = step // self._steps
        if self._drawn[0] != epoch:
            order = epoch_order(self._words, epoch, self._total)
            self._drawn = epoch, order[: self._steps * self._size].reshape(-1, self._size)

    def take(self, step: int, count: int) -> DispatchInput:
        """Return the rows of each step."""
        self.prepare(step)
        begin = step % self._steps
        return DispatchInput(self._drawn[1][begin : begin + count], count, self._size)


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

    def __init__(
        self, source: Any, size: int | None, words: Any, placement: Any, program: Program
    ) -> None:
        self._source, self._size, self._words = source, size, words
        self._placement, self._program = placement, program
        with contextlib.suppress(NoEpochs):
            self.steps_per_epoch: int | None = source.steps_per_epoch(size)
            self.has_epochs: bool = True
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

    def take(self, step: int, count: int) -> DispatchInput:
        """Return the next batch."""
        self.begin(0, None)  # if the epoch before has ended
        batch = self._peek()
        next(self._batches)
        return DispatchInput(batch, 1, row_count(batch))

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
        placement: Where the arrays are.
    """
    size = size if size is None else positive(size, "batch_size")
    source = as_source(data)
    functions = source.functions if isinstance(source, Augmented) else ()
    source = unaugmented(source)
    if source is None:
        return Loader(), functions
    if isinstance(source, Source):
        size = size if isinstance(source, Stream) else size or DEFAULT_SIZE
        return SourceLoader(source, size, words, placement, program), functions
    program.check_data(source, "training data")
    return ArrayLoader(source, size or DEFAULT_SIZE, words, placement), functions


class Steps:
    """The compiled steps of a program on the batches of a loader.

    Args:
        program: The program.
        loader: Its batches.
        functions: The augmentations of its batches.
        words: The words of the run's root key.
        placement: The placement of the state and the batches.
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
        """Return the metrics of `count` steps as shapes, and raise for steps that cannot run.

        The compiled steps are traced, which is not repeated when they run.

        Args:
            state: The state before the first step.
            count: The number of steps.
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
        check_metric_names(metrics, ("step", "epoch"), "the program")
        loader = self._loader
        loader.at_once = steps_at_once(
            traced.jaxpr.jaxpr, count, loader.at_once, loader.steps_per_epoch
        )
        return metrics

    def __call__(self, state: Any, step: int, batches: DispatchInput) -> tuple[Any, dict[str, Any]]:
        """Return the state after the steps, and the metrics of each, stacked.

        Args:
            state: The state before them.
            step: The number of steps before them.
            batches: Their batches.
        """
        numbers = np.arange(step, step + batches.steps, dtype=np.int32)
        items, arrays = batches.items, self._loader.arrays
        return self._steps_for(state)(self._numbers, state, self._words, numbers, items, arrays)

    def _steps_for(self, state: Any) -> Any:
        """Return the compiled steps, which keep states where the first one is."""
        if self._compiled is None:
            self._compiled = _compiled_steps(*self._static, self._placement.layout(state))
        return self._compiled


@remembered
def _compiled_steps(
    structure: Any, code: Any, gathers: bool, functions: Any, placement: Any, layout: Any
) -> Callable[..., Any]:
    """Return the jitted function (numbers, state, words, steps, items, arrays) of steps."""

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
        # Pin again, because XLA may place the results of a loop differently from its steps.
        return placement.pinned(state, layout), placement.pinned_whole(metrics)

    return jax.jit(run, donate_argnums=1)
